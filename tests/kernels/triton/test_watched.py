"""What PyTorch's watchers, autograd and BatchNorm's own errors are owed by the Triton twin."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode

from isopatch.models.convmixer import ConvMixerBlock
from isopatch.nn.blocks import Blocks

blocks_module = pytest.importorskip("isopatch.kernels.triton.blocks", exc_type=ImportError)

GRID = (2, 3)
PYTORCHS_OWN_WARNINGS = pytest.mark.filterwarnings("ignore")  # of torch.jit, here and in forward_ad


@pytest.fixture
def pair() -> tuple[Blocks, Blocks]:
    """Plain blocks and a twin of a copy that evaluate, which does run when nothing watches."""
    torch.manual_seed(0)
    plain = Blocks([ConvMixerBlock(4, 3)]).eval()
    twin = blocks_module.TritonConvMixer(copy.deepcopy(plain), torch.float32).eval()
    with torch.no_grad():
        got, wanted = twin(tokens(), GRID), plain(tokens(), GRID)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.equal(got, wanted)
    return plain, twin


def tokens(pictures: int = 2) -> Tensor:
    return torch.randn(pictures, 6, 4, generator=torch.Generator().manual_seed(1))


def test_functional_gradients(pair: tuple[Blocks, Blocks]) -> None:
    wanted, got = (torch.func.grad(lambda x, b=b: b(x, GRID).square().sum())(tokens()) for b in pair)
    assert torch.equal(got, wanted)


@PYTORCHS_OWN_WARNINGS
def test_traces_hold_operations(pair: tuple[Blocks, Blocks]) -> None:
    plain, twin = pair

    class OnGrid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = twin

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.blocks(x, GRID)
            return out

    with torch.no_grad():
        traced = torch.jit.trace(OnGrid(), tokens(), check_trace=False)
        assert "_convolution" in str(traced.inlined_graph)
        torch.testing.assert_close(traced(2 * tokens()), plain(2 * tokens(), GRID))


def test_counting_operations_counts_all(pair: tuple[Blocks, Blocks]) -> None:
    counted = []
    for blocks in pair:
        with FlopCounterMode(display=False) as mode:
            blocks(tokens().requires_grad_(), GRID).sum().backward()
        counted.append(mode.get_total_flops())
    assert counted[0] == counted[1] > 0


@PYTORCHS_OWN_WARNINGS
def test_forward_derivatives(pair: tuple[Blocks, Blocks]) -> None:
    found = []
    for blocks in pair:
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(tokens(), torch.ones(2, 6, 4))
            found.append(forward_ad.unpack_dual(blocks(dual, GRID)).tangent)
    assert found[0] is not None and torch.equal(*found)


def test_hooks_of_all_modules_and_tensors_without_memory(pair: tuple[Blocks, Blocks]) -> None:
    called = []
    with register_module_forward_hook(lambda module, *_: called.append(type(module).__name__)):
        pair[1](tokens(), GRID)
    assert called.count("Conv2d") == 2
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert pair[1](mode.from_tensor(tokens()), GRID).shape == (2, 6, 4)
    assert not pair[1]._tell._told


def test_a_norm_in_training_in_a_model_that_evaluates(pair: tuple[Blocks, Blocks]) -> None:
    """Of a single value there is no variance: PyTorch's error, and no NaN in the running statistics."""
    for blocks in pair:
        blocks[0].pointwise_norm.train()
        running = [each for name, each in blocks.named_buffers() if "running" in name]
        before = [each.clone() for each in running]
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            blocks(torch.randn(1, 1, 4), (1, 1))
        assert all(map(torch.equal, running, before))
    with torch.no_grad():
        wanted, got = (blocks(tokens(), GRID) for blocks in pair)  # the control: of several there is one
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.equal(got, wanted)


def test_norms_that_evaluate_in_a_model_that_trains_take_a_single_value(pair: tuple[Blocks, Blocks]) -> None:
    found = []
    for blocks in pair:
        blocks.train()
        for norm in (blocks[0].depthwise_norm, blocks[0].pointwise_norm):
            norm.eval()
        with torch.no_grad():
            found.append(blocks(torch.ones(1, 1, 4), (1, 1)))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
    assert not torch.equal(*found)


@pytest.mark.parametrize("kind", ["negated", "zero", "with gaps"])
def test_gradients_in_any_form_are_read(pair: tuple[Blocks, Blocks], kind: str) -> None:
    given = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(2))
    gradient = {
        "negated": torch._neg_view(given[..., :4].contiguous()),
        "zero": torch._efficientzerotensor(2, 6, 4),
        "with gaps": given[..., ::2],
    }[kind]
    found = []
    for blocks in pair:
        blocks(tokens(), GRID).backward(gradient)
        found.append([each.grad for each in blocks.parameters()])
    for wanted, got in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_going_back_twice(pair: tuple[Blocks, Blocks]) -> None:
    for blocks in pair:
        loss = blocks(tokens(), GRID).square().sum()
        loss.backward(retain_graph=True)
        once = [each.grad.clone() for each in blocks.parameters()]
        loss.backward()
        for one, both in zip(once, blocks.parameters(), strict=True):
            torch.testing.assert_close(both.grad, 2 * one)
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()
