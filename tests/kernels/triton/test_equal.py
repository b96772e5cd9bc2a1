"""The Triton twin of ConvMixer's blocks gives the plain blocks' results, gradients and running statistics.

On the CPU it runs in Triton's interpreter (TRITON_INTERPRET, set in tests/conftest.py), which is slow: sizes
are tiny. On a GPU: TRITON_INTERPRET=0 pytest -m gpu tests/kernels/triton.

Distances are relative to the largest value, the wanted ones from the plain blocks in float64. float32: 1e-5.
bf16 and fp16: a block rounds four activations forward and four gradients back, each by at most one unit, so 8
units a block; the interpreter cuts bf16 off instead of rounding it, which makes its unit 2^-7, not 2^-8. With
ReLU that holds of the result alone: its slope jumps where rounding changes a value's sign.
"""

from __future__ import annotations

import copy
import os
from collections import defaultdict
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from isopatch.models.convmixer import ConvMixerBlock
from isopatch.nn.activations import Activation
from isopatch.nn.blocks import Blocks

blocks_module = pytest.importorskip("isopatch.kernels.triton.blocks", exc_type=ImportError)

DIRECT, TOEPLITZ = "direct-4x16x64", "toeplitz-64"
UNIT = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-11}


@dataclass(frozen=True)
class Case:
    """One shape: pictures, a grid, channels."""

    pictures: int
    grid: tuple[int, int]
    channels: int
    kernel_size: int
    activation: Activation = "gelu"
    depth: int = 1

    @property
    def places(self) -> int:
        return self.pictures * self.grid[0] * self.grid[1]


def make_blocks(case: Case) -> Blocks:
    """Blocks whose norms have weights and running statistics far from the defaults."""
    blocks = Blocks(
        ConvMixerBlock(case.channels, case.kernel_size, activation=case.activation) for _ in range(case.depth)
    )
    for norm in blocks.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None and norm.running_var is not None
            nn.init.normal_(norm.weight, 1, 0.3)
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return blocks


def make_twin(blocks: Blocks, dtype: torch.dtype, form: str):
    """A twin of a copy, which computes every shape in one form."""
    twin = blocks_module.TritonConvMixer(copy.deepcopy(blocks), dtype)
    twin.choices = EveryShape(lambda: form)
    return twin.train(blocks.training)


class EveryShape(defaultdict):
    """A record of choices that has an answer for every shape."""

    def __contains__(self, shape: object) -> bool:
        return True


def everything(
    blocks: nn.Module, tokens: Tensor, grid: tuple[int, int], gradient: Tensor
) -> dict[str, Tensor]:
    """Result, gradients of input and parameters, buffers after the step, and the result without gradients."""
    given_tokens = tokens.clone().requires_grad_()
    out = blocks(given_tokens, grid)
    out.backward(gradient)
    found = {"result": out.detach(), "input": given_tokens.grad}
    found |= {name: parameter.grad for name, parameter in blocks.named_parameters()}
    found |= {name: buffer.clone() for name, buffer in blocks.named_buffers()}
    with torch.no_grad():
        found["without gradients"] = blocks(tokens, grid)
    return found


def distances(
    case: Case, dtype: torch.dtype, form: str, *, train: bool, device: str = "cpu"
) -> dict[str, float]:
    """Distance of everything that the twin computes from what it should be."""
    blocks = make_blocks(case).train(train)
    twin = make_twin(blocks, dtype, form).to(device)
    tokens = torch.randn(case.pictures, case.grid[0] * case.grid[1], case.channels)
    gradient = torch.randn_like(tokens)
    wanted = everything(blocks.double(), tokens.double(), case.grid, gradient.double())
    got = everything(twin, tokens.to(device), case.grid, gradient.to(device))
    assert not twin._tell._told, f"the plain blocks ran: {twin._tell._told}"
    assert got.keys() == wanted.keys()

    def size(value: Tensor) -> float:
        return float(value.detach().double().abs().max())

    return {name: size(got[name].cpu() - value) / max(size(value), 1e-30) for name, value in wanted.items()}


def furthest(found: dict[str, float]) -> tuple[float, str]:
    return max((distance, name) for name, distance in found.items())


def drawn_cases(channels: int) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        pictures=st.integers(1, 3),
        grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        channels=st.integers(4, channels),
        kernel_size=st.integers(3, 9),
        activation=st.sampled_from(["gelu", "relu"]),
    )


# In the interpreter the Toeplitz form's time goes with the channels, one program each.
drawn = st.one_of(
    st.tuples(drawn_cases(40), st.sampled_from(["direct-4x16x64", "direct-8x16x64"])),
    st.tuples(drawn_cases(7), st.sampled_from(["toeplitz-64", "toeplitz-128"])),
)
# Of few places the normalised values are nearly constants, and the gradients through them cancel: what is
# left has fewer digits, in PyTorch's float32 as well.
drawn_for_training = drawn.filter(lambda pair: pair[0].places >= 12)
few = settings(max_examples=6, deadline=None, derandomize=True, database=None)


@few
@given(drawn_for_training)
def test_training_in_float32(pair: tuple[Case, str]) -> None:
    case, form = pair
    assert furthest(distances(case, torch.float32, form, train=True)) < (1e-5, "")


@few
@given(drawn)
def test_evaluation_in_float32(pair: tuple[Case, str]) -> None:
    case, form = pair
    assert furthest(distances(case, torch.float32, form, train=False)) < (1e-5, "")


@pytest.mark.parametrize(("form", "kernel_size"), [(DIRECT, 4), (TOEPLITZ, 3)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_in_half_precision(dtype: torch.dtype, form: str, kernel_size: int) -> None:
    found = distances(Case(2, (5, 6), 6, kernel_size), dtype, form, train=True)
    assert furthest(found) < (8 * UNIT[dtype], "")
    assert found["result"] > UNIT[dtype] / 8  # it is half precision that ran
    found = distances(Case(2, (5, 6), 6, kernel_size, "relu"), dtype, form, train=True)
    assert furthest({name: found[name] for name in ("result", "without gradients")}) < (8 * UNIT[dtype], "")


@pytest.mark.parametrize(
    ("case", "form"), [(Case(1, (2, 19), 130, 3, depth=2), DIRECT), (Case(2, (35, 3), 4, 3), TOEPLITZ)]
)
def test_maps_of_several_tiles_and_programs_of_several_turns(
    case: Case, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isopatch.kernels.triton.normalise.SUM_PROGRAMS", 2)
    monkeypatch.setattr("isopatch.kernels.triton.depthwise.WEIGHT_PROGRAMS", 1)
    assert furthest(distances(case, torch.float32, form, train=True)) < (1e-5, "")


@pytest.mark.parametrize("form", [DIRECT, TOEPLITZ])
def test_grids_smaller_than_the_kernel(form: str) -> None:
    assert furthest(distances(Case(3, (2, 3), 5, 9), torch.float32, form, train=True)) < (1e-5, "")
    assert furthest(distances(Case(1, (1, 1), 5, 8), torch.float32, form, train=False)) < (1e-5, "")


def test_many_partial_statistics_join_to_those_of_all_values() -> None:
    """More parts than one program joins, of unequal sizes and far apart."""
    from isopatch.kernels.triton.depthwise import Partials
    from isopatch.kernels.triton.normalise import batch_terms

    parts = [torch.randn(1 + index % 3, 5) + index for index in range(130)]
    partials = Partials(
        torch.stack([part.mean(0) for part in parts]),
        torch.stack([(part - part.mean(0)).square().sum(0) for part in parts]),
        torch.tensor([float(len(part)) for part in parts]),
    )
    norm = nn.BatchNorm2d(5)
    terms = batch_terms(partials, norm)
    values = torch.cat(parts).double()
    torch.testing.assert_close(terms[0].double(), values.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        terms[1].double(), (values.var(0, correction=0) + 1e-5).rsqrt(), rtol=1e-6, atol=0
    )
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_var.double(), 0.9 + 0.1 * values.var(0), rtol=1e-6, atol=0)


def test_channels_whose_mean_is_large_keep_their_variance() -> None:
    """Sums of squares would lose it: the mean is 3000 times the deviation."""
    case = Case(2, (6, 6), 4, 3, "relu")
    blocks = make_blocks(case).train()
    with torch.no_grad():
        blocks[0].depthwise.bias.fill_(1000)
        blocks[0].pointwise.bias.fill_(1000)
    for form in (DIRECT, TOEPLITZ):
        twin = make_twin(blocks, torch.float32, form)
        tokens = torch.randn(2, 36, 4)
        wanted = copy.deepcopy(blocks).double()(tokens.double(), case.grid)
        torch.testing.assert_close(twin(tokens, case.grid).double(), wanted, rtol=0, atol=5e-3)
    values = torch.randn(1000) / 3 + 1000
    assert (values.square().mean() - values.mean().square() - 1 / 9).abs() > 0.01  # the control


@pytest.mark.parametrize("part", ["weight", "bias", "running_mean"])
def test_the_comparison_notices_a_small_difference(part: str) -> None:
    """One value in a hundred thousandth of its size changed in the twin alone."""
    case = Case(2, (3, 3), 6, 3)
    blocks = make_blocks(case).eval()
    twin = make_twin(blocks, torch.float32, DIRECT)
    with torch.no_grad():
        getattr(twin[0].depthwise_norm, part)[2] += 1e-3
    tokens = torch.randn(2, 9, 6)
    wanted, got = blocks(tokens, case.grid), twin(tokens, case.grid)
    assert (got - wanted).abs().max() > 1e-5 * wanted.abs().max()


def test_running_statistics_need_the_unbiased_variance() -> None:
    """The control of the comparison above: the biased one is noticed."""
    case = Case(1, (3, 3), 4, 3)
    blocks = make_blocks(case).train()
    twin = make_twin(blocks, torch.float32, DIRECT)
    tokens = torch.randn(1, 9, 4)
    before = twin[0].depthwise_norm.running_var.clone()
    blocks(tokens, case.grid)
    twin(tokens, case.grid)
    got, wanted = twin[0].depthwise_norm.running_var, blocks[0].depthwise_norm.running_var
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=0)
    biased = 0.9 * before + (wanted - 0.9 * before) * 8 / 9
    assert not torch.allclose(got, biased, rtol=1e-3)
    assert twin[0].depthwise_norm.num_batches_tracked == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="set TRITON_INTERPRET=0")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    "case",
    [
        Case(4, (32, 32), 256, 9, depth=2),
        Case(4, (16, 16), 256, 5, depth=2),
        Case(2, (32, 32), 768, 7, "relu"),
        Case(3, (7, 13), 37, 4),
        Case(1, (70, 9), 24, 15),
    ],
)
def test_on_a_gpu(case: Case, train: bool, dtype: torch.dtype) -> None:
    unit = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}.get(dtype)
    for form in blocks_module.candidates(case.grid[1], case.kernel_size, dtype):
        found = distances(case, dtype, form.name, train=train, device="cuda")
        if unit is not None and case.activation == "relu":
            found = {name: found[name] for name in ("result", "without gradients")}
        bound = 1e-5 if unit is None else 8 * case.depth * unit
        assert furthest(found) < (bound, ""), form.name
