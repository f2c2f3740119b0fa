"""Does training on all steps, low noise included, buy the reward at the cost of truth, and training on high noise alone not?

    grpo, all noise     every step but the last is stochastic and trained
    grpo, high noise    the noisiest few
    grpo, low noise     as few, from the second half: what is due to their place, and what to their number
    nft, all noise      points of the forward process from all of its noise levels
    nft, high noise     from sigma 0.6 up
    nft, low noise      below sigma 0.4

The reward is a proxy that can be hacked: half saturation, half clean drawing, both blind to what was asked for. Nothing in it
knows the truth, which is read along the way: whether every fact of a held-out prompt holds, and whether held-out edits, which
are not trained on, still do what they say. Everything else is equal inside an algorithm: settings, seeds, prompts, pictures,
steps, held-out prompts and their noise. Guidance is off throughout. The two algorithms have settings of their own and are not
compared.
"""
