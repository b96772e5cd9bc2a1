import pytest
import torch
from torch import nn

from isopatch.errors import UsageError
from isopatch.nn.block import ResidualBranch, attention_block, drop_path, drop_path_rates
from isopatch.nn.channel_mixers import Mlp


class Ones(nn.Module):
    def forward(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        return torch.ones_like(tokens)


def test_drop_path_drops_whole_samples_and_rescales_the_others() -> None:
    branch = torch.ones(4000, 3, 2)
    dropped = drop_path(branch, 0.25)
    per_sample = dropped.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    values = per_sample[:, 0].unique()
    torch.testing.assert_close(values, torch.tensor([0.0, 1 / 0.75]))
    assert abs(float((per_sample[:, 0] == 0).float().mean()) - 0.25) < 0.03
    assert abs(float(dropped.mean()) - 1) < 0.03  # the expectation is kept


def test_drop_path_acts_in_training_only() -> None:
    branch = ResidualBranch(nn.Identity(), Ones(), dim=2, drop_path=0.5)
    tokens = torch.zeros(64, 3, 2)
    assert set(branch.train()(tokens, (1, 3)).unique().tolist()) == {0.0, 2.0}
    assert set(branch.eval()(tokens, (1, 3)).unique().tolist()) == {1.0}


def test_rates() -> None:
    assert drop_path_rates(0.1, 12, "linear") == pytest.approx(torch.linspace(0, 0.1, 12).tolist())
    assert drop_path_rates(0.1, 3, "constant") == [0.1, 0.1, 0.1]
    assert drop_path_rates(0.1, 1, "linear") == [0.1]
    with pytest.raises(UsageError, match="drop_path 1"):
        drop_path_rates(1.0, 3, "linear")


def test_layer_scale_multiplies_the_branch() -> None:
    branch = ResidualBranch(nn.Identity(), Ones(), dim=2, layer_scale=0.25)
    assert torch.equal(branch(torch.zeros(1, 3, 2), (1, 3)), torch.full((1, 3, 2), 0.25))
    assert ResidualBranch(nn.Identity(), Ones(), dim=2).scale is None


def test_mlp_dropout_in_training_only() -> None:
    mlp = Mlp(8, 16, dropout=0.5)
    tokens = torch.randn(4, 6, 8)
    assert (mlp.train()(tokens, (2, 3)) == 0).float().mean() > 0.3
    assert not (mlp.eval()(tokens, (2, 3)) == 0).any()


@pytest.mark.parametrize("grid", [(2, 3), (1, 6), (6, 1)])
def test_attention_block_keeps_shape_and_layout(grid: tuple[int, int]) -> None:
    tokens = torch.randn(2, 7, 12)
    mixed = attention_block(12, 3)(tokens, grid)
    assert mixed.shape == tokens.shape
    assert mixed.is_contiguous()
