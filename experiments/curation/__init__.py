"""Does choosing prompts by the range of the base's samples bring training sooner to the same truth?

    all       trains on every prompt of the pool
    curated   on the share of it with the largest ranges, as `tastemaker curate --keep` chooses
    random    on as many, chosen at random: what is due to choosing, and what to having fewer prompts

Everything else is equal: settings (those of miniature-t2i), seeds, steps, held-out prompts and their noise. The pool, its
curation and the training differ by seed. The seconds of the curation count for the curated arm.
"""
