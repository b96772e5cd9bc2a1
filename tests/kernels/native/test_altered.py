"""Altered models: what the passes would leave out is computed by the plain modules, and said once."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest
import torch
from tests.kernels.native.models import GRIDS, SIZES, both, build, off, pictures, tokens
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, spectral_norm

from isopatch.kernels import swap
from isopatch.kernels.native.library import NativeLibrary
from isopatch.nn.skeleton import Isotropic

ARCHITECTURES = pytest.mark.parametrize("architecture", SIZES)
LAYER = {"convmixer": "pointwise", "vit": "channel.mixer.fc1", "mlp_mixer": "channel.mixer.fc1"}


class Doubled(nn.Module):
    """As a parametrisation or a layer's wrapper."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class DoubledLinear(nn.Linear):
    """As an adapter does: the layer and more."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class DoubledConv(nn.Conv2d):
    """As an adapter does."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def layer_of(block: nn.Module, architecture: str) -> nn.Module:
    return block.get_submodule(LAYER[architecture])


def subclass(layer: nn.Module) -> None:
    layer.__class__ = DoubledLinear if isinstance(layer, nn.Linear) else DoubledConv


def no_bias(layer: nn.Module) -> None:
    layer.bias = None


ALTERATIONS: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "subclass": (subclass, r"Doubled(Linear|Conv) is not (Linear|Conv2d)"),
    "parametrization": (
        lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
        r"Parametrized(Linear|Conv2d) is not",
    ),
    "prune": (lambda layer: prune.l1_unstructured(layer, "weight", amount=0.3), "has hooks"),
    "spectral norm": (spectral_norm, "has hooks"),
    "hook": (lambda layer: layer.register_forward_hook(lambda module, given, out: 2 * out), "has hooks"),
    "hook before": (
        lambda layer: layer.register_forward_pre_hook(lambda module, given: (2 * given[0],)),
        "has hooks",
    ),
    "forward of its own": (
        lambda layer: setattr(layer, "forward", Doubled().forward),
        "a forward of its own",
    ),
    "no bias": (no_bias, "no bias"),
}


def alter(model: Isotropic, architecture: str, how: str) -> None:
    torch.manual_seed(3)  # spectral_norm draws
    ALTERATIONS[how][0](layer_of(model.blocks[1], architecture))


def agree(plain: Isotropic, twin: Isotropic) -> None:
    """In inference, and in training with every gradient."""
    for training in (False, True):
        gradients = []
        for model in (plain, twin):
            model.train(training).zero_grad()
            model(pictures()).square().sum().backward()
            gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        assert len(gradients[0]) == len(gradients[1])
        assert all(torch.allclose(a, b, rtol=2e-3, atol=2e-3) for a, b in zip(*gradients, strict=True))
    with torch.no_grad():
        assert off(twin.eval()(pictures()), plain.eval()(pictures())) < 1e-5


@ARCHITECTURES
@pytest.mark.parametrize("how", [how for how in ALTERATIONS if how != "forward of its own"])
def test_a_layer_altered_after_the_swap(
    native: NativeLibrary, architecture: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain, twin = both(architecture)
    with torch.no_grad():
        before = twin.eval()(pictures())
    for model in (plain, twin):
        alter(model, architecture, how)
    agree(plain, twin)
    with torch.no_grad():
        assert how == "spectral norm" or off(twin(pictures()), before) > 1e-3  # it does count
    told = [each for each in caplog.messages if "the plain" in each and "blocks run, because" in each]
    assert len(told) == 1, caplog.messages


@ARCHITECTURES
@pytest.mark.parametrize("how", ALTERATIONS)
def test_a_layer_altered_before_the_swap_has_no_twin(
    native: NativeLibrary, architecture: str, how: str
) -> None:
    model = build(architecture)
    alter(model, architecture, how)
    swapped = swap(model, kernels="native", precision="fp32")
    assert type(model.blocks).__name__ == "Blocks"
    assert swapped.kernels == "plain" and type(model.stem).__name__ == "PatchStem"
    assert re.search(ALTERATIONS[how][1], str(swapped)), swapped


@ARCHITECTURES
def test_hooks_on_what_a_twin_would_replace_keep_it(native: NativeLibrary, architecture: str) -> None:
    model, called = build(architecture).eval(), []
    for name in ("stem", "blocks", "blocks.0"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: called.append(name))
    swapped = swap(model, kernels="native", precision="fp32")
    assert "stem: the stem has hooks" in swapped.kept and "blocks: the blocks have hooks" in swapped.kept
    with torch.no_grad():
        model(pictures())
    assert called == ["stem", "blocks.0", "blocks"]


@ARCHITECTURES
def test_blocks_with_a_forward_of_their_own_have_no_twin(native: NativeLibrary, architecture: str) -> None:
    model = build(architecture).eval()
    given, grid = tokens(architecture), GRIDS[architecture]
    model.blocks.forward = lambda tokens, grid: 2 * tokens
    swapped = swap(model, kernels="native", precision="fp32")
    assert "blocks: Blocks has a forward of its own" in swapped.kept
    assert torch.equal(model.blocks(given, grid), 2 * given)


@ARCHITECTURES
def test_activations_norms_and_eps_may_change(native: NativeLibrary, architecture: str) -> None:
    plain, twin = both(architecture)
    given, grid = tokens(architecture), GRIDS[architecture]
    convmixer = architecture == "convmixer"
    owner, norm = ("", "pointwise_norm") if convmixer else ("channel.mixer", "channel.norm")

    def eps(block: nn.Module) -> None:
        block.get_submodule(norm).eps = 1.0

    changes: list[Callable[[nn.Module], None]] = [
        lambda block: setattr(block.get_submodule(owner), "activation", nn.ReLU()),
        eps,
        lambda block: setattr(block.get_submodule(owner), "activation", nn.SiLU()),
        lambda block: setattr(block.get_submodule(owner), "activation", nn.GELU()),
    ]
    with torch.no_grad():
        last = twin.eval().blocks(given, grid)
        for change in changes:
            for model in (plain.eval(), twin):
                for block in model.blocks:
                    change(block)
            now = twin.blocks(given, grid)
            assert off(now, plain.blocks(given, grid)) < 1e-5
            assert off(now, last) > 1e-4
            last = now


@pytest.mark.parametrize(
    ("architecture", "layer", "setting", "value"),
    [
        ("convmixer", "activation", "approximate", "tanh"),
        ("vit", "channel.mixer.activation", "approximate", "tanh"),
        ("mlp_mixer", "channel.mixer.activation", "approximate", "tanh"),
        ("convmixer", "depthwise", "padding_mode", "circular"),
        ("convmixer", "depthwise", "dilation", (2, 2)),
    ],
)
def test_settings_changed_after_the_swap(
    native: NativeLibrary, architecture: str, layer: str, setting: str, value: object
) -> None:
    plain, twin = both(architecture)
    given, grid = tokens(architecture), GRIDS[architecture]
    with torch.no_grad():
        before = twin.eval().blocks(given, grid)
        for model in (plain.eval(), twin):
            for block in model.blocks:
                setattr(block.get_submodule(layer), setting, value)
        if setting == "dilation":
            with pytest.raises(RuntimeError):  # of that many places it makes fewer, as it does plain
                twin.blocks(given, grid)
            return
        now, wanted = (model.blocks(given, grid) for model in (twin, plain))
    assert off(now, wanted) < 1e-5 and off(now, before) > 1e-6


def tie_norms(block: nn.Module) -> None:
    block.channel.norm = block.token.norm


def tie_biases(block: nn.Module) -> None:
    block.channel.mixer.fc2.bias = block.token.mixer.proj.bias


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("tie", [tie_norms, tie_biases])
def test_what_a_block_shares_gets_the_gradients_of_all_its_uses(
    native: NativeLibrary, tie: Callable[[nn.Module], None], before: bool
) -> None:
    plain = build("vit")
    twin = copy.deepcopy(plain)
    for model in (plain, twin):
        if model is twin and not before:
            swap(twin, kernels="native", precision="fp32")
        for block in model.blocks:
            tie(block)
    if before:
        swap(twin, kernels="native", precision="fp32")
    assert type(twin.blocks).__name__ == "NativeTransformerBlocks"
    agree(plain, twin)


@ARCHITECTURES
def test_undo_keeps_blocks_that_were_exchanged(native: NativeLibrary, architecture: str) -> None:
    model = build(architecture)
    swapped = swap(model, kernels="native", precision="fp32")
    new = copy.deepcopy(model.blocks[0])
    model.blocks[0] = new
    model.blocks.append(copy.deepcopy(new))
    swapped.undo()
    assert type(model.blocks).__name__ == "Blocks"
    assert model.blocks[0] is new and len(model.blocks) == 3
    model(pictures())


def test_synchronised_norms_are_not_taken_for_plain_ones(
    native: NativeLibrary, caplog: pytest.LogCaptureFixture
) -> None:
    plain, twin = (nn.SyncBatchNorm.convert_sync_batchnorm(model) for model in both("convmixer"))
    with torch.no_grad():
        assert torch.equal(twin(pictures()), plain(pictures()))
    assert any("SyncBatchNorm is not BatchNorm" in each for each in caplog.messages)


def test_a_norm_that_tracks_nothing_keeps_its_running_statistics(native: NativeLibrary) -> None:
    plain, twin = both("convmixer")
    for model in (plain, twin):
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.track_running_stats = False
        with torch.no_grad():
            model.train()(pictures())
    for (name, a), b in zip(plain.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b), name


def test_dropout_may_be_on_by_itself(native: NativeLibrary) -> None:
    """Monte Carlo dropout (Gal and Ghahramani 2016): the model evaluates, its dropout is in training."""
    plain, twin = both("vit", dropout=0.5)
    given, grid = tokens("vit"), GRIDS["vit"]
    found = []
    for model in (plain.eval(), twin.eval()):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        torch.manual_seed(5)
        with torch.no_grad():
            found.append([model.blocks(given, grid) for _ in range(2)])
    assert not torch.equal(found[1][0], found[1][1])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@ARCHITECTURES
def test_frozen_norms_stay_frozen_through_swap_and_undo(native: NativeLibrary, architecture: str) -> None:
    model = build(architecture).train()
    frozen = [name for name, part in model.named_modules() if "norm" in name and "blocks" in name]
    for name in frozen:
        model.get_submodule(name).eval()
    before = {name: part.training for name, part in model.named_modules()}
    swapped = swap(model, kernels="native", precision="fp32")
    assert {name: part.training for name, part in model.named_modules()} == before
    assert len(set(before.values())) == 2
    swapped.undo()
    assert {name: part.training for name, part in model.named_modules()} == before


@ARCHITECTURES
def test_a_second_swap_finds_the_twins(native: NativeLibrary, architecture: str) -> None:
    model = build(architecture)
    first = swap(model, kernels="native", precision="fp32")
    second = swap(model, kernels="auto", precision="bf16")
    assert (second.kernels, second.precision) == ("native", "fp32") and not second.replaced
    assert "twins that are in already: stem (native" in str(second) and "blocks (native" in str(second)
    second.undo()
    assert type(model.blocks).__name__.startswith("Native")
    first.undo()
    assert type(model.blocks).__name__ == "Blocks"


@ARCHITECTURES
def test_some_of_the_blocks(native: NativeLibrary, architecture: str) -> None:
    plain, twin = both(architecture)
    given, grid = tokens(architecture), GRIDS[architecture]
    assert twin.blocks[1] is list(twin.blocks)[1] and len(twin.blocks[:1]) == 1
    with torch.no_grad():
        assert off(twin.eval().blocks[:1](given, grid), plain.eval().blocks[:1](given, grid)) < 1e-5


@ARCHITECTURES
def test_a_copy_answers_for_itself(native: NativeLibrary, architecture: str) -> None:
    _, twin = both(architecture)
    with torch.no_grad():
        before = twin.eval()(pictures())
        copied = copy.deepcopy(twin)
        for parameter in copied.parameters():
            parameter.mul_(0.5)
        assert torch.equal(twin(pictures()), before)
        assert off(copied(pictures()), before) > 1e-3
