"""The contracts of comparators, held by every one of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from isopatch.errors import UsageError
from isopatch.models.cifar_resnet import BasicBlock, cifar_resnet
from isopatch.models.cycle_mlp import cycle_mlp
from isopatch.models.vision_permutator import vision_permutator
from isopatch.nn.block import TwoStepBlock
from isopatch.nn.norms import frozen_statistics
from isopatch.nn.on_map import NormOnMap, OnMap
from isopatch.nn.recompute import recomputed
from isopatch.nn.staged import Staged

# (C, rows, cols) of what leaves the stem and each block, for pictures of 16 x 16.
DEPTHS = {
    "cifar_resnet": [(8, 16, 16)] * 3 + [(16, 8, 8)] * 2 + [(32, 4, 4)] * 2,
    "cycle_mlp": [(8, 4, 4)] * 2 + [(12, 2, 2)] * 3,
    "vision_permutator": [(8, 4, 4)] * 3 + [(12, 2, 2)] * 2,
}


def make(kind: str, **more: Any) -> Staged:
    torch.manual_seed(0)
    if kind == "cifar_resnet":
        model = cifar_resnet(depth=14, width=8, num_classes=5)
    elif kind == "cycle_mlp":
        # The halving convolution is a step of its own at the head of the second stage.
        sizes: dict[str, Any] = {"dims": (8, 12), "depths": (1, 2), "mlp_ratios": (2.0, 2.0)}
        model = cycle_mlp(**sizes, image_size=16, num_classes=5, **more)
    else:
        sizes = {"dims": (8, 12), "depths": (2, 1), "segment_dims": (4, 2), "transitions": (True,)}
        model = vision_permutator(
            **sizes, mlp_ratios=(2.0, 2.0), patch_size=4, image_size=16, num_classes=5, **more
        )
    assert isinstance(model, Staged)
    return model


@pytest.fixture(params=DEPTHS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("training", [False, True])
def test_forward_returns_one_tensor_in_both_modes(kind: str, training: bool) -> None:
    model = make(kind).train(training)
    x = torch.randn(3, 3, 16, 16)
    logits = model(x)
    assert isinstance(logits, Tensor)
    assert logits.shape == (3, 5)
    assert list(model(x, heads=True)) == ["cls"]


def test_features_at_every_depth(kind: str) -> None:
    model = make(kind).eval()
    x = torch.randn(3, 3, 16, 16)
    found = list(model.features_by_depth(x))
    assert [tuple(features.map.shape[1:]) for features in found] == DEPTHS[kind]
    for features in found:
        channels, rows, cols = features.map.shape[1:]
        assert features.grid == (rows, cols)
        assert features.tokens.shape == (3, rows * cols, channels)
        torch.testing.assert_close(features.tokens[:, cols + 1], features.map[:, :, 1, 1])
    by_hand = model.stem(x)
    torch.testing.assert_close(model.features(x, depth=0).map, by_hand)
    blocks = [block for stage in model.stages for block in stage]
    for depth, block in enumerate(blocks, start=1):
        by_hand = block(by_hand)
        torch.testing.assert_close(model.features(x, depth=depth).map, by_hand)
    final = model.features(x).map
    torch.testing.assert_close(final, model.norm(by_hand))
    torch.testing.assert_close(model(x), model.heads["cls"](final.mean((2, 3))))
    with pytest.raises(UsageError, match=f"depth {len(found)}: the model has fewer blocks"):
        model.features(x, depth=len(found))


def test_names_of_tensors_start_with_the_parts(kind: str) -> None:
    parts = {name.split(".")[0] for name in make(kind).state_dict()}
    assert {"stem", "stages", "heads"} <= parts <= {"stem", "stages", "norm", "heads"}


def gradients(model: Staged, x: Tensor) -> dict[str, Tensor]:
    """Of a loss in training mode, with the same random numbers each time."""
    torch.manual_seed(5)
    model.train()(x).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("kind", "more"),
    [("cifar_resnet", {}), ("cycle_mlp", {"drop_path": 0.5}), ("vision_permutator", {"drop_path": 0.5})],
)
def test_activation_checkpointing_changes_nothing(kind: str, more: dict[str, Any]) -> None:
    plain = make(kind, **more)
    recomputing = copy.deepcopy(plain)
    recomputing.activation_checkpointing = True
    x = torch.randn(8, 3, 16, 16)
    ours, theirs = gradients(plain, x), gradients(recomputing, x)
    for name, gradient in ours.items():
        assert torch.equal(gradient, theirs[name]), name
    for (name, left), right in zip(plain.named_buffers(), recomputing.buffers(), strict=True):
        assert torch.equal(left, right), name  # BatchNorm saw the batch once
    if more:
        # Negative control: drop path decides here, so other random numbers give other gradients.
        torch.manual_seed(6)
        again = copy.deepcopy(plain)
        again.zero_grad()
        again.train()(x).square().sum().backward()
        assert any(not torch.equal(ours[name], p.grad) for name, p in again.named_parameters())


def kept_for_the_backward_pass(model: Staged, x: Tensor) -> int:
    """How many tensors a forward pass saves."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        model(x)
    return len(kept)


def test_activation_checkpointing_keeps_less(kind: str) -> None:
    model = make(kind).train()
    x = torch.randn(2, 3, 16, 16)
    everything = kept_for_the_backward_pass(model, x)
    model.activation_checkpointing = True
    # What is left belongs to stem, norm, pooling and head, whatever the number of blocks.
    assert kept_for_the_backward_pass(model, x) < everything / 4
    # Evaluation has no backward pass to save for; nothing is recomputed there.
    assert kept_for_the_backward_pass(model.eval(), x) > everything / 2


def test_recomputing_without_frozen_statistics_would_count_a_batch_twice() -> None:
    # Negative control of the running statistics above.
    counts = []
    for run in (recomputed, lambda block, x: checkpoint(block, x, use_reentrant=False)):
        block = BasicBlock(4, 4, stride=1).train()
        run(block, torch.randn(2, 4, 6, 6, requires_grad=True)).sum().backward()
        counts.append(int(block.norm1.num_batches_tracked))
    assert counts == [1, 2]
    with frozen_statistics(block):
        block(torch.randn(2, 4, 6, 6))
    assert block.norm1.num_batches_tracked == 2


def test_tokens_reach_a_block_on_a_map_without_a_copy() -> None:
    seen: list[Tensor] = []

    class Look(nn.Module):
        def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
            seen.append(tokens)
            assert grid == (3, 2)
            return tokens

    x = torch.randn(2, 5, 3, 2).contiguous(memory_format=torch.channels_last)
    same = OnMap(TwoStepBlock(Look(), Look()))(x)
    assert torch.equal(same, x)
    assert {tokens.data_ptr() for tokens in seen} == {x.data_ptr()} == {same.data_ptr()}


def test_norm_on_a_map_is_over_channels() -> None:
    norm = NormOnMap(6, 1e-5)
    nn.init.normal_(norm.norm.weight)
    x = torch.randn(2, 6, 3, 4)
    torch.testing.assert_close(norm(x)[1, :, 2, 3], norm.norm(x[1, :, 2, 3]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["cycle_mlp", "vision_permutator"])
def test_exports_with_a_dynamic_batch(kind: str) -> None:
    model = make(kind).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.randn(3, 3, 16, 16),), dynamic_shapes=({0: batch}, None)[:1])
    for count in (1, 2, 7):
        x = torch.randn(count, 3, 16, 16)
        torch.testing.assert_close(program.module()(x), model(x))


def test_bfloat16_autocast_is_close_and_trains(kind: str) -> None:
    model = make(kind).train()
    x = torch.randn(4, 3, 16, 16)
    expected = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(x)
    torch.testing.assert_close(logits.float(), expected, atol=0.1, rtol=0.1)
    logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
