"""Decay groups, and optimiser state by parameter name."""

import pytest
import torch
from torch import nn

from isopatch.errors import IsopatchError
from isopatch.training.config import OptimizerConfig
from isopatch.training.optim import build_optimizer, decay_groups


def model():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    net = nn.Sequential(conv, nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 9, 2))
    net.register_parameter("position", nn.Parameter(torch.zeros(1, 5, 2)))
    return net


def test_biases_norms_and_the_architectures_set_are_spared():
    decayed, spared = decay_groups(model(), OptimizerConfig(), {"position"})
    assert set(decayed) == {"0.weight", "3.weight"}
    assert set(spared) == {"position", "0.bias", "1.weight", "1.bias", "3.bias"}


def test_decay_all_spares_nothing():
    decayed, spared = decay_groups(model(), OptimizerConfig(decay="all"), {"position"})
    assert len(decayed) == 7 and not spared


def test_deits_decayed_distillation_token_is_a_switch():
    net = nn.Module()
    net.prefix = nn.Module()
    net.prefix.dist_token = nn.Parameter(torch.zeros(1, 1, 4))
    names = {"prefix.dist_token"}
    assert not decay_groups(net, OptimizerConfig(), names)[0]
    assert set(decay_groups(net, OptimizerConfig(decay_distillation_token=True), names)[0]) == names


def step(net, optimizer, seed):
    torch.manual_seed(seed)
    loss = net(torch.randn(8, 3, 4, 4)).square().mean()
    optimizer.optimizer.zero_grad()
    loss.backward()
    optimizer.optimizer.step()


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_restored_state_continues_to_the_same_bit(name):
    config = OptimizerConfig(name=name, lr=0.01)
    one, two = model(), model()
    first, second = (build_optimizer(m, config, set(), 0.01) for m in (one, two))
    for seed in range(3):
        step(one, first, seed)
    tensors, options = first.state()
    two.load_state_dict(one.state_dict())
    second.restore({k: v.contiguous() for k, v in tensors.items()}, options)
    for seed in range(3, 6):
        step(one, first, seed)
        step(two, second, seed)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_control_without_the_state_the_weights_differ():
    config = OptimizerConfig(lr=0.01)
    one, two = model(), model()
    first, second = (build_optimizer(m, config, set(), 0.01) for m in (one, two))
    for seed in range(3):
        step(one, first, seed)
    two.load_state_dict(one.state_dict())
    step(one, first, 9)
    step(two, second, 9)
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_restored_moments_take_the_parameters_strides():
    net = model()
    optimizer = build_optimizer(net, OptimizerConfig(), set(), 0.01)
    step(net, optimizer, 0)
    tensors, options = optimizer.state()
    optimizer.restore({k: v.contiguous() for k, v in tensors.items()}, options)
    assert optimizer.optimizer.state[net[0].weight]["exp_avg"].stride() == net[0].weight.stride()


def test_state_of_another_model_is_refused():
    optimizer = build_optimizer(model(), OptimizerConfig(), set(), 0.01)
    with pytest.raises(IsopatchError, match="another model"):
        optimizer.restore({"other.weight/exp_avg": torch.zeros(2)}, [{}, {}])
