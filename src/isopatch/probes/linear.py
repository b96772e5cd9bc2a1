"""A linear classifier trained on kept features by SGD: the linear evaluation of self-supervised papers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from isopatch.data.seeding import derive_seed
from isopatch.probes.scaling import Scaling, scaling_of

Labels = NDArray[np.int64]

RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
EPOCHS, BATCH, MOMENTUM = 30, 256, 0.9


@dataclass(frozen=True)
class LinearProbes:
    """One classifier per learning rate. weight: (R, C, K), bias: (R, K), for scaled features."""

    scale: Scaling
    rates: tuple[float, ...]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def predict(self, features: NDArray[np.floating]) -> dict[float, Labels]:
        """Return rate -> (M,) classes of features (M, C), the first of equal ones."""
        x = self.scale(features).astype(np.float32)
        return {
            rate: (x @ weight + bias).argmax(axis=1).astype(np.int64)
            for rate, weight, bias in zip(self.rates, self.weight, self.bias, strict=True)
        }


def fit(
    features: NDArray[np.floating],
    labels: Labels,
    *,
    num_classes: int,
    rates: tuple[float, ...] = RATES,
    epochs: int = EPOCHS,
    seed: int = 0,
) -> LinearProbes:
    """Train a softmax classifier on features (N, C) for every learning rate, all on the same batches.

    Scaled features, weights from zero, SGD with momentum 0.9, batches of 256, cosine to 0, no weight decay
    and no augmentation: the pictures' features are fixed. The order of the pictures depends on `seed` alone.
    """
    scale = scaling_of(features)
    x = torch.from_numpy(scale(features).astype(np.float32))
    y = torch.nn.functional.one_hot(torch.from_numpy(labels), num_classes).to(torch.float32)
    step_size = torch.tensor(rates).view(-1, 1, 1)
    weight = torch.zeros(len(rates), x.shape[1], num_classes)
    bias = torch.zeros(len(rates), 1, num_classes)
    speed_weight, speed_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    generator = torch.Generator().manual_seed(derive_seed("linear probe", seed) % 2**63)
    batches = -(-len(x) // BATCH)
    with torch.no_grad():
        for epoch in range(epochs):
            order = torch.randperm(len(x), generator=generator)
            for number, members in enumerate(torch.split(order, BATCH)):
                progress = (epoch * batches + number) / (epochs * batches)
                rate = step_size * (0.5 + 0.5 * float(np.cos(np.pi * progress)))
                inputs, targets = x[members], y[members]
                # The gradient of the mean cross-entropy is (softmax - target) / B; no graph is needed.
                error = ((inputs @ weight + bias).softmax(dim=2) - targets) / len(members)
                speed_weight.mul_(MOMENTUM).add_(inputs.T @ error)
                speed_bias.mul_(MOMENTUM).add_(error.sum(dim=1, keepdim=True))
                weight -= rate * speed_weight
                bias -= rate * speed_bias
    return LinearProbes(scale, rates, weight.numpy(), bias[:, 0].numpy())
