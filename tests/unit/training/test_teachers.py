"""Teachers: what sits in the seat is what the folder holds, whoever sat there before; the student is not touched."""

from copy import deepcopy

import pytest
import torch
from safetensors.torch import save_file

from tastemaker.errors import UserMistake
from tastemaker.models.adapter import Adapter
from tastemaker.models.lora import policy_parameters, save_lora, with_transformer
from tastemaker.models.qwen_image21 import adapt
from tastemaker.runtime.checkpoint import load_safetensors
from tastemaker.training.seats import DELTA, CopySeat, LoraSeat
from tastemaker.training.teachers import Teachers
from tastemaker.types import Prompt
from teacher_folders import LORA_FILE, delta_folder, lora_folder, moved, teacher_folder
from tiny import tiny_qwen_image21


@pytest.fixture
def adapter() -> Adapter:
    return adapt(tiny_qwen_image21())


def velocity(adapter: Adapter, transformer: torch.nn.Module) -> torch.Tensor:
    there = with_transformer(adapter, transformer)
    condition = adapter.encode(["a red circle"], height=64, width=64)
    x = torch.randn(1, *adapter.latent_shape(64, 64), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return there.velocity(x, torch.tensor([0.7]), there.prefix(condition))


def test_the_seat_holds_each_teacher_in_turn(adapter, tmp_path):
    full = moved(adapter, 1)
    full.save_pretrained(tmp_path / "full")
    _, delta = delta_folder(tmp_path / "delta", adapter, 2)
    _, with_lora = lora_folder(tmp_path / "lora", 3)
    before = deepcopy(adapter.transformer.state_dict())
    teachers = Teachers(CopySeat(adapter), route=lambda prompt: prompt.category)
    for name in ("full", "delta", "lora"):
        teachers.add(name, tmp_path / name)
    for name in ("full", "delta"):
        teachers.add(f"stored {name}", tmp_path / name, on_disk=True)
    expected = {"full": full, "delta": delta, "lora": with_lora, "stored full": full, "stored delta": delta}
    for name in ("full", "lora", "delta", "lora", "stored full", "delta", "stored delta", "stored full"):
        with teachers.seated(teachers.by_name[name]) as seated:
            found = velocity(adapter, seated.transformer)
        torch.testing.assert_close(found, velocity(adapter, expected[name]), rtol=1e-5, atol=1e-5, msg=name)
    assert all(torch.equal(value, before[name]) for name, value in adapter.transformer.state_dict().items())
    assert velocity(adapter, full).sub(velocity(adapter, with_lora)).abs().max() > 1e-2  # or nothing was tested


def test_loras_take_turns_in_the_students_own_transformer(adapter, tmp_path):
    """Each is what peft makes of it alone; the student is on and trainable around the blocks, and has nothing of them."""
    expected = {
        "wide": lora_folder(tmp_path / "wide", 1, rank=5)[1],
        "attention": lora_folder(tmp_path / "attention", 2, targets=["to_q", "to_v"])[1],
    }
    base = velocity(adapter, adapter.transformer)
    teachers = Teachers(LoraSeat(adapter), route=lambda prompt: prompt.category)
    for name in expected:
        teachers.add(name, tmp_path / name)
    assert torch.equal(velocity(adapter, adapter.transformer), base)
    student = policy_parameters(adapter, "lora", rank=3, targets=["to_k", "to_v"])
    assert torch.equal(velocity(adapter, adapter.transformer), base)
    alone = adapt(tiny_qwen_image21())
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for value, same in zip(student, policy_parameters(alone, "lora", rank=3, targets=["to_k", "to_v"]), strict=True):
            same.copy_(value.add_(torch.randn(value.shape, generator=generator), alpha=0.1))
    for name in ("wide", "attention", "wide", "wide"):
        with teachers.seated(teachers.by_name[name]) as seated:
            assert seated.transformer is adapter.transformer
            assert torch.equal(velocity(adapter, seated.transformer), velocity(adapter, expected[name])), name
        assert torch.equal(velocity(adapter, adapter.transformer), velocity(adapter, alone.transformer))
        assert [id(value) for value in adapter.transformer.parameters() if value.requires_grad] == [id(v) for v in student]
    save_lora(adapter, tmp_path / "student")
    save_lora(alone, tmp_path / "alone")
    saved, plain = (load_safetensors(tmp_path / name / LORA_FILE) for name in ("student", "alone"))
    assert saved.keys() == plain.keys() and all(torch.equal(value, plain[name]) for name, value in saved.items())


def resident(adapter: Adapter, teachers: Teachers) -> set[int]:
    """Bytes of all weights that the student and its seat hold on the device, one number for each teacher in turn."""
    found = set()
    for teacher in teachers.by_name.values():
        with teachers.seated(teacher) as seated:
            both = [*adapter.transformer.parameters(), *seated.transformer.parameters()]
        found.add(sum(value.nbytes for value in {id(value): value for value in both}.values()))
    return found


@pytest.mark.parametrize("kind", ["full", "delta", "lora", "lora on lora"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_three_teachers_hold_no_more_of_the_device_than_one(adapter, tmp_path, kind, on_disk):
    """On a CPU what waits is counted apart: nothing of it is in the student's transformer or in the seat's."""
    for seed in range(3):
        teacher_folder(kind.split()[0], tmp_path / str(seed), seed)
    bytes_of = {}
    model = sum(value.nbytes for value in adapter.transformer.parameters())
    for count in (1, 3):
        student = adapt(tiny_qwen_image21())
        seat = LoraSeat(student) if kind == "lora on lora" else CopySeat(student)
        teachers = Teachers(seat, route=lambda prompt: prompt.category)
        for seed in range(count):
            teachers.add(str(seed), tmp_path / str(seed), on_disk=on_disk)
        if kind == "lora on lora":
            policy_parameters(student, "lora", rank=16)  # as the teachers'
        bytes_of[count] = resident(student, teachers)
        assert on_disk is False or kind.startswith("lora") or not any(waiting(seat)), "it is read when its turn comes"
    assert bytes_of[1] == bytes_of[3] and len(bytes_of[1]) == 1
    (most,) = bytes_of[3]
    lora = sum(value.nbytes for value in load_safetensors(tmp_path / "0" / LORA_FILE).values()) if "lora" in kind else 0
    assert most == (model + 2 * lora if kind == "lora on lora" else 2 * model)


def waiting(seat: CopySeat) -> list[torch.Tensor]:
    return [value for one in seat._waiting.values() for value in (*one.replaced.values(), *one.added.values())]


def test_prompts_are_dealt_by_their_own_key_and_a_teacher_is_brought_once(adapter, tmp_path):
    adapter.transformer.save_pretrained(tmp_path / "base")
    teachers = Teachers(CopySeat(adapter), route=lambda prompt: prompt.task)
    for name in ("t2i", "edit"):
        teachers.add(name, tmp_path / "base")
    prompts = [Prompt("a", "x"), Prompt("b", "x", task="edit"), Prompt("c", "x"), Prompt("d", "x", task="edit")]
    dealt = {teacher.name: places.tolist() for teacher, places in teachers.places(prompts)}
    assert dealt == {"edit": [1, 3], "t2i": [0, 2]}
    with teachers.seated(teachers.by_name["t2i"]):
        pass
    assert [teacher.name for teacher, _ in teachers.places(prompts)] == ["t2i", "edit"]  # the seated one need not be brought
    with pytest.raises(ValueError, match="routed to"):
        list(Teachers(CopySeat(adapter), route=lambda prompt: "nobody").places(prompts))


def test_weights_of_another_transformer_are_refused_with_what_differs(adapter, tmp_path):
    state = adapter.transformer.state_dict()
    name = next(iter(state))
    (tmp_path / "d").mkdir()
    save_file({name: torch.zeros(3, 3), "nothing.weight": torch.zeros(2)}, tmp_path / "d" / DELTA)
    teachers = Teachers(CopySeat(adapter), route=lambda prompt: prompt.task)
    with pytest.raises(UserMistake) as caught:
        teachers.add("d", tmp_path / "d")
    assert "nothing.weight has no place" in str(caught.value) and f"{name} has shape (3, 3)" in str(caught.value)
    with pytest.raises(UserMistake, match="neither a transformer"):
        teachers.add("e", tmp_path)
