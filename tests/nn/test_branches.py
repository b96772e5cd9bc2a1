"""Three branches, weighted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isopatch.errors import UsageError
from isopatch.nn.branches import WeightedBranches


def test_weights_of_a_channel_add_up_to_one() -> None:
    part = WeightedBranches(8)
    tokens = torch.randn(2, 5, 8)
    torch.testing.assert_close(part(tokens, tokens, tokens), part.proj(tokens))


def test_a_high_score_chooses_its_branch_for_its_channel() -> None:
    part = WeightedBranches(8)
    nn.init.zeros_(part.fc2.weight)
    nn.init.zeros_(part.fc2.bias)
    a, b, c = torch.randn(3, 2, 5, 8)
    with torch.no_grad():
        torch.testing.assert_close(part(a, b, c), part.proj((a + b + c) / 3))
        part.fc2.bias[3 * 6 + 1] = 100.0  # channel 6, second branch
        mixed = (a + b + c) / 3
        mixed[..., 6] = b[..., 6]
        torch.testing.assert_close(part(a, b, c), part.proj(mixed))


def test_too_few_channels_are_refused() -> None:
    WeightedBranches(4)
    with pytest.raises(UsageError, match="branch_weights_hidden 0"):
        WeightedBranches(3)
