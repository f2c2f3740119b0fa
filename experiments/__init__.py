"""Questions that the miniature can answer, since it knows the truth: a package each, run by `python -m experiments.NAME`."""
