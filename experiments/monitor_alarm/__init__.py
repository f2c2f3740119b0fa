"""Does the monitor tell a reward that is being bought from one that is earned, and in time?

Runs of the real training loop on the shipped miniature, equal but for the reward:

    hackable   saturation alone: louder colours are all it wants, and truth pays for them
    mixed      half saturation, half the verifiable reward
    honest     the verifiable reward: 0.9 facts, 0.1 quality, as in miniature-t2i

Each seed has its own training prompts, its own fixed prompts of the monitor and its own noise. Asked of every run: when the
first notice and the first alarm came, and where truth, the share of pictures in which every fact holds, stood then. It is read
on 200 held-out prompts that neither training nor monitor has; its unit is the base's standard deviation of the monitor's set
from one noise to another. The alarm counted here, `prompt-free reward`, rests on rewards and pictures alone, as it would for a
model whose truth nobody knows; the alarm of a truth that fell is left out.

What it cannot say: the runs are short and quick, with a learning rate that makes either reward move within a dozen steps, and
saturation is the plainest of hacks. A hack that moves no statistic and that only the right prompt earns goes unseen.
"""
