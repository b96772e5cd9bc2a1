"""The moving average against its definition."""

import torch
from torch import nn

from isopatch.training.ema import Ema


def test_parameters_and_float_buffers_are_averaged_integer_buffers_copied():
    model = nn.BatchNorm1d(2)
    ema = Ema(model, decay=0.9)
    expected_weight = expected_mean = None
    for value in (1.0, 2.0, 5.0):
        with torch.no_grad():
            model.weight.fill_(value)
            model.running_mean.fill_(10 * value)
            model.num_batches_tracked.fill_(int(value))
        ema.update(model)
        if expected_weight is None:
            expected_weight, expected_mean = value, 10 * value
        else:
            expected_weight = 0.9 * expected_weight + 0.1 * value
            expected_mean = 0.9 * expected_mean + 0.1 * 10 * value
    assert torch.allclose(ema.model.weight, torch.full((2,), expected_weight))
    assert torch.allclose(ema.model.running_mean, torch.full((2,), expected_mean))
    assert int(ema.model.num_batches_tracked) == 5
    assert ema.updates == 3


def test_the_average_is_a_copy_and_never_trains():
    model = nn.Linear(2, 2)
    ema = Ema(model, decay=0.5)
    ema.update(model)
    before = ema.model.weight.clone()
    with torch.no_grad():
        model.weight.add_(1)
    assert torch.equal(ema.model.weight, before)
    assert not ema.model.weight.requires_grad and not ema.model.training
