"""The recomputed attention weights are those that the forward pass uses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from isopatch.explain import attention
from isopatch.explain.attention import attended_layers, attention_weights, attentions, projected
from isopatch.nn.classifier import Classifier

Make = Callable[..., Classifier]


def outputs_of_attention(model: Classifier, x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(input, output) of every attention module in one forward pass."""
    passed: list[tuple[torch.Tensor, torch.Tensor]] = []
    handles = [
        module.register_forward_hook(lambda _m, inputs, output: passed.append((inputs[0], output)))
        for module in attentions(model)
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return passed


def rebuilt(model: Classifier, x: torch.Tensor) -> list[torch.Tensor]:
    """What every attention module should return, from the recomputed weights times values through proj."""
    results = []
    layers = [weights for _, weights in attention_weights(model, x)]
    for module, (tokens, _), weights in zip(
        attentions(model), outputs_of_attention(model, x), layers, strict=True
    ):
        with torch.no_grad():
            mixed = weights @ projected(module, tokens)[2]
            results.append(module.proj(mixed.transpose(1, 2).flatten(2)))
    return results


def test_weights_times_values_is_what_the_module_returns(
    attending_model: Classifier, pictures: torch.Tensor
) -> None:
    expected = [output for _, output in outputs_of_attention(attending_model, pictures)]
    assert len(expected) == 2
    for ours, theirs in zip(rebuilt(attending_model, pictures), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_without_the_scale_or_the_bias_it_would_be_noticed(
    make: Make, pictures: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unscaled(module: attention.Attention, tokens: torch.Tensor, grid: object) -> torch.Tensor:
        query, key, _ = projected(module, tokens)
        return (query @ key.transpose(-2, -1)).softmax(-1)

    monkeypatch.setattr(attention, "weights_of", unscaled)
    model = make("vit")
    expected = outputs_of_attention(model, pictures)[0][1]
    assert not torch.allclose(rebuilt(model, pictures)[0], expected, atol=1e-3)


def test_rows_sum_to_one_and_layers_are_counted_from_zero(
    attending_model: Classifier, pictures: torch.Tensor
) -> None:
    layers = list(attended_layers(attending_model, pictures))
    assert [layer.layer for layer in layers] == [0, 1]
    for layer in layers:
        assert layer.weights.dtype == torch.float32 and not layer.weights.requires_grad
        patches = layer.grid[0] * layer.grid[1]
        prefix = len(attention.prefix_of(attending_model))
        assert layer.weights.shape == (3, layer.weights.shape[1], prefix + patches, prefix + patches)
        torch.testing.assert_close(layer.weights.sum(-1), torch.ones(layer.weights.shape[:-1]))


def test_chunks_change_nothing(make: Make, pictures: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [weights for _, weights in attention_weights(make("deit"), pictures)]
    monkeypatch.setattr(attention, "CHUNK_BYTES", 1)
    for one, other in zip(whole, attention_weights(make("deit"), pictures), strict=True):
        torch.testing.assert_close(one, other[1], atol=1e-6, rtol=1e-6)


def test_the_model_may_be_used_between_two_layers(make: Make, pictures: torch.Tensor) -> None:
    model = make("vit")
    alone = [weights for _, weights in attention_weights(model, pictures)]
    for expected, (_, weights) in zip(alone, attention_weights(model, pictures), strict=True):
        model(torch.zeros(1, 3, 16, 16))
        assert torch.equal(expected, weights)


def test_a_model_without_attention_yields_nothing(make: Make, pictures: torch.Tensor) -> None:
    model = make("convmixer")
    assert list(attention_weights(model, pictures)) == []
    assert attention.without_attention(model) == "has no attention"
    assert attention.without_attention(make("vit")) is None


def test_prefix_tokens_have_names(make: Make) -> None:
    names = {family: attention.prefix_of(make(family)) for family in ("vit", "deit", "vit-mean", "resnet")}
    expected = {"vit": ("class",), "deit": ("class", "distillation"), "vit-mean": (), "resnet": ()}
    assert names == expected
