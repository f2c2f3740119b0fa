"""Teachers: what sits in the seat is what the folder holds, whoever sat there before; the student is not touched."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tastemaker.errors import UserMistake
from tastemaker.models.adapter import Adapter
from tastemaker.models.lora import add_lora, save_lora
from tastemaker.models.qwen_image21 import adapt
from tastemaker.training.teachers import DELTA, Teachers
from tastemaker.types import Prompt
from tiny import tiny_qwen_image21


@pytest.fixture
def adapter() -> Adapter:
    return adapt(tiny_qwen_image21())


def moved(adapter: Adapter, seed: int) -> torch.nn.Module:
    other = deepcopy(adapter.transformer)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in other.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return other


def lora_folder(folder: Path, seed: int) -> tuple[Path, torch.nn.Module]:
    """A LoRA whose alpha is not its rank, and the transformer with it, as peft computes it."""
    other = adapt(tiny_qwen_image21())
    add_lora(other, rank=2, alpha=6)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in other.transformer.named_parameters():
            if "lora_" in name:
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    save_lora(other, folder)
    return folder, other.transformer


def velocity(adapter: Adapter, transformer: torch.nn.Module) -> torch.Tensor:
    from tastemaker.models.lora import with_transformer

    there = with_transformer(adapter, transformer)
    condition = adapter.encode(["a red circle"], height=64, width=64)
    x = torch.randn(1, *adapter.latent_shape(64, 64), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return there.velocity(x, torch.tensor([0.7]), there.prefix(condition))


def test_the_seat_holds_each_teacher_in_turn(adapter, tmp_path):
    full, delta = moved(adapter, 1), moved(adapter, 2)
    full.save_pretrained(tmp_path / "full")
    base = adapter.transformer.state_dict()
    (tmp_path / "delta").mkdir()
    save_file({n: (v - base[n]).contiguous() for n, v in delta.state_dict().items()}, tmp_path / "delta" / DELTA)
    _, with_lora = lora_folder(tmp_path / "lora", 3)
    before = deepcopy(base)
    teachers = Teachers(adapter, route=lambda prompt: prompt.category)
    for name in ("full", "delta", "lora"):
        teachers.add(name, tmp_path / name)
    teachers.add("stored", tmp_path / "full", on_disk=True)
    expected = {"full": full, "delta": delta, "lora": with_lora, "stored": full}
    for name in ("full", "lora", "delta", "lora", "stored", "delta"):
        seated = teachers.seated(teachers.by_name[name])
        found = velocity(adapter, seated.transformer)
        torch.testing.assert_close(found, velocity(adapter, expected[name]), rtol=1e-5, atol=1e-5, msg=name)
    assert all(torch.equal(value, before[name]) for name, value in adapter.transformer.state_dict().items())
    assert velocity(adapter, full).sub(velocity(adapter, with_lora)).abs().max() > 1e-2  # or nothing was tested


def test_three_teachers_have_one_seat(adapter, tmp_path):
    teachers = Teachers(adapter, route=lambda prompt: prompt.task)
    for seed in range(3):
        moved(adapter, seed).save_pretrained(tmp_path / str(seed))
        teachers.add(str(seed), tmp_path / str(seed))
    seats = {id(teachers.seated(teacher).transformer) for teacher in teachers.by_name.values()}
    assert len(seats) == 1
    stored = [value for teacher in teachers.by_name.values() for value in teacher.weights.replaced.values()]
    assert {value.device.type for value in stored} == {"cpu"}


def test_prompts_are_dealt_by_their_own_key_and_a_teacher_is_brought_once(adapter, tmp_path):
    adapter.transformer.save_pretrained(tmp_path / "base")
    teachers = Teachers(adapter, route=lambda prompt: prompt.task)
    for name in ("t2i", "edit"):
        teachers.add(name, tmp_path / "base")
    prompts = [Prompt("a", "x"), Prompt("b", "x", task="edit"), Prompt("c", "x"), Prompt("d", "x", task="edit")]
    dealt = {teacher.name: places.tolist() for teacher, places in teachers.places(prompts)}
    assert dealt == {"edit": [1, 3], "t2i": [0, 2]}
    teachers.seated(teachers.by_name["t2i"])
    assert [teacher.name for teacher, _ in teachers.places(prompts)] == ["t2i", "edit"]  # the seated one need not be brought
    with pytest.raises(ValueError, match="routed to"):
        list(Teachers(adapter, route=lambda prompt: "nobody").places(prompts))


def test_weights_of_another_transformer_are_refused_with_what_differs(adapter, tmp_path):
    state = adapter.transformer.state_dict()
    name = next(iter(state))
    (tmp_path / "d").mkdir()
    save_file({name: torch.zeros(3, 3), "nothing.weight": torch.zeros(2)}, tmp_path / "d" / DELTA)
    teachers = Teachers(adapter, route=lambda prompt: prompt.task)
    with pytest.raises(UserMistake) as caught:
        teachers.add("d", tmp_path / "d")
    assert "nothing.weight has no place" in str(caught.value) and f"{name} has shape (3, 3)" in str(caught.value)
    with pytest.raises(UserMistake, match="neither a transformer"):
        teachers.add("e", tmp_path)
