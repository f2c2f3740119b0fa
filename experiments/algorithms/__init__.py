"""Which algorithm comes furthest in the same time: GRPO, GRPO-Guard or DiffusionNFT?

    grpo         the clipped surrogate on the three noisiest of a rollout's steps
    grpo-guard   the same, with the log ratio of each step normalised (`algorithm.ratio_norm`)
    nft          DiffusionNFT with the settings of the recipe `miniature-t2i`

Prompts, pictures a step, guidance, rewards, updates a rollout and averaged weights are the recipe's in all of them; each
algorithm has a learning rate of its own. An arm trains until it has spent the seconds of the design, and is compared where it
stood at that moment, in a straight line between the points before and after. Seconds are those of training alone, without what
is drawn of the held-out prompts.
"""
