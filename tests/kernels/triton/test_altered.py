"""Altered ConvMixers: what the Triton kernels would leave out the plain blocks compute; it is said once."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest
import torch
from tests.kernels.native.test_altered import ALTERATIONS
from torch import Tensor, nn

from isopatch import kernels
from isopatch.models.convmixer import ConvMixerBlock, convmixer
from isopatch.nn.blocks import Blocks
from isopatch.nn.skeleton import Isotropic

blocks_module = pytest.importorskip("isopatch.kernels.triton.blocks", exc_type=ImportError)

GRID = (2, 3)


def build() -> Isotropic:
    torch.manual_seed(0)
    sizes = {"dim": 6, "depth": 2, "kernel_size": 3, "patch_size": 2, "image_size": (4, 6), "num_classes": 3}
    model = convmixer(**sizes)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, 1 if "norm.weight" in name else 0, 0.3)
    return model


def both() -> tuple[Isotropic, Isotropic]:
    plain = build()
    twin = copy.deepcopy(plain)
    assert kernels.swap(twin, kernels="triton", precision="fp32").replaced
    return plain, twin


def pictures() -> Tensor:
    return torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(1))


def tokens() -> Tensor:
    return torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(2))


def doubled(module: nn.Module, given: object, out: Tensor) -> Tensor:
    return 2 * out


def forward_of_its_own(module: nn.Module) -> None:
    plain = type(module).forward
    module.forward = lambda *given: 2 * plain(module, *given)


PARTS = ("", "pad", "depthwise", "depthwise_norm", "pointwise", "pointwise_norm", "activation")

# On the second block: its part, what is done to it, what is said.
CHANGES: dict[str, tuple[str, Callable[[nn.Module], object], str]] = {
    **{
        f"{how}, pointwise": ("pointwise", change, why)
        for how, (change, why) in ALTERATIONS.items()
        if how != "forward of its own"
    },
    **{f"hook, {part}": (part, lambda it: it.register_forward_hook(doubled), "has hooks") for part in PARTS},
    **{f"forward, {part}": (part, forward_of_its_own, "a forward of its own") for part in PARTS},
    "prune, depthwise": ("depthwise", ALTERATIONS["prune"][0], "has hooks"),
    "parametrization, depthwise": ("depthwise", ALTERATIONS["parametrization"][0], "ParametrizedConv2d is"),
    "circular": ("depthwise", lambda it: setattr(it, "padding_mode", "circular"), "not as ConvMixer has it"),
    "wide": (
        "depthwise",
        lambda it: it.__dict__.update(dilation=(2, 2), padding=(2, 2)),
        "not as ConvMixer has it",
    ),
    "two groups": (
        "pointwise",
        lambda it: (setattr(it, "groups", 2), setattr(it, "weight", nn.Parameter(it.weight[:, :3].clone()))),
        "not as ConvMixer has it",
    ),
    "other activation": ("", lambda it: setattr(it, "activation", nn.SiLU()), "neither exact GELU nor ReLU"),
    "other gelu": (
        "activation",
        lambda it: setattr(it, "approximate", "tanh"),
        "neither exact GELU nor ReLU",
    ),
    "other padding": (
        "",
        lambda it: setattr(it, "pad", nn.Sequential(nn.ZeroPad2d(1), nn.AvgPool2d(3, 1))),
        "Sequential is not Identity or ZeroPad2d",
    ),
    "momentum": ("pointwise_norm", lambda it: setattr(it, "momentum", None), "momentum"),
    "nothing tracked": ("pointwise_norm", lambda it: setattr(it, "track_running_stats", False), "statistics"),
}


def alter(model: Isotropic, how: str) -> None:
    torch.manual_seed(3)  # spectral_norm draws
    part, change, _ = CHANGES[how]
    change(model.blocks[1].get_submodule(part))


def steps(model: Isotropic) -> list[Tensor]:
    """Two steps of training, then inference: gradients, running statistics, logits."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found = []
    for _ in range(2):
        optimizer.zero_grad()
        model(pictures()).square().mean().backward()
        found += [each.grad.clone() for each in model.parameters() if each.grad is not None]
        optimizer.step()
    found += [each.clone() for each in model.buffers()]
    with torch.no_grad():
        return [*found, model.eval()(pictures())]


def agree(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each for each in caplog.messages if each.startswith("kernels triton: the plain ConvMixer blocks")]


@pytest.mark.parametrize("how", CHANGES)
def test_blocks_altered_after_the_swap(how: str, caplog: pytest.LogCaptureFixture) -> None:
    plain, twin = both()
    with torch.no_grad():
        before = twin.eval()(pictures())
    assert not told(caplog)  # the twin ran
    for model in (plain, twin):
        alter(model, how)
    with torch.no_grad():
        wanted, got = plain.eval()(pictures()), twin(pictures())
    assert torch.equal(got, wanted)
    inert = ("spectral", "momentum", "nothing tracked", "other gelu")
    assert how.startswith(inert) or (got - before).abs().max() > 1e-3  # it does count
    agree(steps(twin), steps(plain))
    assert len(told(caplog)) == 1 and re.search(CHANGES[how][2], caplog.text), caplog.messages


@pytest.mark.parametrize("how", CHANGES)
def test_blocks_altered_before_the_swap_have_no_twin(how: str) -> None:
    model = build()
    alter(model, how)
    swapped = kernels.swap(model, kernels="triton", precision="fp32")
    assert type(model.blocks) is Blocks and swapped.kernels == "plain"
    assert re.search(CHANGES[how][2], str(swapped)), swapped


def test_blocks_that_are_not_altered_run_in_the_twin(caplog: pytest.LogCaptureFixture) -> None:
    """The control: bits differ, and nothing is said."""
    plain, twin = both()
    wanted, got = steps(plain), steps(twin)
    agree(got, wanted)
    assert not torch.equal(got[-1], wanted[-1])
    assert not told(caplog)


def test_a_negative_control_of_the_comparison() -> None:
    plain, twin = both()
    alter(plain, "hook, depthwise")
    with pytest.raises(AssertionError):
        agree(steps(twin), steps(plain))


def test_hooks_of_all_blocks_keep_them_plain_or_are_called_on_the_twin() -> None:
    model, called = build().eval(), []
    handle = model.blocks.register_forward_hook(lambda *_: called.append("blocks"))
    swapped = kernels.swap(model, kernels="triton", precision="fp32")
    assert "blocks: the blocks have hooks" in swapped.kept
    handle.remove()
    model.blocks.forward = lambda tokens, grid: tokens
    assert "forward of its own" in str(kernels.swap(model, kernels="triton", precision="fp32"))
    del model.blocks.forward
    assert kernels.swap(model, kernels="triton", precision="fp32").replaced
    model.blocks.register_forward_hook(lambda *_: called.append("twin"))
    with torch.no_grad():
        model(pictures())
    assert called == ["twin"]


def test_what_was_altered_and_put_back_runs_in_the_twin_again() -> None:
    plain, twin = (model.eval() for model in both())
    with torch.no_grad():
        wanted, before = plain(pictures()), twin(pictures())
        for part, name, other in (
            ("activation", "forward", lambda x: 2 * x),
            ("depthwise", "padding_mode", "circular"),
        ):
            module = twin.blocks[0].get_submodule(part)
            kept = module.__dict__.get(name)
            setattr(module, name, other)
            assert not torch.allclose(twin(pictures()), wanted)
            setattr(module, name, kept) if kept is not None else delattr(module, name)
            assert torch.equal(twin(pictures()), before)


def test_eps_and_activations_that_the_kernels_have_may_change() -> None:
    plain, twin = (model.eval() for model in both())
    with torch.no_grad():
        last = twin.blocks(tokens(), GRID)
        for change in (
            lambda block: setattr(block.pointwise_norm, "eps", 1.0),
            lambda block: setattr(block, "activation", nn.ReLU()),
        ):
            for model in (plain, twin):
                for block in model.blocks:
                    change(block)
            now, wanted = twin.blocks(tokens(), GRID), plain.blocks(tokens(), GRID)
            torch.testing.assert_close(now, wanted, rtol=1e-5, atol=1e-5)
            assert (now - last).abs().max() > 1e-3 and not torch.equal(now, wanted)
            last = now
    assert not twin.blocks._tell._told


def test_weights_of_another_type_place_or_shape_are_the_plain_blocks() -> None:
    gaps = ConvMixerBlock(4, 3)
    gaps.depthwise_norm.weight = nn.Parameter(torch.ones(8)[::2])
    half, meta, wide = ConvMixerBlock(4, 3).half(), ConvMixerBlock(4, 3).to("meta"), ConvMixerBlock(8, 3)
    for block, why in (
        (gaps, "gaps in memory"),
        (half, "not float32"),
        (meta, "on meta"),
        (wide, "4 and 8 channels"),
    ):
        made = blocks_module.make_convmixer(Blocks([ConvMixerBlock(4, 3), block]), "fp32")
        assert why in made.why
    assert blocks_module.make_convmixer(Blocks([ConvMixerBlock(4, 3)] * 2), "fp32").twin_library == "triton"


def test_tokens_of_another_width_are_refused_as_by_the_plain_blocks() -> None:
    """18 values a channel would be read as the 9 of twice as many channels."""
    for blocks in (model.blocks for model in both()):
        with pytest.raises(RuntimeError, match="to have 6 channels, but got 3"):
            blocks(torch.randn(2, 6, 3), GRID)
        with pytest.raises(IndexError):
            blocks(torch.randn(6, 6), GRID)


def test_some_of_the_blocks_and_a_copy() -> None:
    plain, twin = (model.eval() for model in both())
    with torch.no_grad():
        assert torch.equal(twin.blocks[:1](tokens(), GRID), plain.blocks[:1](tokens(), GRID))
        before = twin(pictures())
        copied = copy.deepcopy(twin)
        copied.blocks[0].depthwise.padding_mode = "circular"
        assert torch.equal(twin(pictures()), before)
        assert not torch.allclose(copied(pictures()), before)
