import pytest
import torch

from isopatch.data.mixing import mix, smooth_targets
from isopatch.errors import UsageError
from isopatch.training.config import MixConfig


def test_smoothing_gives_every_class_its_share():
    targets = smooth_targets(torch.tensor([2, 0]), 5, 0.1)
    off, on = 0.1 / 5, 1 - 0.1 + 0.1 / 5
    expected = torch.tensor([[off, off, on, off, off], [on, off, off, off, off]])
    torch.testing.assert_close(targets, expected, atol=1e-7, rtol=0)
    assert targets.dtype == torch.float32


def test_without_smoothing_targets_are_exactly_one_hot():
    assert torch.equal(smooth_targets(torch.tensor([1, 2, 0]), 3, 0.0), torch.eye(3)[[1, 2, 0]])


def test_an_odd_batch_is_refused_with_the_reason():
    with pytest.raises(UsageError, match="even one, not 3"):
        mix(
            torch.zeros(3, 3, 4, 4),
            torch.zeros(3, dtype=torch.long),
            2,
            MixConfig(mixup=1.0),
            label_smoothing=0,
            seed=0,
        )


@pytest.mark.parametrize("setting", [MixConfig(), MixConfig(mixup=0.8, cutmix=1.0, probability=0)])
def test_mixing_that_is_off_changes_nothing(setting):
    images = torch.randn(4, 3, 8, 8)
    labels = torch.tensor([0, 1, 2, 1])
    mixed, targets = mix(images.clone(), labels, 3, setting, label_smoothing=0.1, seed=0)
    assert torch.equal(mixed, images)
    assert torch.equal(targets, smooth_targets(labels, 3, 0.1))
