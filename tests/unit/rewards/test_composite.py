"""Who is asked, when, what a gate does, and that not asked, missing and a number stay three different things."""

import math
import subprocess
import sys
import threading
import time

import pytest
import torch

from tastemaker.errors import ServiceFailed
from tastemaker.flow.advantage import group_advantages
from tastemaker.rewards import composite
from tastemaker.rewards.composite import Composite, Gate, commonest_reasons, missing_share
from tastemaker.rewards.reward import Missing, NotAsked
from tastemaker.types import Prompt, Scores

NAN = math.nan


class Told:
    """Gives each picture the score written for its prompt's id, and keeps the ids it was asked about."""

    low, high, floor = 1.0, 5.0, 0.1

    def __init__(self, name, **answers):
        self.name, self.answers, self.asked = name, answers, []

    def score(self, images, prompts):
        self.asked += [prompt.id for prompt in prompts]
        return [self.answers.get(prompt.id, 3.0) for prompt in prompts]


PROMPTS = [Prompt("a", "a face", "portrait"), Prompt("b", "a sign", "typography"), Prompt("c", "a hill", "landscape")]
IMAGES = torch.rand(3, 3, 4, 4)


def panel(*gates, alignment=None, portrait=None, objects=None):
    return Composite(
        (alignment or Told("alignment"), portrait or Told("portrait"), objects or Told("objects")),
        weights=(1.0, 0.0, 0.0),
        categories={"portrait": (0.4, 0.6, 0.0), "typography": (0.75, 0.0, 0.25)},
        gates=gates,
    )


def test_each_prompt_has_the_weights_of_its_category_or_the_default_ones():
    assert panel().weights_BR(PROMPTS).tolist() == [[0.4, 0.6, 0.0], [0.75, 0.0, 0.25], [1.0, 0.0, 0.0]]
    assert panel().weights_BR([]).shape == panel().asked_BR([]).shape == (0, 3)


EDITS = [Prompt(p.id, p.text, p.category, "edit", ("a.png",)) for p in PROMPTS]


def test_the_most_exact_name_of_a_prompt_has_its_weights():
    """edit/portrait before edit before portrait; a task does not touch the other one."""
    weights = {"portrait": (0.4, 0.6, 0.0), "edit": (0.0, 0.0, 1.0), "edit/landscape": (0.5, 0.0, 0.5)}
    composite = Composite((Told("alignment"), Told("portrait"), Told("objects")), (1.0, 0.0, 0.0), weights)
    assert composite.weights_BR(PROMPTS).tolist() == [[0.4, 0.6, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    assert composite.weights_BR(EDITS).tolist() == [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.5, 0.0, 0.5]]
    assert composite.asked_BR([PROMPTS[0], EDITS[0]]).tolist() == [[True, True, False], [False, False, True]]


@pytest.mark.parametrize(
    ("named", "holds"), [("edit", [1, 1, 1]), ("edit/portrait", [1, 0, 0]), ("portrait", [1, 0, 0]), ("t2i", [0] * 3)]
)
def test_a_gate_may_be_for_a_task(named, holds):
    gate = Gate("alignment", "objects", 2.0, 2.0, frozenset({named}))
    composite = Composite((Told("alignment"), Told("portrait"), Told("objects")), (1.0, 0.0, 0.0), gates=(gate,))
    assert composite.asked_BR(EDITS)[:, 2].int().tolist() == holds


def test_a_reward_without_weight_is_not_asked_and_that_is_not_missing():
    portrait, objects = Told("portrait", a=4.0), Told("objects")
    scores = panel(portrait=portrait, objects=objects).score(IMAGES, PROMPTS)
    assert portrait.asked == ["a"] and objects.asked == ["b"]
    torch.testing.assert_close(scores.values_BR, torch.tensor([[3, 4, NAN], [3, NAN, 3], [3, NAN, NAN]]), equal_nan=True)
    assert scores.missing == {} and missing_share(scores) == 0


def test_a_reward_nobody_needs_is_not_called_at_all():
    class Absent(Told):
        def score(self, images, prompts):
            raise AssertionError("asked in vain")

    panel(portrait=Absent("portrait")).score(IMAGES[1:], PROMPTS[1:])


def test_missing_scores_are_counted_over_those_asked_for():
    scores = panel(portrait=Told("portrait", a=Missing("timed out"))).score(IMAGES, PROMPTS)
    assert scores.missing == {(0, "portrait"): "timed out"}
    assert missing_share(scores) == 1 / 5
    assert commonest_reasons(scores) == "portrait: timed out (1 times)"
    assert missing_share(Scores(("a",), torch.full((2, 1), NAN))) == 0


def test_a_reason_names_the_row_of_the_whole_batch():
    images = IMAGES.clone()
    images[1, 0, 0, 0] = math.inf
    scores = panel(objects=Told("objects", c=9.0)).score(images, PROMPTS)
    assert set(scores.missing) == {(1, "alignment"), (1, "objects")}


@pytest.mark.parametrize(
    "objects, alignment, expected",
    [
        (1.5, 4.5, 2.0),  # the gate fails: capped
        (2.0, 4.5, 4.5),  # at the threshold it holds
        (1.5, 1.2, 1.2),  # what is below the cap stays
        (5.0, 4.5, 4.5),
    ],
)
def test_a_gate_caps_and_never_raises(objects, alignment, expected):
    composite = panel(
        Gate("alignment", "objects", below=2.0, cap=2.0),
        alignment=Told("alignment", c=alignment),
        objects=Told("objects", c=objects),
    )
    scores = composite.score(IMAGES, PROMPTS)
    assert scores.values_BR[2, 2] == objects, "a gate with weight 0 is asked"
    gated = composite.gated(scores, PROMPTS)
    assert gated.values_BR[2, 0] == torch.tensor(expected) and not gated.missing
    assert scores.values_BR[2, 0] == torch.tensor(alignment), "what the judges said is left alone"


def test_a_threshold_is_compared_in_the_precision_of_the_scores():
    composite = panel(Gate("alignment", "objects", below=4.7, cap=2.0), objects=Told("objects", a=4.7, b=4.7, c=4.7))
    assert composite.gated(composite.score(IMAGES, PROMPTS), PROMPTS).values_BR[:, 0].tolist() == [3.0] * 3


class Sometimes(Told):
    """Is not asked by the first prompt, and fails at the second."""

    def score(self, images, prompts):
        say = {"a": NotAsked("nothing to see"), "b": Missing("asleep")}
        return [say.get(prompt.id, score) for prompt, score in zip(prompts, super().score(images, prompts), strict=True)]


def test_what_a_reward_was_not_asked_has_no_weight_and_caps_nothing():
    """Whereas what is missing keeps its weight: the advantage, and the monitor, know what to do about it."""
    gate = Gate("alignment", "portrait", below=9.0, cap=1.0)
    composite = Composite((Told("alignment"), Sometimes("portrait")), (0.6, 0.4), gates=(gate,))
    scores = composite.score(IMAGES, PROMPTS)
    assert scores.values_BR[:, 1].isnan().tolist() == [True, True, False]
    assert scores.missing == {(1, "portrait"): "asleep"} and missing_share(scores) == pytest.approx(1 / 5)
    assert composite.counting_BR(scores, PROMPTS).tolist() == [[1.0, 0.0], [0.6, 0.4], [0.6, 0.4]]
    gated = composite.gated(scores, PROMPTS)
    assert gated.values_BR[0, 0] != 1 and gated.values_BR[2, 0] == 1
    assert set(gated.missing) == {(1, "portrait"), (1, "alignment")}
    alone = Composite((Sometimes("portrait"),), (1.0,))
    assert alone.counting_BR(alone.score(IMAGES, PROMPTS), PROMPTS).tolist() == [[1.0]] * 3


def test_the_lowest_cap_of_several_failing_gates_holds_in_any_order():
    gates = [
        Gate("alignment", "objects", 2.0, 2.5),
        Gate("alignment", "objects", 1.5, 1.5),
        Gate("alignment", "portrait", 2.0, 2.0),
    ]
    for order in (gates, gates[::-1]):
        composite = panel(*order, objects=Told("objects", a=1.8, b=1.2), portrait=Told("portrait", a=1.0))
        gated = composite.gated(composite.score(IMAGES, PROMPTS), PROMPTS)
        assert gated.values_BR[:, 0].tolist() == [2.0, 1.5, 3.0]


def test_gates_read_what_the_judge_said_so_a_chain_does_not_run_through():
    composite = Composite(
        (Told("a", p=1.0), Told("b", p=4.0), Told("c", p=4.0)),
        weights=(0.2, 0.4, 0.4),
        gates=(Gate("b", "a", below=2.0, cap=1.5), Gate("c", "b", below=3.0, cap=1.0)),
    )
    prompts = [Prompt("p", "x")]
    assert composite.gated(composite.score(IMAGES[:1], prompts), prompts).values_BR.tolist() == [[1.0, 1.5, 4.0]]


def test_without_its_gate_a_score_is_missing_for_that_reason():
    objects = Told("objects", a=Missing("timed out"), b=Missing("timed out"), c=1.0)
    composite = panel(
        Gate("alignment", "objects", 2.0, 2.0), alignment=Told("alignment", b=Missing("no digit")), objects=objects
    )
    scores = composite.score(IMAGES, PROMPTS)
    gated = composite.gated(scores, PROMPTS)
    torch.testing.assert_close(gated.values_BR[:, 0], torch.tensor([NAN, NAN, 2.0]), equal_nan=True)
    assert gated.missing[0, "alignment"] == "its gate objects is missing: timed out"
    assert gated.missing[1, "alignment"] == "no digit", "its own reason comes first"
    assert len(scores.missing) == 3 and composite.capped(scores, gated) == {"alignment": 1 / 2}


def test_a_gate_for_some_categories_leaves_the_others_alone_and_unasked():
    objects = Told("objects", b=1.0)
    composite = panel(Gate("alignment", "objects", 2.0, 2.0, frozenset({"typography"})), objects=objects)
    gated = composite.gated(composite.score(IMAGES, PROMPTS), PROMPTS)
    assert objects.asked == ["b"] and gated.values_BR[:, 0].tolist() == [3.0, 2.0, 3.0]


def test_a_gate_of_a_reward_that_does_not_count_is_not_asked():
    objects = Told("objects")
    composite = panel(Gate("portrait", "objects", 2.0, 2.0), objects=objects)
    gated = composite.gated(composite.score(IMAGES, PROMPTS), PROMPTS)
    assert objects.asked == ["a", "b"] and not gated.missing
    assert composite.capped(gated, gated) == {"portrait": 0.0}


def test_what_is_not_asked_takes_no_part_in_the_advantage():
    prompts = [prompt for prompt in (PROMPTS[0], PROMPTS[2]) for _ in range(2)]
    composite = panel()
    values = torch.tensor([[1.0, 2.0, NAN], [3.0, 2.5, NAN], [1.0, NAN, NAN], [3.0, NAN, NAN]])
    found = group_advantages(
        values, composite.weights_BR(prompts), torch.zeros(3), torch.tensor([0, 0, 1, 1]),
        min_range=0.1, ranges_R2=torch.tensor([[1.0, 5.0]] * 3),
    )  # fmt: skip
    torch.testing.assert_close(found.advantages_B, torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    assert found.kept_B.all()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"weights": (0.5, 0.4)}, "sum to 1"),
        ({"weights": (1.5, -0.5)}, "at least 0"),
        ({"weights": (1.0,)}, "expected 2"),
        ({"categories": {"portrait": (0.5, 0.6)}}, "sum to 1"),
        ({"rewards": (Told("a"), Told("a"))}, "once"),
        ({"gates": (Gate("a", "c", 2.0, 2.0),)}, "two different rewards"),
        ({"gates": (Gate("a", "a", 2.0, 2.0),)}, "two different rewards"),
    ],
)
def test_wrong_composites_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        Composite(**{"rewards": (Told("a"), Told("b")), "weights": (0.5, 0.5)} | change)


def test_one_prompt_for_each_picture():
    with pytest.raises(ValueError, match="3 pictures but 2 prompts"):
        panel().score(IMAGES, PROMPTS[:2])


class Remote(Told):
    """Works elsewhere; does `meanwhile` when it is asked, and keeps the thread it was asked in."""

    remote = True

    def __init__(self, name, meanwhile=lambda: None, **answers):
        super().__init__(name, **answers)
        self.meanwhile, self.thread = meanwhile, None

    def score(self, images, prompts):
        self.thread = threading.current_thread()
        self.meanwhile()
        return super().score(images, prompts)


class Local(Remote):
    remote = False


def weighed(*rewards):
    return Composite(rewards, weights=(1 / len(rewards),) * len(rewards))


def asking():
    """Threads that still ask, after a moment for those that have given their answer to end."""
    ends = time.monotonic() + 10
    while (left := [one for one in threading.enumerate() if one.name.startswith("asking")]) and time.monotonic() < ends:
        time.sleep(0.01)
    return left


def test_remote_rewards_are_asked_at_the_same_time_as_each_other_and_as_the_others():
    meeting = threading.Barrier(3, timeout=60)
    first, here, last = Remote("first", meeting.wait), Local("here", meeting.wait), Remote("last", meeting.wait)
    weighed(first, here, last).score(IMAGES, PROMPTS)
    assert len({first.thread, here.thread, last.thread}) == 3 and not asking()


def test_rewards_that_work_here_are_asked_one_after_the_other_in_the_calling_thread():
    busy = threading.Lock()

    def alone():
        assert busy.acquire(blocking=False)
        time.sleep(0.01)
        busy.release()

    rewards = [Local("a", alone), Remote("b"), Local("c", alone)]
    weighed(*rewards).score(IMAGES, PROMPTS)
    assert rewards[0].thread is rewards[2].thread is threading.current_thread()


@pytest.mark.parametrize("order", ["abc", "cab", "bca"])
def test_whoever_answers_first_scores_and_reasons_are_those_of_asking_in_turn(order):
    """`order` is that in which the answers come."""
    came = {name: threading.Event() for name in order}

    def after(name):
        before = order[: order.index(name)]

        def meanwhile():
            assert all(came[other].wait(60) for other in before)
            came[name].set()

        return meanwhile

    def panel_of(kind, turn):
        answers = {"a": {"a": 1.5, "b": Missing("late")}, "b": {"a": math.inf, "c": 2.0}, "c": {"b": 9.0}}
        rewards = tuple(kind(name, turn(name), **answers[name]) for name in "abc")
        return Composite(rewards, weights=(0.5, 0.5, 0.0), categories={"portrait": (0.2, 0.3, 0.5)})

    expected = panel_of(Local, lambda name: lambda: None).score(IMAGES, PROMPTS)
    found = panel_of(Remote, after).score(IMAGES, PROMPTS)
    assert found.names == expected.names and list(found.missing.items()) == list(expected.missing.items())
    torch.testing.assert_close(found.values_BR, expected.values_BR, equal_nan=True, rtol=0, atol=0)


def test_a_remote_reward_that_nobody_needs_starts_no_thread(monkeypatch):
    monkeypatch.setattr(composite, "in_thread", failing("a thread was started"))
    panel(portrait=Remote("portrait")).score(IMAGES[1:], PROMPTS[1:])


def failing(message):
    def fail(*_):
        raise ServiceFailed(message)

    return fail


def test_an_error_surfaces_when_the_others_have_ended():
    done = threading.Event()

    def slow():
        time.sleep(0.2)
        done.set()

    for broken in (Remote("broken", failing("server lost")), Local("broken", failing("server lost"))):
        done.clear()
        with pytest.raises(ServiceFailed, match="server lost"):
            weighed(Remote("slow", slow), broken).score(IMAGES, PROMPTS)
        assert done.is_set() and not asking()


def test_of_several_errors_the_first_reward_has_its_say():
    with pytest.raises(ServiceFailed, match="one"):
        weighed(Remote("a", failing("one")), Remote("b", failing("two"))).score(IMAGES, PROMPTS)


CTRL_C = """
import os, signal, threading, torch
from tastemaker.rewards import composite
from tastemaker.rewards.composite import Composite
from tastemaker.types import Prompt

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits one that is ignored

class Hung:
    name, low, high, floor, remote = "hung", 0.0, 1.0, 0.1, True
    def score(self, images, prompts):
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        threading.Event().wait()

try:
    Composite((Hung(),), weights=(1.0,)).score(torch.zeros(1, 3, 4, 4), [Prompt("1", "x")])
except KeyboardInterrupt:
    print("stopped")
"""


def test_ctrl_c_does_not_wait_for_a_server_that_hangs():
    ended = subprocess.run([sys.executable, "-c", CTRL_C], capture_output=True, text=True, timeout=250)
    assert (ended.returncode, ended.stdout) == (0, "stopped\n"), ended.stderr


def test_means_by_category_are_over_the_scores_that_are_there():
    """Three rewards; the portrait's second score is missing in one picture, and nobody asked for objects there."""
    prompts = [PROMPTS[0], PROMPTS[0], PROMPTS[1]]
    values = torch.tensor([[1.0, 4.0, NAN], [3.0, NAN, NAN], [2.0, NAN, 5.0]])
    found = panel().by_category(Scores(("alignment", "portrait", "objects"), values, {(1, "portrait"): "late"}), prompts)
    assert found == {
        **{"alignment/portrait": 2.0, "portrait/portrait": 4.0},
        **{"alignment/typography": 2.0, "objects/typography": 5.0},
    }
    assert panel().by_category(Scores(("alignment", "portrait", "objects"), torch.empty(0, 3)), []) == {}


def test_categories_of_two_tasks_are_two():
    """A portrait that was drawn and one that was edited are judged by other rewards, and not averaged."""
    prompts = [Prompt("a", "x", "portrait"), Prompt("b", "x", "portrait", "edit"), Prompt("c", "x", "portrait", "edit")]
    values = torch.tensor([[1.0], [3.0], [5.0]])
    found = panel().by_category(Scores(("alignment", "portrait", "objects"), values.expand(3, 3)), prompts, with_task=True)
    assert found["alignment/t2i/portrait"] == 1.0 and found["alignment/edit/portrait"] == 4.0 and len(found) == 6
