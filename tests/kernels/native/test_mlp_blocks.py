"""The channel steps of MLP-Mixer and its kin, native, are the plain ones, on every instruction set."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.kernels.native.comparison import Tolerance, off
from tests.kernels.native.drawn import Drawn, draws, infers_alike, pictures, small, spread
from torch import Tensor, nn

import isopatch
from isopatch.kernels import swap
from isopatch.kernels.native.library import INSTRUCTIONS, NativeLibrary
from isopatch.nn.block import ResidualBranch
from isopatch.nn.skeleton import Isotropic


@dataclass
class Case(Drawn):
    """One model and batch. dim, hidden: in 32s; scale: the channel step's layer scale."""

    dim: int
    hidden: int
    depth: int
    height: int
    columns: int
    batch: int
    activation: str
    scale: float | None
    precision: str
    instructions: str

    def model(self) -> Isotropic:
        torch.manual_seed(self.dim * 100 + self.hidden)
        model = isopatch.create_model(
            "mlp_mixer",
            dim=32 * self.dim,
            depth=self.depth,
            mlp_ratio=self.hidden / self.dim,
            patch_size=2,
            image_size=(2 * self.height, 2 * self.columns),
            num_classes=3,
            activation=self.activation,
        )
        assert isinstance(model, Isotropic)
        if self.scale is not None:
            for block in model.blocks:
                block.channel.scale = nn.Parameter(torch.full((32 * self.dim,), self.scale))
        return spread(model)

    def size(self) -> tuple[int, int]:
        return 2 * self.height, 2 * self.columns


CASES = st.builds(
    Case,
    dim=st.integers(1, 5),
    hidden=st.integers(1, 8),
    depth=st.integers(1, 2),
    height=st.integers(1, 9),
    columns=st.integers(1, 9),
    batch=st.integers(1, 3),
    activation=st.sampled_from(["gelu", "relu"]),
    scale=st.sampled_from([None, 0.1, 1.0]),
    precision=st.sampled_from(["fp32", "bf16"]),
    instructions=st.sampled_from(INSTRUCTIONS[1:]),
)


@draws(40)
@given(case=CASES)
def test_inference_equals_the_plain_modules(native: NativeLibrary, case: Case) -> None:
    plain, twin, swapped = case.both(native, training=False)
    assert type(twin.blocks).__name__ == "NativeMlpBlocks", swapped
    assert infers_alike(twin, plain, case.pictures(), case.tolerance())


def mixer(**changes: object) -> Isotropic:
    return small("mlp_mixer", **changes)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("part", ["fc1", "fc2"])
def test_a_small_difference_would_be_seen(native: NativeLibrary, precision: str, part: str) -> None:
    plain = spread(mixer()).eval()
    twin = copy.deepcopy(plain)
    swap(twin, kernels="native", precision=precision)
    with torch.no_grad():
        twin.blocks[1].channel.mixer.get_submodule(part).weight[:4] += 0.3
        exact = plain.final_features(pictures()).tokens
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            ours = twin.final_features(pictures()).tokens
    assert off(ours, exact) > Tolerance.of(precision, "gelu").limit


def test_training_is_the_plain_blocks(native: NativeLibrary) -> None:
    plain = spread(mixer()).train()
    twin = copy.deepcopy(plain)
    swap(twin, kernels="native", precision="fp32")
    given = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for model in (plain, twin):
        tokens = model.blocks(given, (8, 8))
        tokens.square().sum().backward()
        found.append([tokens.detach(), *(parameter.grad for parameter in model.blocks.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    with torch.no_grad():
        assert not torch.equal(twin.blocks(given, (8, 8)), found[0][0])  # the passes, without gradients


def test_the_result_has_the_plain_blocks_type(native: NativeLibrary) -> None:
    """Under autocast: bfloat16 from a bfloat16 stem, float32 from there on where a branch has a scale."""
    for scaled in (False, True):
        plain = spread(mixer()).eval()
        if scaled:
            plain.blocks[0].channel.scale = nn.Parameter(torch.ones(64))
        twin = copy.deepcopy(plain)
        swap(twin, kernels="native", precision="bf16")
        tokens = torch.randn(2, 64, 64).bfloat16()
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            assert twin.blocks(tokens, (8, 8)).dtype == plain.blocks(tokens, (8, 8)).dtype


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dim": 72}, "dim width 72 is not a multiple of 32"),
        ({"mlp_ratio": 0.75}, "mlp width 48 is not a multiple of 32"),
        ({"activation": "gelu_tanh"}, "neither exact GELU nor ReLU"),
    ],
)
def test_what_has_no_twin_says_why(native: NativeLibrary, changes: dict[str, object], why: str) -> None:
    model = mixer(**changes)
    swapped = swap(model, kernels="native", precision="fp32")
    assert any(why in each for each in swapped.kept), swapped
    assert type(model.blocks).__name__ == "Blocks"


def test_a_step_replaced_after_the_swap_runs_plainly(
    native: NativeLibrary, caplog: pytest.LogCaptureFixture
) -> None:
    plain, twin = mixer().eval(), mixer().eval()
    swap(twin, kernels="native", precision="fp32")
    for model in (plain, twin):
        model.blocks[0].channel = Doubled(model.blocks[0].channel)
    tokens = torch.ones(1, 64, 64)
    with torch.no_grad():
        assert torch.equal(twin.blocks(tokens, (8, 8)), plain.blocks(tokens, (8, 8)))
    assert caplog.text.count("Doubled is not ResidualBranch") == 1


class Doubled(nn.Module):
    """Another channel step in a branch's place."""

    def __init__(self, branch: ResidualBranch) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return 2 * self.branch(tokens, grid)
