"""Linear CKA between layers: minibatches, unbiased HSIC (Nguyen et al. 2021, Kornblith et al. 2019).

n pictures of a minibatch, L layers. A representation X (n, D) is compared through its Gram matrix K = X X^T:

    HSIC_1(K, K') = (tr(A A') + 1'A1 1'A'1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'A A'1) / (n (n - 3))
                    A, A' = K, K' with zero diagonals (Song et al. 2012)
    CKA = mean over minibatches HSIC_1(K, K') / sqrt(mean HSIC_1(K, K) * mean HSIC_1(K', K'))

HSIC_1 has no bias, so the mean over minibatches does not depend on their size. It is the inner product of
U-centred Gram matrices (Szekely and Rizzo 2014), which is how all pairs of layers are computed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isopatch.nn.classifier import Classifier, Features

BATCH = 64  # halves of smaller minibatches scatter more than they should
PIECE = 2**16  # features at a time in float64
LEAST = 4  # pictures of a minibatch: HSIC_1 divides by n - 3
Grams = list[Tensor]  # one (L, n, n) per minibatch, float64 on the CPU
Read = Callable[[Features], Tensor]  # features of a layer -> (B, D)


def flat(features: Features) -> Tensor:
    """All numbers of the patch tokens, (B, rows * cols * C), as Kornblith et al. (2019) compare."""
    return features.map.flatten(1)


def batches_of(count: int, size: int = BATCH) -> list[slice]:
    """Return minibatches of `count` pictures; what remains and is too small joins the last one."""
    edges = [*range(0, count, size), count]
    if len(edges) > 2 and edges[-1] - edges[-2] < LEAST:
        del edges[-2]
    return [slice(start, end) for start, end in pairwise(edges)]


@torch.no_grad()
def grams(model: Classifier, sample: Tensor, *, read: Read = flat, size: int = BATCH) -> Grams:
    """Return the Gram matrices of every depth, the stem's output first.

    sample: prepared pictures (M, C_in, H, W), M at least 4. The mean over the minibatch is taken away before
    the product, which changes no HSIC and keeps large common parts from costing digits.
    """
    found = []
    for part in batches_of(len(sample), size):
        layers = [_gram(read(features)) for features in model.features_by_depth(sample[part])]
        found.append(torch.stack(layers).cpu())
    return found


def cka(first: Grams, second: Grams) -> NDArray[np.float64]:
    """Return CKA of every layer with every layer, (L, L'); NaN where a layer does not vary with the picture.

    The estimate has no bias but noise: it can lie a little outside 0 to 1.
    """
    hsic = torch.zeros(len(first[0]), len(second[0]), dtype=torch.float64)
    own_first = torch.zeros(len(first[0]), dtype=torch.float64)
    own_second = torch.zeros(len(second[0]), dtype=torch.float64)
    for a, b in zip(map(u_centred, first), map(u_centred, second), strict=True):
        # The common factor 1 / (n (n - 3)) must stay: minibatches may differ in size.
        n = a.shape[1]
        factor = 1.0 / (n * (n - 3))
        a, b = a.flatten(1), b.flatten(1)
        hsic += factor * (a @ b.T)
        own_first += factor * (a * a).sum(dim=1)
        own_second += factor * (b * b).sum(dim=1)
    scale = (own_first[:, None] * own_second[None, :]).sqrt()
    values: NDArray[np.float64] = torch.where(scale > 0, hsic / scale, torch.nan).numpy()
    return values


def u_centred(gram: Tensor) -> Tensor:
    """Return U-centred Gram matrices (..., n, n): zero diagonal, every row sums to zero."""
    n = gram.shape[-1]
    assert n >= LEAST, n
    hollow = gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
    row = hollow.sum(dim=-1, keepdim=True) / (n - 2)
    every = hollow.sum(dim=(-2, -1), keepdim=True) / ((n - 1) * (n - 2))
    centred = hollow - row - row.transpose(-2, -1) + every
    centred = centred - torch.diag_embed(centred.diagonal(dim1=-2, dim2=-1))
    # What is left of equal pictures is rounding: it must not become a similarity of its own.
    size = gram.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None, None]
    return torch.where(centred.abs().amax(dim=(-2, -1), keepdim=True) > 1e-9 * size, centred, 0.0)


def layer_by_layer(first: Grams, second: Grams) -> Tensor:
    """Return CKA of each layer of the one with the layer of the same number of the other.

    Gram matrices (L, ..., n, n) per minibatch -> (L, ...); NaN where a layer does not vary.
    """
    products = [
        [(x * y).sum(dim=(-2, -1)) / (x.shape[-1] * (x.shape[-1] - 3)) for x, y in ((a, b), (a, a), (b, b))]
        for a, b in zip(map(u_centred, first), map(u_centred, second), strict=True)
    ]
    hsic, own_first, own_second = (torch.stack(terms).sum(dim=0) for terms in zip(*products, strict=True))
    scale = (own_first * own_second).sqrt()
    return torch.where(scale > 0, hsic / scale, torch.nan)


def half_samples(grams: Sequence[Grams], count: int, seed: int) -> list[Grams]:
    """Return, for each model, Gram matrices (L, count, n / 2, n / 2) of random halves of every minibatch.

    Drawn without replacement, the same halves for all models: a picture drawn twice would be equal to itself
    and raise every HSIC_1. An estimate from half of the pictures scatters about the whole one as the whole
    one does about the truth (the delete-half jackknife; Shao and Wu 1989), or somewhat more where minibatches
    are small.
    """
    rng = np.random.default_rng(seed)
    drawn: list[Grams] = [[] for _ in grams]
    for part in zip(*grams, strict=True):
        pictures = part[0].shape[-1]
        kept = max(pictures // 2, LEAST)
        halves = torch.from_numpy(np.stack([rng.permutation(pictures)[:kept] for _ in range(count)]))
        for of, gram in zip(drawn, part, strict=True):
            of.append(gram[:, halves[:, :, None], halves[:, None, :]])
    return drawn


def _gram(values: Tensor) -> Tensor:
    """X X^T of centred X (n, D) in float64, a piece of D at a time: a large map has millions of numbers."""
    gram = torch.zeros(len(values), len(values), dtype=torch.float64, device=values.device)
    most = gram.new_zeros(())
    for piece in torch.split(values, PIECE, dim=1):
        centred = piece.double()
        centred = centred - centred.mean(dim=0)
        most = torch.maximum(most, centred.abs().amax())
        gram += centred @ centred.T
    # Rows that differ by rounding alone (constant pictures) are the same row.
    return torch.where(most > 1e-6 * values.abs().amax(), gram, 0.0)
