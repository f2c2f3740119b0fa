"""Teachers: what sits in the seat is what the folder holds, whoever sat there before; the student is not touched."""

import warnings
from copy import deepcopy

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

from tastemaker.errors import UserMistake
from tastemaker.models.adapter import Adapter
from tastemaker.models.lora import add_lora, merge_lora, policy_parameters, save_lora, with_transformer
from tastemaker.models.qwen_image21 import adapt
from tastemaker.runtime.checkpoint import load_safetensors
from tastemaker.training.seats import CopySeat, LoraSeat
from tastemaker.training.teacher_weights import DELTA
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
    (tmp_path / "run" / "lora").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(UserMistake, match=r"run: is the folder of a run; name the weights that it left, .*run/lora"):
        teachers.add("f", tmp_path / "run")


# ---- what rounding would eat -----------------------------------------------------------------------


def small_lora(folder, adapter, size):
    """A LoRA whose product is `size` of each weight that it changes, and the transformer with it in float64."""
    exact = adapt(tiny_qwen_image21())
    exact.transformer.load_state_dict(adapter.transformer.state_dict())
    add_lora(exact, rank=2)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in exact.transformer.modules():
            if isinstance(layer, LoraLayer):
                for factors in (layer.lora_A, layer.lora_B):
                    weight = factors["policy"].weight
                    weight.copy_(torch.randn(weight.shape, generator=generator))
                share = layer.get_delta_weight("policy").norm() / layer.get_base_layer().weight.norm()
                layer.lora_B["policy"].weight.mul_(size / share)
    save_lora(exact, folder)
    return exact.transformer.double()


def low(adapter):
    """In bfloat16, with weights of which float32 has no more."""
    adapter.transformer.bfloat16()
    return adapter


@pytest.mark.parametrize("size", [1e-3, 3e-4])
def test_a_small_lora_teaches_all_it_learnt_in_bfloat16(adapter, tmp_path, size):
    """Added to the weights half of it or more would be rounded away: 0.49 and 0.15 of it were left, of these sizes."""
    small_lora(tmp_path / "lora", low(adapter), size)
    teachers = Teachers(CopySeat(adapter), route=lambda prompt: prompt.task)
    teachers.add("a", tmp_path / "lora")
    name, layer = next((n, m) for n, m in adapter.transformer.named_modules() if n.endswith("to_q"))
    x = torch.randn(64, layer.in_features, generator=torch.Generator().manual_seed(1)).bfloat16()
    saved = load_safetensors(tmp_path / "lora" / LORA_FILE)
    b, a = (saved[f"transformer.{name}.lora_{one}.weight"].float() for one in "BA")
    wanted = x.float() @ (b @ a).T
    with teachers.seated(teachers.by_name["a"]) as seated, torch.no_grad():
        there = seated.transformer.get_submodule(name)
        assert torch.equal(there.weight, layer.weight)  # nothing is added to it
        wide = deepcopy(there).float()  # a copy keeps the hook: what is added is seen without the rounding of the sum
        found = wide(x.float()) - layer.float()(x.float())
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def test_a_lora_is_gone_from_the_seat_when_the_next_teacher_comes(adapter, tmp_path):
    adapter.transformer.save_pretrained(tmp_path / "base")
    lora_folder(tmp_path / "lora", 1)
    teachers = Teachers(CopySeat(adapter), route=lambda prompt: prompt.task)
    for name in ("base", "lora"):
        teachers.add(name, tmp_path / name)
    own = velocity(adapter, adapter.transformer)
    for name, same in (("base", True), ("lora", False), ("base", True), ("lora", False), ("lora", False)):
        with teachers.seated(teachers.by_name[name]) as seated:
            assert torch.equal(velocity(adapter, seated.transformer), own) is same
    assert torch.equal(velocity(adapter, adapter.transformer), own)


@pytest.mark.parametrize(("size", "dtype", "told"), [(1e-4, "bf16", True), (1e-1, "bf16", False), (1e-4, "fp32", False)])
def test_a_difference_that_rounding_eats_is_warned_of(adapter, tmp_path, size, dtype, told):
    if dtype == "bf16":
        low(adapter)
    generator = torch.Generator().manual_seed(1)
    (tmp_path / "d").mkdir()
    change = {n: size * v.float().abs().mean() * torch.randn(v.shape, generator=generator) for n, v in
              adapter.transformer.state_dict().items()}  # fmt: skip
    save_file(change, tmp_path / "d" / DELTA)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        CopySeat(adapter).add("small", tmp_path / "d")
    found = [str(one.message) for one in caught if "teacher small" in str(one.message)]
    assert len(found) == told
    assert all("of what was learnt" in line and "choose precision: fp32" in line for line in found)


@pytest.mark.parametrize("kinds", [("full", "full"), ("full", "delta"), ("lora",)])
def test_the_base_waits_beside_the_teachers_only_where_one_is_made_from_it(adapter, tmp_path, kinds):
    seat = CopySeat(adapter)
    for number, kind in enumerate(kinds):
        seat.add(str(number), teacher_folder(kind, tmp_path / str(number), number))
    assert bool(seat._base) is (set(kinds) != {"full"})


def test_a_lora_with_magnitudes_is_refused_where_it_would_be_taken_for_a_product(adapter, tmp_path):
    """DoRA: peft would scale the weights too."""
    other = adapt(tiny_qwen_image21())
    other.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], use_dora=True), adapter_name="policy")
    save_lora(other, tmp_path / "dora")
    with pytest.raises(UserMistake, match=r"has no place for .*magnitude"):
        CopySeat(adapter).add("a", tmp_path / "dora")
    with pytest.raises(UserMistake, match="magnitudes"):
        merge_lora(other)
