"""The miniature judge: what it is told and says, its size, and that it learns, resumes and is opened like any judge."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tastemaker.data.ratings import Rating
from tastemaker.errors import UserMistake
from tastemaker.miniature.judge.describing import captioned
from tastemaker.miniature.judge.language import DIRECT, RUBRICS, THINKING, QuickProcessor, as_picture
from tastemaker.miniature.judge.looking import Looking, by_picture
from tastemaker.miniature.judge.matching import Matching, Shown, held, request_of, same, shown
from tastemaker.miniature.judge.model import new_judge, open_judges
from tastemaker.miniature.judge.naming import Naming
from tastemaker.miniature.judge.train import JudgeTrainer, Plan, by_dimension, train
from tastemaker.miniature.raters.rationale import WORDS
from tastemaker.miniature.world.wording import unknown_pieces
from tastemaker.rewards.judge import Question
from tastemaker.rewards.readout import QuestionEncoder, ReadOut
from tastemaker.rewards.vlm import VLMJudge
from tastemaker.runtime.distributed import Ranks
from tastemaker.runtime.metrics import read_lines
from tastemaker.training.reward_model import Rated, save_judge
from twins import Twin

SMALL = Plan(
    seeing_steps=1,
    naming=2,
    looking=1,
    comparing_steps=2,
    rating_steps=2,
    describing=3,
    alignment=2,
    aesthetic=1,
    portrait=0,
    instruction=1,
    captions=1,
    comparing=2,
    matching=1,
    save_every=2,
)
LOOSE = ReadOut(chain_of_thought=False, min_mass=1e-9)


@pytest.fixture(scope="module")
def vlm():
    return new_judge()


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("ratings"), np.random.default_rng(0)
    for name in "abcs":
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    told = [("alignment", "a", 4), ("alignment", "b", 1), ("aesthetic", "c", 2), ("instruction", "a", 5)]
    return by_dimension(
        [
            Rating(
                f"r{n}",
                str(folder / f"{picture}.png"),
                "make the star red",
                dimension,
                {"sim-00": score, "sim-01": score},
                sources=(str(folder / "s.png"),) if dimension == "instruction" else (),
                rationale="one of two facts hold",
            )
            for n, (dimension, picture, score) in enumerate(told)
        ]
    )


def question(name: str) -> Question:
    rng = np.random.default_rng(1)
    one, two = (Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(2))
    return Question("q", 'a sign that says "HSOA" in red', one, (two,) if name == "instruction" else ())


@pytest.mark.parametrize("name", ["alignment", "instruction"])
@pytest.mark.parametrize("read_out", [DIRECT, THINKING])
def test_the_quick_encoder_equals_the_processor(vlm, name, read_out):
    encoder = QuestionEncoder(vlm.processor, RUBRICS[name], read_out)
    encoder.reason("one of two facts hold")  # tokenises without control tokens, which must not last
    quick = encoder.row(question(name))
    slow = QuestionEncoder(vlm.processor.processor, RUBRICS[name], read_out).row(question(name))
    assert quick.keys() == slow.keys() and all(torch.equal(quick[key], slow[key]) for key in slow)
    assert quick["input_ids"].shape[1] < 80


def test_other_sizes_go_to_the_processor(vlm):
    picture = Image.new("RGB", (32, 48))
    row = QuestionEncoder(vlm.processor, RUBRICS["alignment"], DIRECT).row(Question("q", "a star", picture))
    assert row["image_grid_thw"].tolist() != [[1, 8, 8]]


def test_words_and_sentences_are_one_token_each(vlm):
    one_each = [DIRECT.instruction, THINKING.instruction, THINKING.stop, *WORDS, *(f" {word}" for word in WORDS)]
    assert all(len(vlm.tokenizer(text).input_ids) == 1 for text in one_each)


def test_four_dimensions_fit_into_twelve_mebibytes(vlm):
    assert 2 * sum(value.numel() for value in vlm.model.parameters()) < 11.5 * 2**20
    assert len({rubric.text for rubric in RUBRICS.values()}) == 4


def test_captions_are_of_the_world_and_the_same_each_time():
    (one, text), (two, again) = (captioned(np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one, two) and text == again and not unknown_pieces(text)


def test_it_learns_and_resumes_to_the_same_weights(tmp_path, examples):
    whole = JudgeTrainer(new_judge(), examples, SMALL)
    train(whole, tmp_path / "whole")
    lines = read_lines(tmp_path / "whole" / "log.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert {
        "naming_loss",
        "aesthetic_looks",
        "caption_loss",
        "alignment_loss",
        "aesthetic_loss",
        "instruction_loss",
        "alignment_rationale_loss",
    } <= {k for x in lines for k in x}
    parts = JudgeTrainer(new_judge(), examples, SMALL)
    stop = RuntimeError("pulled the plug")
    with pytest.raises(RuntimeError, match="plug"):
        parts.step = _failing(parts.step, 4, stop)
        train(parts, tmp_path / "parts")
    again = JudgeTrainer(new_judge(seed=9), examples, SMALL)
    train(again, tmp_path / "parts")
    for name, value in whole.ema.items():
        assert torch.equal(value, again.ema[name]), name


def test_the_loss_falls(examples):
    only: dict[str, Any] = {"seeing_steps": 0, "comparing_steps": 0, "rating_steps": 20}
    only |= {"alignment": 4, "aesthetic": 0, "instruction": 0, "rating_rate": 1.0}
    trainer = JudgeTrainer(new_judge(), examples, replace(SMALL, **only))
    losses = [trainer.step(step)["alignment_score_loss"] for step in range(1, 11)]
    assert losses[-1] < 0.7 * losses[0]


def test_processes_share_the_examples_and_take_the_mean_of_their_gradients(examples, tmp_path):
    shared, alone = SMALL.share(Twin(1, 2)), SMALL.share(Ranks(1, 1))
    assert shared.naming == SMALL.naming // 2 and shared.portrait == SMALL.portrait
    assert shared.seed == alone.seed != SMALL.seed == SMALL.share(Twin(0, 2)).seed
    both = JudgeTrainer(new_judge(), examples, shared, ranks=Twin(1, 2))
    one = JudgeTrainer(new_judge(), examples, shared)
    other = JudgeTrainer(new_judge(), examples, SMALL)
    for trainer in (both, one, other):
        trainer.step(1)
    assert all(torch.allclose(value, one.ema[name], atol=1e-7) for name, value in both.ema.items())
    assert any(not torch.equal(value, other.ema[name]) for name, value in both.ema.items())
    train(both, tmp_path)
    assert not list(tmp_path.iterdir())  # the first process writes


def _failing(step, at, error):
    def one(number):
        if number == at:
            raise error
        return step(number)

    return one


def test_what_is_saved_is_opened_by_anyone(tmp_path, vlm, examples):
    folder = save_judge(tmp_path / "judge", vlm, RUBRICS["alignment"], LOOSE)
    asked = [one.question for one in examples["alignment"]]
    judges = open_judges(folder, ("alignment", "aesthetic"), LOOSE)
    assert judges["alignment"].vlm is judges["aesthetic"].vlm and judges["aesthetic"].name == "aesthetic"
    assert isinstance(judges["alignment"].vlm.processor, QuickProcessor)
    quick = [answer.score for answer in judges["alignment"].answer(asked)]
    assert [a.score for a in VLMJudge.load(folder).answer(asked)] == pytest.approx(quick, abs=1e-5)
    assert [a.score for a in judges["aesthetic"].answer(asked)] != pytest.approx(quick, abs=1e-6)
    assert judges["alignment"].fingerprint != judges["aesthetic"].fingerprint


def test_a_dimension_without_ratings_is_named(vlm, examples):
    with pytest.raises(UserMistake, match="no ratings of portrait"):
        JudgeTrainer(vlm, examples, Plan())
    with pytest.raises(UserMistake, match="judge plan"):
        Plan(precision="float64")


def test_each_part_trains_what_it_is_about(examples):
    """The eye alone; then all but the eye's own layers; then everything, from the averages of the part before."""
    trainer = JudgeTrainer(new_judge(), examples, SMALL)

    def moved(step: int) -> set[str]:
        before = {name: value.detach().clone() for name, value in trainer.vlm.core.named_parameters()}
        trainer.step(step)
        changed = {name for name, value in trainer.vlm.core.named_parameters() if not torch.equal(value, before[name])}
        return {"merger" if "merger" in name else name.split(".")[1] for name in changed}

    assert moved(1) == {"visual", "merger"}
    average = {name: value.clone() for name, value in trainer.ema.items()}
    compare, trainer._compare = trainer._compare, lambda step: {}
    trainer.step(2)  # learns nothing, and so shows what the part begins with
    live = dict(trainer.vlm.model.named_parameters())
    assert all(torch.equal(value, live[name]) for name, value in average.items())
    trainer._compare = compare
    assert moved(3) == {"language_model", "merger"}
    assert moved(5) == {"language_model", "visual", "merger"}
    assert [SMALL.part_of(step) for step in (1, 2, 4)] == [("seeing", 1, 1), ("comparing", 1, 2), ("rating", 1, 2)]
    with pytest.raises(ValueError, match="behind the last"):
        SMALL.part_of(6)


def test_all_that_was_said_of_a_picture_is_learnt_from_one_look(tmp_path):
    """Ratings of several dimensions, as a sitting leaves them: each has an id of its own."""
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "b.png")
    told = [("a", "quality"), ("a", "fidelity"), ("a", "aesthetic"), ("b", "aesthetic"), ("a", "alignment")]
    ratings = [
        Rating(f"{name}-{dimension}", str(tmp_path / f"{name}.png"), "a star", dimension, {"sim-00": 3, "sim-01": 4})
        for name, dimension in told
    ]
    shown = by_picture(by_dimension(ratings))
    assert [{*one} for one in shown] == [{"quality", "fidelity", "aesthetic"}, {"aesthetic"}]
    assert {name: len(loss) for name, loss in Looking(new_judge()).losses(shown).items()} == {
        "quality": 1,
        "fidelity": 1,
        "aesthetic": 2,
    }


def test_the_eye_alone_learns_scores_that_need_no_words():
    """Dark pictures are rated 1, bright ones 5; nothing but the eye gets a gradient, and the scores of the two part."""
    judge = new_judge()
    looking = Looking(judge)
    pictures = [Image.new("RGB", (64, 64), (shade, shade, shade)) for shade in (20, 230)]
    rated = [Rated.of(Question(str(n), "", picture), [1 + 4 * n] * 3) for n, picture in enumerate(pictures)]
    shown = by_picture({"aesthetic": rated, "quality": rated[:1], "alignment": rated})
    assert [{*one} for one in shown] == [{"quality", "aesthetic"}, {"aesthetic"}]
    optimiser = torch.optim.Adam([*judge.core.model.visual.parameters(), *looking.heads.parameters()], 1e-3)
    assert {name: loss.tolist() for name, loss in looking.losses(shown).items()} == {
        "aesthetic": pytest.approx([math.log(5)] * 2, abs=1e-5),
        "quality": pytest.approx([math.log(5)], abs=1e-5),
    }
    for _ in range(30):
        optimiser.zero_grad()
        looking.losses(shown)["aesthetic"].mean().backward()
        optimiser.step()
    assert looking.losses(shown)["aesthetic"].max() < 0.3
    assert {name.split(".")[1] for name, p in judge.core.named_parameters() if p.grad is not None} == {"visual"}
    with pytest.raises(ValueError, match="how its raters differ"):
        looking.losses([{"aesthetic": Rated(rated[0].question, 3.0)}])


def test_a_wrong_word_spoils_the_rest_of_its_phrase_and_no_other():
    own, request = ["a", "red", "circle", "and", "a", "star"], ["a", "blue", "circle", "and", "a", "star"]
    ids = {word: number for number, word in enumerate({*own, *request})}
    found = held([ids[w] for w in own], [ids[w] for w in request], frozenset({ids["and"], ids["a"]}))
    assert found == [True, False, False, True, True, True]


def test_requests_are_held_against_pictures_of_the_training_split():
    requests = [request_of(np.random.default_rng(seed)) for seed in range(60)]
    assert 8 <= sum(own == request for _, own, request in requests) <= 30
    assert all(picture.shape == (64, 64, 3) for picture, _, _ in requests)
    matching = Matching(new_judge(), seed=0)
    first, again = (matching.losses(6, 5, torch.float32) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) and first[name].shape == (6,) for name in ("answer", "words"))
    assert all(bool(loss.isfinite().all()) for loss in first.values())


def test_an_edit_is_done_when_its_output_is_the_target_and_not_otherwise():
    cases = [shown(np.random.default_rng(seed)) for seed in range(200)]
    edits = [case for case in cases if case.question.sources]
    assert 75 <= len(edits) <= 125 and all(case.own is None for case in edits)
    assert 0.2 <= np.mean([case.holds for case in edits]) <= 0.7
    untouched = [case for case in edits if np.array_equal(case.question.picture, case.question.sources[0])]
    assert untouched and not any(case.holds for case in untouched)


def test_the_places_that_an_edit_touched_are_told_token_by_token():
    """The labels of the output's own tokens, not the source's, in rows padded to one length; wear is no touch."""
    source = np.zeros((64, 64, 3), np.uint8)
    output = source.copy()
    output[50:60, 20:30] = 200  # in the last row of tokens, the second of four
    kept = same(source, output)
    assert [place for place, as_before in enumerate(kept) if not as_before] == [13]
    judge = new_judge()
    matching = Matching(judge, seed=0)
    before, after = as_picture(source), as_picture(output)
    cases = [
        Shown(Question("e", "make the sky red and remove the tree", after, (before,)), False, kept=kept),
        Shown(Question("c", "a red circle", after), False, own="a blue circle"),
    ]
    rows = [matching._row(case) for case in cases]
    labels = matching._labels(cases, rows)
    pictures = torch.nn.functional.pad(rows[0]["mm_token_type_ids"][0], (labels.shape[1] - rows[0]["input_ids"].shape[1], 0))
    assert labels[0][pictures == 1].tolist() == [-1] * 16 + [int(one) for one in kept]
    assert (labels[0] >= 0).sum() == 16 and (labels[1] == 0).any() and not (labels[1][-3:] >= 0).any()
    edits = [case for case in (shown(np.random.default_rng(seed)) for seed in range(80)) if case.question.sources]
    assert all(len(case.kept) == 16 for case in edits) and {len(set(case.kept)) for case in edits} == {1, 2}


def test_words_are_read_one_layer_before_the_answer():
    """What the last layer does can change the answer and no word's verdict."""
    judge = new_judge()
    matching = Matching(judge, seed=0)
    before = matching.losses(6, 1, torch.float32)
    with torch.no_grad():
        for parameter in judge.core.model.language_model.layers[-1].parameters():
            parameter.mul_(1.5)
    after = matching.losses(6, 1, torch.float32)
    assert torch.equal(before["words"], after["words"]) and not torch.allclose(before["answer"], after["answer"])


def test_naming_learns_what_is_there_from_the_eye_alone():
    """A red and a blue picture are told apart by name; nothing but the eye gets a gradient, not even the words' embeddings."""
    judge = new_judge()
    judge.model.requires_grad_(True)

    def drawer(rng):
        colour = ("red", "blue")[int(rng.integers(2))]
        picture = np.zeros((64, 64, 3), np.uint8)
        picture[..., 0 if colour == "red" else 2] = 255
        return picture, f"a {colour} square"

    naming = Naming(judge, drawer, seed=0)
    optimiser = torch.optim.Adam([*judge.core.model.visual.parameters(), *naming.sureness.parameters()], 3e-3)
    first = naming.loss(16, 1).mean()
    for step in range(40):
        optimiser.zero_grad()
        naming.loss(16, step).mean().backward()
        optimiser.step()
    assert naming.loss(16, 99).mean() < 0.3 * first
    touched = {name.split(".")[1] for name, p in judge.core.named_parameters() if p.grad is not None}
    assert touched == {"visual"}
