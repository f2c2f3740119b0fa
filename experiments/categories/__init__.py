"""Are weights by category better than one weight vector for all prompts?

    uniform       facts 0.9, quality 0.1 for every prompt (those of miniature-t2i)
    by category   what a category lacks counts more there; over all categories the weights are about as before

Everything else is equal: the settings of miniature-t2i, prompts, seeds, steps, held-out prompts and their noise. Training and
its prompts differ by seed. The weights by category were written down before any run, and are not fitted to its result.
"""
