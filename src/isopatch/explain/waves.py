"""Whether positions are made of waves, and of rows and columns: two statistics and one null.

A field (rows, cols, C) is a vector per place. Each channel, its mean over places taken away, is a sum of
waves (its Fourier transform over the grid, a wave and its mirror image counted as one).

    concentration: the power of each channel's strongest wave, summed, over the power of all waves
    axes: the power of waves that run along rows or columns alone, over the power of all waves; this is the
          share of the variance that a sum "something per row plus something per column" explains

The null: the same vectors, dealt out to the places at random. A p-value is the share of the deals, the real
one included, that reach the real statistic.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isopatch.explain.places import Field

DEALS = 199
LEAST_PLACES = 12  # below, one wave of few explains much of any field
CHANNELS = 256  # those with the largest variance are looked at
ALPHA = 0.01
SINE_FROM = 0.6  # of the power in one wave per channel; bumps of a fifth of the grid reach 0.3-0.5


class Waves(NamedTuple):
    """Result of the test. null: mean over the deals. periods: by the number of periods over the longer way
    that the strongest wave has (rounded), its share of the power of all waves."""

    concentration: float
    concentration_null: float
    concentration_p: float
    axes: float
    axes_null: float
    axes_p: float
    periods: dict[int, float]

    @property
    def sine_like(self) -> bool:
        """Whether most of the power lies in one wave per channel, and more than by chance."""
        return self.concentration_p <= ALPHA and self.concentration >= SINE_FROM

    @property
    def rows_and_columns(self) -> bool:
        """Whether rows and columns explain more than by chance."""
        return self.axes_p <= ALPHA


def find_waves(field: Field, *, seed: int = 0, deals: int = DEALS) -> Waves | None:
    """Test a field (rows, cols, C); None where it has too few places or does not vary.

    A field of one row or one column has no rows and columns to tell apart: axes is 1 under the null too.
    """
    rows, cols, _ = field.shape
    centred = field - field.mean(axis=(0, 1))
    power = (centred**2).sum(axis=(0, 1))
    scale = float((field**2).sum())
    if rows * cols < LEAST_PLACES or float(power.sum()) <= 1e-18 * scale or scale == 0:
        return None
    strongest = np.argsort(-power, kind="stable")[:CHANNELS]
    flat = centred[:, :, strongest].reshape(rows * cols, -1)
    pairs = _pairs(rows, cols)
    concentration, axes, periods = _statistics(flat, (rows, cols), pairs)
    rng = np.random.default_rng(seed)
    dealt = np.array([
        _statistics(rng.permutation(flat, axis=0), (rows, cols), pairs)[:2] for _ in range(deals)
    ])  # fmt: skip
    reached = (dealt >= np.array([concentration, axes]) - 1e-12).sum(axis=0)
    p = (1 + reached) / (1 + deals)
    null = dealt.mean(axis=0)
    return Waves(
        concentration, float(null[0]), float(p[0]), axes, float(null[1]), float(p[1]), periods
    )  # fmt: skip


class _Pairs(NamedTuple):
    """wave: (N,) which wave each Fourier bin belongs to, 0 the constant. axes, periods: of each wave."""

    wave: NDArray[np.int64]
    axes: NDArray[np.bool_]
    periods: NDArray[np.int64]


def _pairs(rows: int, cols: int) -> _Pairs:
    """Join each bin (y, x) with its mirror (-y, -x)."""
    y, x = (axis.ravel() for axis in np.mgrid[:rows, :cols])
    mirror = (-y % rows) * cols + (-x % cols)
    own = y * cols + x
    names, first, index = np.unique(np.minimum(own, mirror), return_index=True, return_inverse=True)
    assert names[0] == 0
    across = np.minimum(x, cols - x)[first]
    down = np.minimum(y, rows - y)[first]
    return _Pairs(index, (across == 0) | (down == 0), np.maximum(across, down))


def _statistics(
    flat: NDArray[np.float64], grid: tuple[int, int], pairs: _Pairs
) -> tuple[float, float, dict[int, float]]:
    """Return concentration, axes and periods of centred channels (N, C)."""
    spectrum = np.abs(np.fft.fft2(flat.reshape(*grid, -1), axes=(0, 1))) ** 2
    waves = np.zeros((len(pairs.axes), flat.shape[1]))
    np.add.at(waves, pairs.wave, spectrum.reshape(len(pairs.wave), -1))
    waves[0] = 0.0
    total = float(waves.sum())
    strongest = waves.argmax(axis=0)
    peak = waves.max(axis=0)
    shares = np.bincount(pairs.periods[strongest], weights=peak / total)
    periods = {int(n): float(share) for n, share in enumerate(shares) if share > 0}
    return float(peak.sum()) / total, float(waves[pairs.axes].sum()) / total, periods
