"""What a core does in a second with everything in its cache: products, depthwise sums, activations."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from isopatch.kernels.native.library import loaded

Map = tuple[int, int, int]  # kernel, height and width of a depthwise step
Pick = Callable[[Sequence[float]], float]
_ROWS, _INNER, _CHANNELS, _LANES = 96, 512, 256, 32
_MORE = 5_000_000  # operations that take longer than a call


@dataclass(frozen=True)
class Rates:
    """Operations (a multiply-add is two) and activations a second.

    operations: of products; sums: of each map's depthwise sums.
    """

    operations: float
    activations: float
    sums: Mapping[Map, float] = field(default_factory=dict)

    def __str__(self) -> str:
        depthwise = "".join(
            f", k{kernel} on {height}x{width} {rate / 1e9:.0f} GFLOP/s"
            for (kernel, height, width), rate in self.sums.items()
        )
        return f"{self.operations / 1e9:.0f} GFLOP/s, {self.activations / 1e9:.1f} G activations/s{depthwise}"


def measured(maps: Collection[Map]) -> tuple[Rates, Rates]:
    """The best and the usual rates in bf16."""
    products, activations = product_rates(torch.bfloat16), activation_rates(torch.bfloat16)
    sums = {each: sum_rates(torch.bfloat16, each) for each in maps}
    best, usual = (
        Rates(products[i], activations[i], {each: rates[i] for each, rates in sums.items()}) for i in (0, 1)
    )
    return best, usual


def of_all(rates: Sequence[Rates], pick: Pick) -> Rates:
    """Pick each rate of those measured."""
    maps = sorted({each for rate in rates for each in rate.sums})
    return Rates(
        pick([rate.operations for rate in rates]),
        pick([rate.activations for rate in rates]),
        {each: pick([rate.sums[each] for rate in rates if each in rate.sums]) for each in maps},
    )


def product_rates(dtype: torch.dtype) -> list[float]:
    """Operations a second of the product kernel with operands in the cache: the best, and the median.

    From what more columns cost, so that calling it and fetching its rows do not count.
    """
    few, many = 256, 512
    seconds = _extra_seconds(_product(dtype, few), _product(dtype, many))
    return [2 * _ROWS * _INNER * (many - few) / each for each in seconds]


def _product(dtype: torch.dtype, columns: int) -> Callable[[], None]:
    """A product, _ROWS x _INNER x columns."""
    lib = loaded()
    packed, bias = lib.pack(torch.randn(columns, _INNER), dtype), torch.zeros(columns)
    a, out = torch.randn(_ROWS, _INNER).to(dtype), torch.empty(_ROWS, columns, dtype=dtype)
    sizes = {"rows": _ROWS, "inner": _INNER, "columns": columns, "chunk": _ROWS, "rows_per_image": _ROWS}
    how = {"dtype": int(dtype == torch.bfloat16), "act": 0, "source": 0}
    return lambda: lib.call("linear_forward", **how, **sizes, in_=a, weight=packed, bias=bias, out=out)


def activation_rates(dtype: torch.dtype) -> list[float]:
    """Exact GELUs a second, with the norm behind them, of values in the cache: the best, and the median."""
    few, many = 32, 128
    seconds = _extra_seconds(_activations(dtype, few), _activations(dtype, many))
    return [_CHANNELS * (many - few) / each for each in seconds]


def _activations(dtype: torch.dtype, rows: int) -> Callable[[], None]:
    """A pass over rows x _CHANNELS values."""
    lib = loaded()
    u, out = torch.randn(rows, _CHANNELS).to(dtype), torch.empty(rows, _CHANNELS, dtype=dtype)
    how = {"dtype": int(dtype == torch.bfloat16), "act": 0, "rows": rows, "chunk": rows}
    one = torch.ones(_CHANNELS)
    return lambda: lib.call("normalise", **how, channels=_CHANNELS, u=u, scale=one, shift=one, x=out)


def sum_rates(dtype: torch.dtype, of: Map) -> list[float]:
    """Operations a second of a depthwise step without norm or activation, maps in the cache: best, median."""
    kernel, height, width = of
    of_a_map = 2 * _LANES * height * width * kernel**2
    few, many = 1, 2 + _MORE // of_a_map
    seconds = _extra_seconds(_depthwise(dtype, of, few), _depthwise(dtype, of, many), 500)
    return [of_a_map * (many - few) / each for each in seconds]


def _depthwise(dtype: torch.dtype, of: Map, images: int) -> Callable[[], None]:
    """A depthwise step of _LANES channels."""
    lib = loaded()
    kernel, height, width = of
    x = torch.randn(images, height, width, _LANES).to(dtype)
    out, weight, bias = torch.empty_like(x), torch.randn(kernel**2, _LANES), torch.zeros(_LANES)
    arguments: dict[str, Any] = {"dtype": int(dtype == torch.bfloat16), "act": 0, "images": images}
    arguments |= {"height": height, "width": width, "channels": _LANES, "kernel": kernel}
    arguments |= {"pad_top": (kernel - 1) // 2, "pad_left": (kernel - 1) // 2}
    return lambda: lib.call("depthwise_forward", **arguments, in_=x, weight=weight, bias=bias, out=out)


def _extra_seconds(few: Callable[[], None], many: Callable[[], None], calls: int = 3000) -> list[float]:
    """What `many` takes longer than `few`, of the fastest calls and of the middle ones.

    By turns, since a machine is slower at times.
    """
    seconds: dict[Callable[[], None], list[float]] = {few: [], many: []}
    for _ in range(calls):
        for call, taken in seconds.items():
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    extra = [pick(seconds[many]) - pick(seconds[few]) for pick in (min, statistics.median)]
    if min(extra) <= 0:
        sys.exit("more work took less time: this machine is too busy for a profile")
    return extra
