"""Rollout against its definition, gradient rollout against gradients taken another way."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from isopatch.errors import UsageError
from isopatch.explain.attention import attention_weights, attentions, prefix_of
from isopatch.explain.attention_maps import attention_maps, by_layer_and_head
from isopatch.explain.heat import target_logits
from isopatch.explain.rollout import (
    fused,
    gradient_rollout_maps,
    read_rows,
    rollout,
    rollout_maps,
    weights_and_gradients,
    without_rollout,
)
from isopatch.nn.classifier import Classifier
from isopatch.nn.token_mixers import Attention

Make = Callable[..., Classifier]
TARGETS = torch.tensor([0, 2, 3])


def drawn(layers: int = 3, batch: int = 4, heads: int = 2, count: int = 7) -> list[torch.Tensor]:
    return [torch.randn(batch, heads, count, count).mul(3).softmax(-1) for _ in range(layers)]


@pytest.mark.parametrize(
    ("fusion", "identity", "discard"),
    list(itertools.product(("mean", "max", "min"), (True, False), (0.0, 0.5, 0.9))),
)
def test_rows_sum_to_one(fusion: Any, identity: bool, discard: float) -> None:
    product = rollout(drawn(), fusion=fusion, identity=identity, discard=discard, prefix=2)
    torch.testing.assert_close(product.sum(-1), torch.ones(4, 7))
    assert bool((product >= 0).all())


def test_dividing_without_keepdim_breaks_the_rows() -> None:
    """The control: what a popular implementation does after discarding, on one picture, as it must."""
    (weights,) = drawn(layers=1, batch=1)
    joined = weights.mean(1)
    smallest = joined.topk(4, dim=-1, largest=False).indices
    joined = joined.scatter(-1, smallest, 0.0)
    wrong = joined / joined.sum(-1)
    assert (wrong.sum(-1) - 1).abs().max() > 0.01
    right = fused(weights, fusion="mean", discard=4 / 7, prefix=0)
    torch.testing.assert_close(right.sum(-1), torch.ones(1, 7))


def test_attention_of_each_token_to_itself_stays_the_identity() -> None:
    layers = [torch.eye(5).expand(2, 3, 5, 5)] * 4
    for identity in (True, False):
        torch.testing.assert_close(rollout(layers, identity=identity), torch.eye(5).expand(2, 5, 5))


def test_two_layers_by_hand() -> None:
    first, second = drawn(layers=2, batch=1)
    one = 0.5 * first[0].mean(0) + 0.5 * torch.eye(7)
    two = 0.5 * second[0].mean(0) + 0.5 * torch.eye(7)
    torch.testing.assert_close(rollout([first, second])[0], two @ one)
    assert not torch.allclose(rollout([first, second])[0], one @ two, atol=1e-3)  # the order matters
    torch.testing.assert_close(
        rollout([first, second], identity=False)[0], second[0].mean(0) @ first[0].mean(0)
    )


def test_discarding_keeps_prefix_columns_and_the_largest_patches() -> None:
    weights = torch.tensor([[0.01, 0.02, 0.4, 0.3, 0.17, 0.1]]).expand(1, 1, 6, 6)
    kept = fused(weights, fusion="mean", discard=0.5, prefix=2)[0, 0]
    torch.testing.assert_close(kept, torch.tensor([0.01, 0.02, 0.4, 0.3, 0.0, 0.0]) / 0.73)


def test_class_and_distillation_token_are_rows_apart_without_prefix_columns(
    make: Make, pictures: torch.Tensor
) -> None:
    model = make("deit")
    product = rollout([weights for _, weights in attention_weights(model, pictures)])
    class_map, distillation_map = rollout_maps(model, pictures, TARGETS, {})
    assert (class_map.name, distillation_map.name) == ("class token", "distillation token")
    assert torch.equal(class_map.values.flatten(1), product[:, 0, 2:])
    assert torch.equal(distillation_map.values.flatten(1), product[:, 1, 2:])
    assert not torch.allclose(class_map.values, distillation_map.values, atol=1e-3)


def test_without_a_class_token_the_rows_of_all_patches_are_averaged(
    make: Make, pictures: torch.Tensor
) -> None:
    model = make("vit-mean")
    product = rollout([weights for _, weights in attention_weights(model, pictures)])
    (found,) = rollout_maps(model, pictures, TARGETS, {})
    assert found.name == "mean over patches"
    torch.testing.assert_close(found.values.flatten(1), product.mean(1))
    torch.testing.assert_close(found.values.sum(dim=(1, 2)), torch.ones(3))


def test_a_class_token_that_no_head_reads_is_not_read_here(make: Make) -> None:
    model = make("vit", pool="norm-mean")
    assert prefix_of(model) == ("class",)
    matrix = torch.rand(1, 17, 17)
    (found,) = read_rows(model, matrix, (4, 4))
    torch.testing.assert_close(found.values.flatten(), matrix[0, 1:, 1:].mean(0))


def test_gradients_by_the_weights_are_those_of_written_out_attention(
    make: Make, pictures: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("vit-relative")
    found = weights_and_gradients(model, pictures, TARGETS)
    kept: list[torch.Tensor] = []

    def written_out(self: Attention, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        qkv = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scores = qkv[0] @ qkv[1].transpose(-2, -1) / qkv.shape[-1] ** 0.5
        weights = (scores + self.relative_bias(grid)).softmax(-1)
        weights.retain_grad()
        kept.append(weights)
        return self.proj((weights @ qkv[2]).transpose(1, 2).flatten(2))

    monkeypatch.setattr(Attention, "forward", written_out)
    target_logits(model, pictures, TARGETS).sum().backward()
    assert len(kept) == len(found) == 2
    for weights, (ours, gradient) in zip(kept, found, strict=True):
        assert weights.grad is not None and weights.grad.abs().max() > 1e-4
        torch.testing.assert_close(ours, weights.detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(gradient, weights.grad, atol=1e-6, rtol=1e-4)


def test_gradient_rollout_by_hand_and_by_class(make: Make, pictures: torch.Tensor) -> None:
    model = make("deit")
    (a1, g1), (a2, g2) = weights_and_gradients(model, pictures, TARGETS)
    one, two = (a1 * g1).clamp(min=0).mean(1), (a2 * g2).clamp(min=0).mean(1)
    eye = torch.eye(18)
    product = (eye + two) @ (eye + one) - eye
    maps = gradient_rollout_maps(model, pictures, TARGETS, {})
    torch.testing.assert_close(maps[0].values.flatten(1), product[:, 0, 2:])
    torch.testing.assert_close(maps[1].values.flatten(1), product[:, 1, 2:])
    other = gradient_rollout_maps(model, pictures, TARGETS.roll(1), {})
    assert not torch.allclose(maps[0].values, other[0].values)


def test_frozen_models_and_no_grad_make_no_difference(make: Make, pictures: torch.Tensor) -> None:
    model = make("vit")
    expected = gradient_rollout_maps(model, pictures, TARGETS, {})[0].values
    with torch.no_grad():
        found = gradient_rollout_maps(model.requires_grad_(False), pictures, TARGETS, {})[0].values
    assert torch.equal(expected, found)


def test_attention_maps_are_the_rows_of_one_layer(make: Make, pictures: torch.Tensor) -> None:
    model = make("deit")
    layers = [weights for _, weights in attention_weights(model, pictures)]
    last = attention_maps(model, pictures, TARGETS, {})
    torch.testing.assert_close(last[1].values.flatten(1), layers[1].mean(1)[:, 1, 2:])
    first = attention_maps(model, pictures, TARGETS, {"attention.layer": 1})
    torch.testing.assert_close(first[0].values.flatten(1), layers[0].mean(1)[:, 0, 2:])
    with pytest.raises(UsageError, match=r"attention\.layer 7: the model has 2 layers with attention"):
        attention_maps(model, pictures, TARGETS, {"attention.layer": 7})
    heads = by_layer_and_head(model, pictures[:1])
    assert list(heads) == ["class token", "distillation token"]
    torch.testing.assert_close(heads["class token"][1].flatten(1), layers[1][0, :, 0, 2:])


def test_a_pyramid_has_attention_maps_and_no_rollout(make: Make, pictures: torch.Tensor) -> None:
    model = make("pyramid")
    (found,) = attention_maps(model, pictures, TARGETS, {})
    assert found.values.shape == (3, 2, 2)
    assert "another grid in each stage" in (without_rollout(model) or "")
    assert without_rollout(make("convmixer")) == "has no attention"
    assert without_rollout(make("hybrid")) is None


def test_a_block_without_attention_forbids_rollout(make: Make) -> None:
    model = make("vit")
    model.blocks[1] = nn.Identity()
    assert len(attentions(model)) == 1
    assert "blocks without attention" in (without_rollout(model) or "")


def test_heads_that_agree_on_no_place_leave_a_row_to_itself() -> None:
    weights = torch.zeros(1, 2, 3, 3)
    weights[:, 0, :, 0] = weights[:, 1, :, 1] = 1.0  # each head looks at another place
    torch.testing.assert_close(rollout([weights], fusion="min", identity=False), torch.eye(3)[None])
    weights[:, :, 2] = torch.tensor([0.5, 0.0, 0.5])
    product = rollout([weights], fusion="min")
    torch.testing.assert_close(product.sum(-1), torch.ones(1, 3))
    assert product[0, 2, 0] == 0.25


def test_a_layer_is_chosen_by_its_number_among_those_with_attention(make: Make) -> None:
    """Where the first block has none, layer 1 is the second block's, as the figure of all heads says."""
    model = make("vit", depth=3)
    model.blocks[0] = Still()
    x = torch.randn(1, 3, 16, 16)
    first, second = (weights for _, weights in attention_weights(model, x))
    for number, weights in ((1, first), (2, second), (0, second)):
        (heat,) = attention_maps(model, x, TARGETS[:1], {"attention.layer": number})
        torch.testing.assert_close(heat.values.flatten(), weights[0, :, 0, 1:].mean(0))
    with pytest.raises(UsageError, match=r"attention\.layer 3: the model has 2 layers"):
        attention_maps(model, x, TARGETS[:1], {"attention.layer": 3})


class Still(nn.Module):
    """A block without attention."""

    def forward(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        return tokens
