"""How the Triton twin comes into a model and leaves it, when it steps aside, and what it records."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from torch import nn

from isopatch import kernels
from isopatch.errors import UsageError
from isopatch.kernels import triton
from isopatch.kernels.twin import Unfit
from isopatch.kernels.use import use
from isopatch.models.convmixer import ConvMixerBlock, convmixer
from isopatch.models.vit import vit
from isopatch.nn.blocks import Blocks
from isopatch.nn.skeleton import Isotropic

blocks_module = pytest.importorskip("isopatch.kernels.triton.blocks", exc_type=ImportError)

GRID = (2, 3)


def small(**changed) -> Isotropic:
    arguments = {
        "dim": 6,
        "depth": 2,
        "kernel_size": 3,
        "patch_size": 2,
        "image_size": (4, 6),
        "num_classes": 3,
    }
    return convmixer(**{**arguments, **changed})


def twin_of(*blocks: nn.Module, dtype: torch.dtype = torch.float32):
    return blocks_module.TritonConvMixer(Blocks(blocks), dtype)


def test_swap_and_undo_leave_names_weights_and_results_as_they_were() -> None:
    model = small().eval()
    images = torch.randn(2, 3, 4, 6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = model(images)
    swapped = kernels.swap(model, kernels="triton", precision="fp32")
    assert str(swapped) == "kernels triton, fp32: blocks (Triton ConvMixer blocks)"
    assert type(model.blocks).__name__ == "TritonConvMixer" and not model.blocks.training
    assert list(model.state_dict()) == list(before)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in small().named_parameters()]
    torch.testing.assert_close(model(images), plain, rtol=1e-5, atol=1e-5)
    assert not torch.equal(model(images), plain)  # something else computed it

    model.load_state_dict({name: value * 0.5 for name, value in before.items()})
    model.train()
    swapped.undo()
    assert type(model.blocks) is Blocks and model.blocks.training
    half = model.blocks[0].pointwise.weight
    assert torch.equal(half, before["blocks.0.pointwise.weight"] * 0.5)


def test_features_at_a_depth_and_recomputation_use_the_plain_blocks() -> None:
    model = small().train()
    images = torch.randn(2, 3, 4, 6)
    wanted = model.features(images, depth=1).tokens
    kernels.swap(model, kernels="triton", precision="bf16")
    assert torch.allclose(model.features(images, depth=1).tokens, wanted)
    plain = Blocks(model.blocks)
    tokens = torch.randn(2, 6, 6, requires_grad=True)
    assert torch.equal(model.blocks(tokens, GRID, recompute=True), plain(tokens, GRID))


def test_torch_compile_sees_the_plain_blocks(monkeypatch) -> None:
    twin = twin_of(ConvMixerBlock(4, 3), dtype=torch.bfloat16).eval()
    tokens = torch.randn(2, 6, 4)
    plain = Blocks(twin)(tokens, GRID)
    assert not torch.equal(twin(tokens, GRID), plain)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(twin(tokens, GRID), plain)


def test_auto_leaves_the_cpu_to_others_and_a_missing_gpu_is_one_clear_line(monkeypatch) -> None:
    assert kernels.swap(small(), kernels="auto").kernels != "triton"
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(UsageError, match="need a CUDA GPU, and the model is on cpu; use --kernels plain"):
        kernels.swap(small(), kernels="triton")


@pytest.mark.parametrize(
    ("there", "capability", "compiler", "why"),
    [
        (False, (9, 0), "/bin/cc", "PyTorch finds no CUDA GPU"),
        (True, (7, 5), "/bin/cc", "this GPU has compute capability 7.5, Triton kernels need 8.0"),
        (True, (9, 0), None, "Triton needs a C compiler, and there is none on the PATH"),
        (True, (8, 0), "/bin/cc", None),
    ],
)
def test_what_a_gpu_needs(monkeypatch, there, capability, compiler, why) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(triton.shutil, "which", lambda name: compiler)
    monkeypatch.setattr(triton.Path, "is_file", lambda path: True)
    assert triton.unavailable("cuda") == why


def test_the_gpu_looked_at_is_the_models(monkeypatch) -> None:
    """Of two GPUs the current one is new enough, the second is not."""
    old = torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: (7, 5) if device == old else (9, 0)
    )
    monkeypatch.setattr(triton.shutil, "which", lambda name: "/bin/cc")
    monkeypatch.setattr(triton.Path, "is_file", lambda path: True)
    assert triton.unavailable("cuda") is triton.unavailable("cuda:0") is None
    assert "compute capability 7.5" in (triton.unavailable("cuda:1") or "")
    asked = []
    monkeypatch.setattr(triton, "unavailable", lambda device: asked.append(device) or "none")
    model = small()
    for parameter in ("weight", "bias"):
        here = getattr(model.stem.proj, parameter)
        monkeypatch.setitem(model.stem.proj._parameters, parameter, OnTheSecond(here))
    assert kernels.swap(model, kernels="auto").note == "none" and asked == ["cuda:1"]


class OnTheSecond(nn.Parameter):
    """A parameter that says it is on the second GPU."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda:1")


def test_without_triton_nothing_is_offered(monkeypatch) -> None:
    monkeypatch.setattr(triton.importlib.util, "find_spec", lambda name: None)
    assert triton.unavailable("cuda") == triton.unavailable("cpu") == "Triton is not installed"


def _with(block: ConvMixerBlock, **parts: nn.Module) -> ConvMixerBlock:
    for name, part in parts.items():
        setattr(block, name, part)
    return block


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (lambda: ConvMixerBlock(4, 17), "kernel_size 17 is larger than 15"),
        (lambda: ConvMixerBlock(4, 3, activation="gelu_tanh"), "neither exact GELU nor ReLU"),
        (lambda: _with(ConvMixerBlock(4, 3), depthwise_norm=nn.SyncBatchNorm(4)), "SyncBatchNorm"),
        (lambda: _with(ConvMixerBlock(4, 3), pointwise_norm=nn.BatchNorm2d(4, momentum=None)), "momentum"),
        (lambda: _with(ConvMixerBlock(4, 3), pointwise=nn.Conv2d(4, 4, 1, bias=False)), "has no bias"),
        (lambda: _with(ConvMixerBlock(4, 3), pointwise=nn.Linear(4, 4)), "Linear is not Conv2d"),
        (nn.Identity, "Identity is not ConvMixerBlock"),
    ],
)
def test_what_does_not_fit_says_why(block, why: str) -> None:
    made = blocks_module.make_convmixer(Blocks([ConvMixerBlock(4, 3), block()]), "fp32")
    assert isinstance(made, Unfit) and why in made.why


def test_other_models_are_not_touched() -> None:
    model = vit(dim=8, depth=1, num_heads=2, patch_size=2, image_size=4, num_classes=3)
    swapped = kernels.swap(model, kernels="triton")
    assert (swapped.replaced, swapped.kept) == ((), ())
    fitting = blocks_module.make_convmixer(Blocks([ConvMixerBlock(4, 15)]), "bf16")
    assert fitting.dtype == torch.bfloat16  # the control


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_the_result_has_the_plain_blocks_type_and_the_twins_precision(precision, given) -> None:
    block = ConvMixerBlock(4, 3).eval()
    twin = twin_of(block, dtype=precision).eval()
    tokens = torch.randn(2, 6, 4).to(given)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert twin(tokens, GRID).dtype == block(tokens, GRID).dtype == torch.bfloat16
        inside = twin(tokens, GRID)
    with torch.no_grad():
        alone = twin(tokens, GRID)
        assert alone.dtype == given
        assert torch.equal(alone.bfloat16(), inside)  # autocast changed the result's type and nothing else


def test_what_it_cannot_run_the_plain_blocks_run_and_it_says_so_once(caplog) -> None:
    block = ConvMixerBlock(4, 3).double()
    twin = twin_of(block)
    tokens = torch.randn(2, 6, 4, dtype=torch.float64)
    with caplog.at_level(logging.WARNING, logger="isopatch"):
        assert twin(tokens, GRID).dtype == torch.float64
        twin(tokens, GRID)
        block.float().depthwise_norm = nn.BatchNorm2d(4, track_running_stats=False)
        twin(tokens.float(), GRID)
    assert [record.message for record in caplog.records] == [
        "kernels triton: the plain ConvMixer blocks run, because the tokens are torch.float64",
        "kernels triton: the plain ConvMixer blocks run, because BatchNorm2d without running statistics or "
        "momentum",
    ]


def test_errors_are_the_plain_blocks() -> None:
    twin = twin_of(ConvMixerBlock(4, 3)).train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        twin(torch.randn(1, 1, 4), (1, 1))
    with pytest.raises(UsageError, match="5 tokens are not the 2 x 3 patches"):
        twin(torch.randn(1, 5, 4), GRID)


def test_frozen_parts_get_no_gradient_and_the_others_the_same() -> None:
    block = ConvMixerBlock(4, 3).train()
    block.depthwise.weight.requires_grad_(False)
    block.pointwise_norm.eval()
    tokens, gradient = torch.randn(2, 6, 4), torch.randn(2, 6, 4)
    block(tokens, GRID).backward(gradient)
    wanted = {name: each.grad for name, each in block.named_parameters()}
    block.zero_grad()
    block.depthwise_norm.reset_running_stats()
    twin_of(block)(tokens, GRID).backward(gradient)
    assert block.pointwise_norm.num_batches_tracked == 0
    for name, each in block.named_parameters():
        torch.testing.assert_close(each.grad, wanted[name], rtol=1e-4, atol=1e-5)
    assert block.depthwise.weight.grad is None


def test_a_recorded_choice_is_replayed_and_only_a_known_one(caplog) -> None:
    from isopatch.kernels.triton import choose

    model = small().eval()
    kernels.swap(model, kernels="triton", precision="bf16")
    shape = "bfloat16 k3 2x3 c6 inference"
    record = json.loads(json.dumps({"blocks": {shape: "toeplitz-64", "bfloat16 k3 9x9 c6 training": "gone"}}))
    assert choose.recorded(model) == {"blocks": {}}
    choose.replay(model, record)
    assert choose.recorded(model) == {"blocks": {shape: "toeplitz-64"}}
    assert "no form 'gone' in this version" in caplog.text
    tokens = torch.randn(2, 2, 3, 6).bfloat16()
    with torch.no_grad():
        assert model.blocks._form(tokens).name == "toeplitz-64"
    assert model.blocks._form(tokens).layout == "tokens"  # training: the rule, which is not recorded
    assert choose.recorded(model) == {"blocks": {shape: "toeplitz-64"}}


def test_half_precision_is_the_twins_own() -> None:
    model = small().eval()
    images = torch.randn(2, 3, 4, 6)
    with torch.no_grad():
        plain = model(images)
        swapped = use(model, kernels="triton", precision="fp16")
        assert str(swapped) == "kernels triton, fp16: blocks (Triton ConvMixer blocks)"
        assert model.blocks.dtype == torch.float16
        half = model(images)
    assert use(model, kernels="triton", precision="fp16").precision == "fp16"  # it stands
    error = (half - plain).abs().max() / plain.abs().max()
    assert 1e-6 < error < 1e-2


def test_measuring_takes_medians_in_turn_and_leaves_out_what_does_not_fit(monkeypatch) -> None:
    from triton.runtime.errors import OutOfResources

    from isopatch.kernels.triton.choose import measure

    clock = {"now": 0.0}

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.at = 0.0

        def record(self) -> None:
            self.at = clock["now"]

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, end: Event) -> float:
            return end.at - self.at

    turns: list[str] = []

    def run(name: str, milliseconds: list[float]) -> None:
        turns.append(name)
        clock["now"] += milliseconds[turns.count(name) - 1]

    def too_large() -> None:
        raise OutOfResources(300_000, 232_448, "shared memory")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    times = measure(
        {
            "a": lambda: run("a", [900, 900, 1, 2, 100]),
            "b": lambda: run("b", [900, 900, 3, 3, 4]),
            "c": too_large,
        },
        repeats=3,
    )
    assert times == {"a": 2, "b": 3}
    assert turns == ["a", "a", "b", "b", "a", "b", "a", "b", "a", "b"]


def test_a_trial_leaves_statistics_and_gradients_alone() -> None:
    block = ConvMixerBlock(4, 3).train()
    before = {name: value.clone() for name, value in block.state_dict().items()}
    tokens = torch.randn(2, 2, 3, 4)
    for form in blocks_module.candidates(3, 3, torch.bfloat16)[1::2]:
        gradients = blocks_module._trial([block], tokens, form, True)()
        assert len(gradients[0]) == 9
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
    assert all(parameter.grad is None for parameter in block.parameters())


def test_full_float32_and_wide_maps_have_no_tensor_core_candidate() -> None:
    layouts = {form.layout for form in blocks_module.candidates(32, 9, torch.float16)}
    assert layouts == {"tokens", "channels"}
    assert {form.layout for form in blocks_module.candidates(32, 9, torch.float32)} == {"tokens"}
    assert {form.layout for form in blocks_module.candidates(65, 9, torch.float16)} == {"tokens"}
    large = [form.name for form in blocks_module.candidates(32, 15, torch.float16)]
    assert large == ["direct-4x16x64", "toeplitz-64"]  # the larger tiles have too few registers
