"""Simulated raters: scores and pair votes in the files real ones would leave, from the oracle's truth and a documented taste.

    prompts -> pictures of varying quality -> truth -> a panel with its own severities and noise -> ratings.jsonl, votes.jsonl

Nobody here is a person, and whatever is shown of these numbers says so. Only this folder and the evaluation read the truth.
"""
