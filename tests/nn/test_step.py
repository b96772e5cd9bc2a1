"""A step of a block: where norm, activation and skip stand, checked against the formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isopatch.errors import UsageError
from isopatch.nn.block import ResidualBranch
from isopatch.nn.channel_mixers import GatedLinear, Mlp, Pointwise
from isopatch.nn.layout import as_map, as_tokens
from isopatch.nn.norms import Affine
from isopatch.nn.step import SkipBlock, Step
from isopatch.nn.token_mixers import Depthwise
from isopatch.nn.token_norms import MapAffine, MapLayerNorm, TokenBatchNorm

GRID = (2, 3)


def parts() -> tuple[nn.LayerNorm, Mlp, nn.Module, Tensor]:
    norm, mixer = nn.LayerNorm(8), Mlp(8, 16)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm, mixer, nn.GELU(), torch.randn(2, 6, 8)


Formula = Callable[[Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Any], Tensor]
PLACES: dict[str, Formula] = {
    "before": lambda x, norm, mix, act: x + act(mix(norm(x))),
    "after-mixer": lambda x, norm, mix, act: x + act(norm(mix(x))),
    "after-activation": lambda x, norm, mix, act: x + norm(act(mix(x))),
    "after-sum": lambda x, norm, mix, act: norm(x + act(mix(x))),
}


@pytest.mark.parametrize("place", PLACES)
def test_each_place_of_the_norm_is_its_formula(place: Any) -> None:
    norm, mixer, activation, x = parts()
    step = Step(norm, mixer, dim=8, norm_place=place, activation=activation)
    expected = {name: f(x, norm, lambda t: mixer(t, GRID), activation) for name, f in PLACES.items()}
    torch.testing.assert_close(step(x, GRID), expected.pop(place))
    assert all(not torch.allclose(step(x, GRID), other) for other in expected.values())


def test_without_a_skip_the_tokens_are_not_added() -> None:
    norm, mixer, activation, x = parts()
    step = Step(norm, mixer, dim=8, activation=activation, skip=False)
    torch.testing.assert_close(step(x, GRID), activation(mixer(norm(x), GRID)))


def test_the_pre_norm_step_is_the_residual_branch_to_the_last_bit() -> None:
    norm, mixer, _, x = parts()
    step = Step(norm, mixer, dim=8, layer_scale=0.3, drop_path=0.5).train()
    branch = ResidualBranch(norm, mixer, dim=8, layer_scale=0.3, drop_path=0.5).train()
    assert list(step.state_dict()) == list(branch.state_dict())
    results = []
    for part in (step, branch):
        torch.manual_seed(1)
        results.append(part(x, GRID))
    assert torch.equal(*results)
    assert not torch.equal(step.eval()(x, GRID), results[0])  # the drop was drawn


def test_a_skip_around_both_steps_scales_and_drops_once() -> None:
    norm, mixer, _, x = parts()
    token = Step(nn.LayerNorm(8), Depthwise(8, 3), dim=8, skip=False)
    channel = Step(norm, mixer, dim=8, skip=False)
    block = SkipBlock(token, channel, dim=8, layer_scale=0.1, drop_path=0.5).eval()
    branch = channel(token(x, GRID), GRID)
    torch.testing.assert_close(block(x, GRID), x + 0.1 * branch)
    torch.manual_seed(0)
    dropped = block.train()(x.repeat(8, 1, 1), GRID)
    kept = (dropped != x.repeat(8, 1, 1)).flatten(1).any(1)
    assert 0 < kept.sum() < 16
    torch.testing.assert_close(dropped[kept], (x + 0.2 * branch).repeat(8, 1, 1)[kept])


def test_the_two_gates_of_a_skip_are_checked() -> None:
    norm, mixer, _, _ = parts()
    with pytest.raises(UsageError, match=r"drop_path 1.0"):
        Step(norm, mixer, dim=8, drop_path=1.0)
    with pytest.raises(UsageError, match="layer_scale nan"):
        Step(norm, mixer, dim=8, layer_scale=float("nan"))


def test_batch_norm_of_tokens_is_batch_norm_of_the_map() -> None:
    ours, plain = TokenBatchNorm(8).train(), nn.BatchNorm2d(8).train()
    tokens = torch.randn(3, 6, 8) * 2 + 1
    torch.testing.assert_close(ours(tokens), as_tokens(plain(as_map(tokens, GRID))))
    assert list(ours.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(ours.running_var, plain.running_var)


@pytest.mark.parametrize(
    ("of_map", "of_tokens"), [(MapLayerNorm(8), nn.LayerNorm(8)), (MapAffine(8), Affine(8))]
)
def test_norms_of_maps_are_the_norms_of_their_tokens(of_map: nn.Module, of_tokens: nn.Module) -> None:
    for parameter in of_map.parameters():
        nn.init.normal_(parameter)
    of_tokens.load_state_dict(of_map.state_dict(), strict=True)
    tokens = torch.randn(3, 6, 8)
    normed = of_map(as_map(tokens, GRID))
    assert normed.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(as_tokens(normed), of_tokens(tokens))


@pytest.mark.parametrize("kernel_size", [3, 4])
def test_depthwise_convolves_every_channel_on_the_grid(kernel_size: int) -> None:
    mixer = Depthwise(8, kernel_size)
    tokens = torch.randn(2, 6, 8)
    before, after = (kernel_size - 1) // 2, kernel_size // 2
    padded = nn.functional.pad(as_map(tokens, GRID), (before, after, before, after))
    plain = nn.functional.conv2d(padded, mixer.conv.weight, mixer.conv.bias, groups=8)
    torch.testing.assert_close(mixer(tokens, GRID), as_tokens(plain))
    with pytest.raises(UsageError, match="prefix token"):
        Depthwise(8, kernel_size, num_prefix=1)


def test_pointwise_is_a_linear_layer_over_channels_of_any_sequence() -> None:
    mixer, tokens = Pointwise(8), torch.randn(2, 7, 8)  # 7 tokens: a prefix and a 2 x 3 grid
    expected = tokens @ mixer.conv.weight[:, :, 0, 0].T + mixer.conv.bias
    torch.testing.assert_close(mixer(tokens, GRID), expected)


def test_a_gated_mlp_scales_one_half_by_the_other() -> None:
    mixer, tokens = GatedLinear(8, 12), torch.randn(2, 7, 8)
    gate, passed = mixer.fc1(tokens)[..., :12], mixer.fc1(tokens)[..., 12:]
    torch.testing.assert_close(mixer(tokens, GRID), mixer.fc2(nn.functional.gelu(gate) * passed))
