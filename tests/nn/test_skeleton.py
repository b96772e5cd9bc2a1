"""The contracts of the skeleton, held by every architecture."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isopatch.errors import UsageError
from isopatch.models.convmixer import ConvMixerBlock, convmixer
from isopatch.models.deit import deit, deit3
from isopatch.models.vit import vit
from isopatch.nn.head import Head
from isopatch.nn.pool import MeanPool
from isopatch.nn.prefix import PrefixTokens
from isopatch.nn.skeleton import Isotropic
from isopatch.nn.stem import PatchStem

SIZE: dict[str, Any] = {"dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "image_size": (8, 12)}
CONV: dict[str, Any] = {"dim": 16, "depth": 2, "kernel_size": 3, "patch_size": 4, "image_size": (8, 12)}
PREFIX = {
    "vit": 1,
    "vit mean": 0,
    "deit": 1,
    "deit distilled": 2,
    "deit3": 1,
    "convmixer": 0,
    "convmixer even": 0,
}


def make(kind: str, **more: Any) -> Isotropic:
    torch.manual_seed(0)
    if kind.startswith("vit"):
        mean = {"class_token": False, "pool": "norm-mean"} if kind == "vit mean" else {}
        return vit(**SIZE, num_classes=5, **mean, **more)
    if kind.startswith("deit3"):
        return deit3(**SIZE, num_classes=5, **more)
    if kind.startswith("deit"):
        return deit(**SIZE, num_classes=5, distilled=kind == "deit distilled", **more)
    return convmixer(**{**CONV, "kernel_size": 4 if "even" in kind else 3}, num_classes=5, **more)


@pytest.fixture(params=PREFIX)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("training", [False, True])
def test_forward_returns_one_tensor_in_both_modes(kind: str, training: bool) -> None:
    model = make(kind).train(training)
    logits = model(torch.randn(3, 3, 8, 12))
    assert isinstance(logits, Tensor)
    assert logits.shape == (3, 5)


def test_heads_are_a_dict_and_their_mean_is_the_result(kind: str) -> None:
    model = make(kind).eval()
    x = torch.randn(3, 3, 8, 12)
    heads = model(x, heads=True)
    assert list(heads) == (["cls", "dist"] if kind == "deit distilled" else ["cls"])
    torch.testing.assert_close(model(x), torch.stack(list(heads.values())).mean(0))


def test_features(kind: str) -> None:
    model = make(kind).eval()
    tokens, grid, feature_map = model.features(torch.randn(3, 3, 8, 12))
    assert grid == (2, 3)
    assert model.num_prefix == PREFIX[kind]
    assert tokens.shape == (3, PREFIX[kind] + 6, 16)
    assert feature_map.shape == (3, 16, 2, 3)
    torch.testing.assert_close(feature_map[:, :, 1, 2], tokens[:, -1])
    torch.testing.assert_close(feature_map[:, :, 0, 0], tokens[:, PREFIX[kind]])


def test_features_at_every_depth(kind: str) -> None:
    model = make(kind).eval()
    x = torch.randn(3, 3, 8, 12)
    stem, *blocks = model.features_by_depth(x)
    assert len(blocks) == 2
    torch.testing.assert_close(model.features(x, depth=0), stem)
    for index, block in enumerate(model.blocks):
        expected = block(model.features(x, depth=index).tokens, (2, 3))
        found = model.features(x, depth=index + 1)
        torch.testing.assert_close(found.tokens, expected)
        torch.testing.assert_close(found.map, blocks[index].map)
    torch.testing.assert_close(model.pool(blocks[-1].tokens, model.norm)[0], model.features(x).tokens)
    with pytest.raises(UsageError, match="depth 3"):
        model.features(x, depth=3)
    with pytest.raises(UsageError, match="depth -1"):
        model.features(x, depth=-1)
    with pytest.raises(UsageError, match="give one number"):
        model.features(x, depth=(1, 2))  # type: ignore[arg-type]


def test_names_of_tensors_start_with_the_parts(kind: str) -> None:
    parts = {name.split(".")[0] for name in make(kind).state_dict()}
    assert parts <= {"stem", "prefix", "position", "blocks", "norm", "heads"}
    assert {"stem", "blocks", "heads"} <= parts


def test_blocks_keep_tokens_contiguous(kind: str) -> None:
    model = make(kind).eval()
    seen: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, output: seen.append(output))
    model(torch.randn(2, 3, 8, 12))
    assert len(seen) == 2
    assert all(tokens.is_contiguous() for tokens in seen)


def test_convmixer_reads_tokens_without_a_copy() -> None:
    block = ConvMixerBlock(16, 3).eval()
    seen: list[Tensor] = []
    block.depthwise.register_forward_hook(lambda module, args, output: seen.extend((args[0], output)))
    block.pointwise_norm.register_forward_hook(lambda module, args, output: seen.extend((args[0], output)))
    tokens = torch.randn(2, 6, 16)
    mixed = block(tokens, (2, 3))
    assert seen[0].data_ptr() == tokens.data_ptr()
    assert seen[-1].data_ptr() == mixed.data_ptr()
    # From end to end the map stays channels_last, BatchNorm's 4-D input included.
    assert all(m.dim() == 4 and m.is_contiguous(memory_format=torch.channels_last) for m in seen)


def test_convmixer_has_one_skip_and_activation_before_norm() -> None:
    block = ConvMixerBlock(16, 3).eval()
    for norm in (block.depthwise_norm, block.pointwise_norm):
        nn.init.normal_(norm.running_mean)
        nn.init.normal_(norm.weight)
    tokens = torch.randn(2, 6, 16)
    x = tokens.transpose(1, 2).reshape(2, 16, 2, 3)
    gelu = nn.functional.gelu
    x = x + block.depthwise_norm(gelu(block.depthwise(x)))
    x = block.pointwise_norm(gelu(block.pointwise(x)))
    torch.testing.assert_close(block(tokens, (2, 3)), x.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("size", [(8, 12), (16, 4), (9, 13), (31, 5)])
def test_convmixer_takes_any_size(size: tuple[int, int]) -> None:
    features = make("convmixer even").eval().features(torch.randn(2, 3, *size))
    assert features.grid == (size[0] // 4, size[1] // 4)


def test_learned_positions_take_one_size_only() -> None:
    with pytest.raises(ValueError, match="pass image_size"):
        make("vit")(torch.randn(2, 3, 12, 8))
    with pytest.raises(ValueError, match="not divisible by patch_size 4"):
        make("vit")(torch.randn(2, 3, 9, 12))


@pytest.mark.parametrize("position", ["sincos-2d", "none"])
def test_computed_positions_take_any_size(position: str) -> None:
    model = make("vit", position=position).eval()
    assert model.features(torch.randn(2, 3, 16, 4)).grid == (4, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 30}, "image_size 30x30 is not divisible by patch_size 4"),
        ({"num_heads": 3}, "dim 16 is not divisible by num_heads 3"),
        ({"class_token": False}, "pool 'class' reads the class token"),
        ({"dim": 18, "position": "sincos-2d"}, "dim 18 is not divisible by the four parts"),
        ({"depth": 0}, "depth 0"),
        ({"drop_path": 1.5}, "drop_path 1.5"),
        ({"dropout": -0.1}, "dropout -0.1"),
        ({"attention_dropout": 1.0}, "attention_dropout 1.0"),
        ({"num_classes": 0}, "num_classes 0"),
        ({"mlp_ratio": 0.0}, "mlp_hidden 0"),
        ({"layer_scale": float("nan")}, "layer_scale nan"),
    ],
)
def test_combinations_that_cannot_work_are_refused_when_built(
    arguments: dict[str, Any], message: str
) -> None:
    vit(**SIZE)  # negative control: the same size without the change is fine
    with pytest.raises(UsageError, match=message):
        vit(**{**SIZE, **arguments})


def test_convolution_with_prefix_tokens_is_refused_when_built() -> None:
    ConvMixerBlock(16, 3, num_prefix=0)
    with pytest.raises(UsageError, match=r"depthwise convolution.*prefix token"):
        ConvMixerBlock(16, 3, num_prefix=PrefixTokens(16).num_tokens)


def test_convolution_put_behind_prefix_tokens_by_hand_says_so() -> None:
    model = Isotropic(
        stem=PatchStem(3, 16, 4),
        blocks=[ConvMixerBlock(16, 3)],
        norm=nn.Identity(),
        pool=MeanPool(num_prefix=1),
        heads={"cls": Head(16, 5)},
        prefix=PrefixTokens(16),
    )
    with pytest.raises(UsageError, match="cannot be combined with prefix tokens"):
        model(torch.randn(2, 3, 8, 12))


@pytest.mark.parametrize("arguments", [{"drop_path": 0.3, "dropout": 0.1}, None])
def test_activation_checkpointing_changes_nothing(arguments: dict[str, Any] | None) -> None:
    plain = make("convmixer even") if arguments is None else make("vit", **arguments)
    recomputed = copy.deepcopy(plain)
    recomputed.activation_checkpointing = True
    x = torch.randn(8, 3, 8, 12)
    for model in (plain, recomputed):
        torch.manual_seed(5)
        model.train()(x).square().sum().backward()
    for (name, ours), theirs in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), name
    for (name, ours), theirs in zip(plain.named_buffers(), recomputed.buffers(), strict=True):
        assert torch.equal(ours, theirs), name  # BatchNorm saw the batch once


def test_recomputing_without_frozen_statistics_would_count_a_batch_twice() -> None:
    # Negative control of the test above.
    block = ConvMixerBlock(16, 3).train()
    tokens = torch.randn(2, 6, 16, requires_grad=True)
    torch.utils.checkpoint.checkpoint(block, tokens, (2, 3), use_reentrant=False).sum().backward()
    assert block.depthwise_norm.num_batches_tracked == 2


@pytest.mark.parametrize("exported", ["vit", "deit distilled", "convmixer even"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_exports_with_a_dynamic_batch(exported: str) -> None:
    model = make(exported).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.randn(3, 3, 8, 12),), dynamic_shapes=({0: batch}, None)[:1])
    for count in (1, 2, 7):
        x = torch.randn(count, 3, 8, 12)
        torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("position", ["learned", "learned-2d", "sincos-2d", "relative", "none", None])
def test_bfloat16_autocast_is_close_and_trains(position: str | None) -> None:
    model = make("convmixer even") if position is None else make("vit", position=position, init="deit")
    x = torch.randn(4, 3, 8, 12)
    expected = model.train()(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(x)
    torch.testing.assert_close(logits.float(), expected, atol=0.05, rtol=0.05)
    logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
