"""Which judge agrees better with the hidden truth: one trained on single ratings, or one trained on votes between two pictures?

    pointwise   the expectation over five score tokens, regressed on the raters' mean             (Eq. 3, Eq. 2)
    pairwise    Bradley-Terry on the difference of two such expectations, ties one half           (Eq. 3, Eq. 1)

What makes the two comparable:

- **Same pictures, same simulated raters.** Every picture of every prompt is in both arms, and each arm asks the same panel. A
  seed has a panel of its own. A vote is on one dimension, as a rating is: the panel's overall votes (votes.jsonl) mix content,
  structure and appeal, which no single rating does, so each rater is asked `panel.choice` with that dimension alone.
- **Same number of judgements.** A rating of one picture is one judgement, and so is a vote on two. With K pictures of a prompt,
  r ratings of each picture cost K r; 2 r / (K - 1) votes on each of the K (K - 1) / 2 pairs cost as much.
- **Same number of pictures through the network**, at every update: a batch of B pictures is B ratings or B / 2 pairs. Every
  picture passes equally often in both arms. There are enough updates to see every vote once.
- **Same start**: for each seed one model that has learnt to see, by captions, and to hold requests against pictures. Both arms
  go on from its weights, which come from no rating and no vote.
- **Same optimiser, schedule, read-out and averaging of weights.** No setting was chosen for either arm: they are the miniature
  judge's defaults. Both losses carry the same small weight on the probability of the five tokens together.

What it cannot say: a vote may take a person less time than a rating, or more; here both cost one. The raters are simulated,
with the miniature's noise: a vote carries 0.6 of the noise of a score, no severity and no rounding, but ties within a margin.
Other raters may turn the result.
"""
