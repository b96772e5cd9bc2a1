"""Every source of a number that is not finite is stopped and named."""

import pytest
import torch
from torch import nn

from isopatch.training import guard

NAMES = ["a.png (#0)", "b.png (#1)"]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def names():
    return NAMES


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_pixel_names_its_picture(value):
    images = torch.zeros(2, 3)
    images[1, 0] = value
    with pytest.raises(guard.NonFinite, match=r"step 7: loss is nan: pixels of b.png \(#1\)"):
        guard.check_loss(torch.tensor(float("nan")), 7, net(), images, names)


def test_a_bad_weight_is_named():
    model = net()
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    with pytest.raises(guard.NonFinite, match=r"0.weight is not finite"):
        guard.check_loss(torch.tensor(float("nan")), 7, model, torch.zeros(2, 3), names)


def test_a_bad_gradient_is_named():
    model = net()
    model(torch.randn(4, 3)).sum().backward()
    model[0].bias.grad[2] = float("inf")
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    with pytest.raises(guard.NonFinite, match=r"gradient of 0.bias .*a.png"):
        guard.check_gradients(norm, 3, model, names)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_batchnorm_buffer_is_named(value):
    model = net()
    model[1].running_var[0] = value
    with pytest.raises(guard.NonFinite, match=r"1.running_var is not finite"):
        guard.check_state(model, 3, names)


@pytest.mark.parametrize("lr", [1e30, float("nan"), float("inf"), -1.0])
def test_an_absurd_learning_rate_is_refused(lr):
    with pytest.raises(guard.NonFinite, match="learning rate"):
        guard.check_lr(lr, 3)


def test_control_finite_numbers_pass():
    model = net()
    model(torch.randn(4, 3)).sum().backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    guard.check_lr(0.1, 0)
    guard.check_loss(torch.tensor(1.0), 0, model, torch.zeros(2, 3), names)
    guard.check_gradients(norm, 0, model, names)
    guard.check_state(model, 0, names)


def test_fp16_that_overflows_at_every_scale_is_stopped():
    model = net()
    model(torch.randn(4, 3)).sum().backward()
    model[0].bias.grad[2] = float("inf")
    guard.check_scale(guard.LOWEST_SCALE, 7, model, names)  # control: the scaler may still go on
    with pytest.raises(guard.NonFinite, match=r"step 7: .*every fp16 step overflows .*0\.bias"):
        guard.check_scale(guard.LOWEST_SCALE / 2, 7, model, names)
