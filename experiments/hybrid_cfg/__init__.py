"""Guidance in the rollout alone, in rollout and training, in neither: what is learnt, what is lost, and which is stable?

    hybrid        rollout guided, the guidance frozen in the trained policy; the unconditional branch is not trained
    both          rollout guided, both branches trained
    none          no guidance anywhere
    conditional   rollout guided, trained as if it had not been (biased)

Training sees two categories in plain style alone. The held-out prompts are of all categories and styles, so that knowledge (the
other categories) and style (prompts that name one) can be lost or kept. Everything else is equal: settings, seeds, training
prompts, steps, held-out prompts and their noise. All arms are drawn with guidance and without, whatever they were trained with.
"""
