import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from tastemaker.errors import ServiceFailed, Stopped
from tastemaker.rewards.background import BackgroundThread, in_thread
from tastemaker.rewards.pipeline import ScoringPipeline, joined
from tastemaker.rewards.reward import FunctionReward, score_all
from tastemaker.types import Prompt, Scores


def means(images, prompts):
    return Scores(("mean",), images.mean((1, 2, 3))[:, None])


def batch(number, count=2):
    return torch.full((count, 3, 4, 4), number / 10), [Prompt(f"{number}/{row}", "text") for row in range(count)]


class Gated:
    """Scores batches, each once it may; remembers how far each came."""

    def __init__(self):
        self.may = threading.Semaphore(0)
        self.began = []

    def __call__(self, images, prompts):
        self.began.append(prompts[0].id)
        assert self.may.acquire(timeout=10)
        return means(images, prompts)


def test_scores_belong_to_their_batch_whatever_the_order_of_collection():
    with ScoringPipeline(means, deadline=10) as scoring:
        handles = [scoring.submit(number, *batch(number)) for number in range(4)]
        values = {handle.batch_id: scoring.collect(handle).values_BR[0, 0].item() for handle in reversed(handles)}
    assert values == pytest.approx({0: 0.0, 1: 0.1, 2: 0.2, 3: 0.3})


def test_the_next_batch_is_drawn_while_one_is_judged():
    gated = Gated()
    with ScoringPipeline(gated, deadline=10) as scoring:
        first = scoring.submit(0, *batch(0))
        second = scoring.submit(1, *batch(1))  # does not wait for the judge
        assert not first.future.done() and gated.began in ([], ["0/0"])
        gated.may.release(2)
        assert scoring.collect(second).values_BR.shape == (2, 1) and gated.began == ["0/0", "1/0"]


def test_pictures_may_change_after_they_were_submitted():
    gated = Gated()
    with ScoringPipeline(gated, deadline=10) as scoring:
        images, prompts = batch(3)
        handle = scoring.submit(0, images, prompts)
        images.zero_()
        prompts.clear()
        gated.may.release()
        assert scoring.collect(handle).values_BR[0, 0].item() == pytest.approx(0.3)


def test_in_parts_and_in_the_background_the_scores_are_those_of_all_at_once():
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images[4, 0, 0, 0] = torch.nan
    prompts = [Prompt(str(row), "text", truth=None if row == 1 else {"row": row}) for row in range(6)]
    with ThreadPoolExecutor(2) as pool:
        rewards = [
            FunctionReward("mean", lambda pixels, truth: pixels.mean() / 255, pool=pool),
            FunctionReward("row", lambda pixels, truth: truth["row"] / 10),
        ]
        whole = score_all(rewards, images, prompts)
        with ScoringPipeline(partial(score_all, rewards), deadline=10) as scoring:
            handles = [scoring.submit(at, images[at : at + 2], prompts[at : at + 2]) for at in (0, 2, 4)]
            parts = joined([scoring.collect(handle) for handle in handles])
    assert parts.names == whole.names and parts.missing == whole.missing and len(whole.missing) == 4
    assert torch.equal(parts.values_BR.nan_to_num(-1), whole.values_BR.nan_to_num(-1))


def test_the_time_of_a_judge_as_slow_as_the_drawing_is_mostly_hidden():
    """How much is for the benchmarks to say; at best 11 of 12 batches are."""

    def slow(images, prompts):
        time.sleep(0.01)
        return means(images, prompts)

    with ScoringPipeline(slow, deadline=10) as scoring:
        handles = []
        for number in range(12):
            time.sleep(0.01)
            handles.append(scoring.submit(number, *batch(number)))
        for handle in handles:
            scoring.collect(handle)
    assert scoring.seconds_judging >= 0.12 and scoring.seconds_waiting < 0.7 * scoring.seconds_judging


def test_hidden_latency_counts_from_the_last_call():
    with ScoringPipeline(means, deadline=10) as scoring:
        assert math.isnan(scoring.hidden_latency())
        scoring.seconds_judging, scoring.seconds_waiting = 4.0, 1.0
        assert scoring.hidden_latency() == 0.75
        scoring.seconds_judging, scoring.seconds_waiting = 6.0, 3.1
        assert scoring.hidden_latency() == 0.0, "what waiting itself costs is not counted"
        assert math.isnan(scoring.hidden_latency())


def test_an_error_surfaces_where_its_batch_is_collected():
    def failing(images, prompts):
        if prompts[0].id == "1/0":
            raise ServiceFailed("the judge is down")
        return means(images, prompts)

    with ScoringPipeline(failing, deadline=10) as scoring:
        handles = [scoring.submit(number, *batch(number)) for number in range(3)]
        assert scoring.collect(handles[0]).names == ("mean",)
        with pytest.raises(ServiceFailed, match="judge is down"):
            scoring.collect(handles[1])
        assert scoring.collect(handles[2]).names == ("mean",)


def test_a_judges_own_timeout_is_no_late_batch():
    def failing(images, prompts):
        raise TimeoutError("a judge's")

    with ScoringPipeline(failing, deadline=10) as scoring, pytest.raises(TimeoutError, match="a judge's"):
        scoring.collect(scoring.submit(0, *batch(0)))


def test_late_scores_stop_the_step():
    gated = Gated()
    with ScoringPipeline(gated, deadline=0.05) as scoring, pytest.raises(ServiceFailed, match=r"batch \(7, 1\) after 0.05 s"):
        scoring.collect(scoring.submit((7, 1), *batch(0)))
    gated.may.release()


def test_a_full_queue_holds_the_sampling_back_but_not_for_ever():
    gated = Gated()
    with ScoringPipeline(gated, deadline=0.05, depth=2) as scoring:
        scoring.submit(0, *batch(0))
        scoring.submit(1, *batch(1))
        with pytest.raises(ServiceFailed, match="batch 2"):
            scoring.submit(2, *batch(2))
    gated.may.release(2)


def test_room_comes_back_when_a_batch_is_done():
    with ScoringPipeline(means, deadline=10, depth=1) as scoring:
        for number in range(5):
            scoring.submit(number, *batch(number))


def test_what_has_not_begun_is_dropped_on_a_stop():
    gated = Gated()
    with ScoringPipeline(gated, deadline=10) as scoring:
        handles = [scoring.submit(number, *batch(number)) for number in range(3)]
        while not gated.began:
            pass
    with pytest.raises(Stopped, match="batch 2"):
        scoring.collect(handles[2])
    gated.may.release()
    assert scoring.collect(handles[0]).names == ("mean",) and gated.began == ["0/0"]
    with pytest.raises(RuntimeError, match="closed"):
        scoring.submit(3, *batch(3))


def test_judges_keep_no_gradients():
    weight = torch.ones(1, requires_grad=True)
    with ScoringPipeline(lambda images, prompts: means(images * weight, prompts), deadline=10) as scoring:
        assert not scoring.collect(scoring.submit(0, *batch(0))).values_BR.requires_grad


@pytest.mark.parametrize("wrong", [{"deadline": 0}, {"deadline": float("nan")}, {"deadline": 1, "depth": 0}])
def test_it_wants_a_deadline_and_room(wrong):
    with pytest.raises(ValueError, match="positive"):
        ScoringPipeline(means, **wrong)


def test_scores_of_other_rewards_are_not_joined():
    with pytest.raises(ValueError, match="same rewards"):
        joined([Scores(("a",), torch.zeros(1, 1)), Scores(("b",), torch.zeros(1, 1))])
    with pytest.raises(ValueError, match="same rewards"):
        joined([])


def test_a_hung_function_does_not_hold_up_the_end_of_the_process():
    worker = BackgroundThread("hung")
    hangs = threading.Event()
    future = worker.submit(hangs.wait)
    while not future.running():
        pass
    worker.close()
    thread = next(thread for thread in threading.enumerate() if thread.name == "hung")
    assert thread.daemon and not future.done()
    hangs.set()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("initialised", [True, False])
def test_a_thread_has_the_gpu_of_the_one_that_made_it(monkeypatch, initialised):
    """torch's own current device is kept by thread, and 0 in a new one."""
    current = threading.local()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: initialised)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: getattr(current, "device", 0))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: setattr(current, "device", device))
    current.device = 3
    worker = BackgroundThread("judging")
    current.device = 5
    begun = [worker.submit(torch.cuda.current_device), in_thread("asking", torch.cuda.current_device)]
    within = worker.submit(lambda: in_thread("asking", torch.cuda.current_device).result(10))
    assert [future.result(10) for future in (*begun, within)] == ([3, 5, 3] if initialised else [0, 0, 0])
    worker.close()
