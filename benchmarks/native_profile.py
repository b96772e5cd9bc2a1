"""Where a native step's time goes, pass by pass, and how much of it the CPU's own arithmetic must take.

Claim: no step is faster than its bound: its products, its depthwise sums, and its activations and their
slopes, each at the rate of a pass of these kernels that does nothing else (products with their epilogue,
depthwise sums with their planes), in bf16 with everything in the cache; where tiles multiply while
activations are computed, the longer of the two. What lies between bound and step is what statistics, norms,
residuals and memory take. What memory takes is seen beside it: the same passes with a sixteenth of the
pictures, whose activations stay in the caches. One thread.
Where other work shares the core, a step meets the rates that the same kernels usually reach, not their best:
shares at both are recorded. On a quiet core they are nearly the same.
A ConvMixer's 1x1 steps with their epilogues reach at least 45 % of the product kernel's rate (aim 70 %);
where all blocks are one pass (`convmixer_infer`), with the depthwise steps' time too.
Control: a step below its bound, which a miscounted operation would show as, fails.
Hardware: one quiet core. Time: three minutes.
Command: python -m benchmarks.native_profile [ROW ...]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from benchmarks.common import parser, record, spread
from benchmarks.native_rates import Map, Rates, measured, of_all
from benchmarks.speed import Row
from benchmarks.speed_inference import ROWS as INFERENCE
from benchmarks.speed_training import ROWS as TRAINING
from torch import nn

import isopatch
from isopatch.kernels import swap
from isopatch.kernels.memory import keep_freed_memory
from isopatch.kernels.native.library import NativeLibrary, loaded
from isopatch.kernels.native.linear import SOURCES

Arguments = Mapping[str, Any]
POINTWISE, WHOLE, POINTWISE_FLOOR = "pointwise_forward", "convmixer_infer", 0.45
FEWER = 16  # times: of so many pictures the activations between passes stay in the cache


def _depthwise(a: Arguments) -> float:
    return 2.0 * a["images"] * a["height"] * a["width"] * a["channels"] * a["kernel"] ** 2


def _stem(a: Arguments) -> float:
    return (
        2.0
        * a["images"]
        * (a["height"] // a["patch"])
        * (a["width"] // a["patch"])
        * a["inner"]
        * a["channels"]
    )


def _rows(a: Arguments) -> float:
    return 2.0 * a["rows"] * a["inner"] * (a["columns"] if "columns" in a else a["channels"])


def _scores(a: Arguments) -> float:
    """One product of queries and keys, of all heads."""
    return 2.0 * a["images"] * a["heads"] * a["tokens"] ** 2 * a["width"]


def _transformer(a: Arguments) -> float:
    tokens, dim = a["images"] * a["tokens"], a["dim"]
    linear = tokens * dim * (4 * dim + 2 * a["hidden"])
    return 2.0 * a["depth"] * (linear + 2 * tokens * a["tokens"] * dim)


# Operations (a multiply-add as two) of each pass.
PRODUCTS: dict[str, Callable[[Arguments], float]] = {
    "stem_forward": _stem,
    "stem_backward": _stem,
    "pointwise_forward": _rows,
    "pointwise_backward": lambda a: 2 * _rows(a),
    "linear_forward": _rows,
    "linear_backward": lambda a: 2 * _rows(a),
    "attention_forward": lambda a: 2 * _scores(a),
    "attention_backward": lambda a: 5 * _scores(a),
    "transformer_infer": _transformer,
    "convmixer_infer": lambda a: (
        a["depth"] * 2.0 * a["images"] * a["height"] * a["width"] * a["channels"] ** 2
    ),
}
# Depthwise steps whose form their maps decide, and those that are products of tiles.
SUMS: dict[str, Callable[[Arguments], float]] = {
    "depthwise_forward": _depthwise,
    "depthwise_backward": lambda a: 2 * _depthwise(a),
}
# Of a tile's products with a banded matrix, `kernel` in 32 count.
TILED: dict[str, Callable[[Arguments], float]] = {
    "convmixer_infer": lambda a: a["depth"] * _depthwise(a) * 32 / a["kernel"]
}


def _map(a: Arguments) -> float:
    return 1.0 * a["images"] * a["height"] * a["width"] * a["channels"]


def _given(a: Arguments, *names: str) -> int:
    return sum(a.get(name) is not None for name in names)


# Activations and slopes of each pass. Of those with statistics, one for the sums over what is stored.
ACTIVATIONS: dict[str, Callable[[Arguments], float]] = {
    "stem_forward": lambda a: _stem(a) / 2 / a["inner"] * _given(a, "sums", "scale"),
    "normalise": lambda a: 1.0 * a["rows"] * a["channels"],
    "depthwise_forward": lambda a: _map(a) * _given(a, "sums", "scale", "in_scale"),
    "pointwise_forward": lambda a: 1.0 * a["rows"] * a["channels"] * _given(a, "sums", "scale", "u1"),
    "gradient_sums": lambda a: 1.0 * a["rows"] * a["channels"],
    "pointwise_backward": lambda a: 3.0 * a["rows"] * a["channels"],
    "depthwise_backward": lambda a: _map(a) * (2 + _given(a, "before_u")),
    "stem_backward": lambda a: _stem(a) / 2 / a["inner"] * 2,
    "linear_forward": lambda a: 1.0 * a["rows"] * a["inner"] * (a["source"] == SOURCES["act"]),
    "linear_backward": lambda a: 2.0 * a["rows"] * a["inner"] * (a["source"] == SOURCES["act"]),
    "convmixer_infer": lambda a: 2.0 * a["depth"] * _map(a),
    "transformer_infer": lambda a: 1.0 * a["images"] * a["tokens"] * a["depth"] * a["hidden"],
}


class Ledger:
    """Seconds and operations of every pass while it is watched."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.products: defaultdict[str, float] = defaultdict(float)
        self.sums: defaultdict[Map, float] = defaultdict(float)
        self.tiled = self.activations = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        plain = NativeLibrary.call

        def call(lib: NativeLibrary, name: str, **arguments: Any) -> None:
            start = time.perf_counter()
            plain(lib, name, **arguments)
            self.seconds[name] += time.perf_counter() - start
            if name in PRODUCTS:
                self.products[name] += PRODUCTS[name](arguments)
            if name in SUMS:
                self.sums[arguments["kernel"], arguments["height"], arguments["width"]] += SUMS[name](
                    arguments
                )
            self.tiled += TILED[name](arguments) if name in TILED else 0
            self.activations += ACTIVATIONS[name](arguments) if name in ACTIVATIONS else 0

        NativeLibrary.call = call  # type: ignore[method-assign]
        try:
            yield
        finally:
            NativeLibrary.call = plain  # type: ignore[method-assign]


def main() -> int:
    """Profile the rows that were named, or all."""
    rows = {row.name: row for row in (*TRAINING, *INFERENCE) if not row.name.endswith("batch-1")}
    options = parser(__doc__, n=5)
    options.add_argument("rows", nargs="*", metavar="ROW", help=f"default all: {', '.join(rows)}")
    given = options.parse_args()
    if unknown := [name for name in given.rows if name not in rows]:
        sys.exit(f"no row {', '.join(unknown)}; there are {', '.join(rows)}")
    started = time.monotonic()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    keep_freed_memory()
    found, best, usual = profiles([rows[name] for name in given.rows or rows], given.n)
    shares = ", ".join(f"{row['row']} {row['share_of_bound']:.0%}" for row in found)
    usually = ", ".join(f"{row['share_at_usual_rates']:.0%}" for row in found)
    reached = {row["row"]: row["share_of_product_rate"] for row in found}
    pointwise = {name: share[POINTWISE] for name, share in reached.items() if POINTWISE in share}
    whole = {name: share[WHOLE] for name, share in reached.items() if WHOLE in share}
    steps = ", ".join(f"{name} {share:.0%}" for name, share in pointwise.items())
    blocks = ", ".join(f"{name} {share:.0%}" for name, share in whole.items())
    return record(
        "native_profile",
        claim="native steps against what the CPU's arithmetic alone would take (one thread, bf16); "
        "1x1 steps with their epilogues reach at least 45 % of the product kernel's rate (aim 70 %)",
        measured=f"share of the step that products, depthwise sums and activations must take: {shares}; "
        f"1x1 steps reach {steps or 'no row'} of the product kernel's rate"
        + (f", whole blocks in one pass, by their 1x1 products alone, {blocks}" if whole else "")
        + f"; product kernel {best}; "
        f"at the usual rates here, {usual}, the shares are {usually}",
        figure={
            "share_of_bound": {row["row"]: row["share_of_bound"] for row in found},
            POINTWISE: pointwise,
            WHOLE: whole,
        },
        passed=all(row["share_of_bound"] <= 1 for row in found)
        and all(share >= POINTWISE_FLOOR for share in (pointwise | whole).values()),
        n=given.n,
        seed=given.seed,
        started=started,
        out=given.out,
        threads=1,
        instructions=loaded().instructions,
        operations_per_second=best.operations,
        activations_per_second=best.activations,
        depthwise_operations_per_second=_by_map(best),
        usual_operations_per_second=usual.operations,
        usual_activations_per_second=usual.activations,
        usual_depthwise_operations_per_second=_by_map(usual),
        rows=found,
    )


def _by_map(rates: Rates) -> dict[str, float]:
    return {f"k{kernel} {height}x{width}": rate for (kernel, height, width), rate in rates.sums.items()}


def profiles(rows: Sequence[Row], n: int) -> tuple[list[dict[str, Any]], Rates, Rates]:
    """Profile rows; with them the best and the usual rates, measured before, between and after."""
    watched: list[Watched] = []
    found = [measured(())]
    for row in rows:
        watched.append(watch(row, n))
        found.append(measured(sorted({each for seen in watched for each in seen.ledgers[0].sums})))
    best, usual = (
        of_all([pair[i] for pair in found], pick) for i, pick in enumerate((max, statistics.median))
    )
    return [described(each, best, usual) for each in watched], best, usual


@dataclass(frozen=True)
class Watched:
    """Steps of a row: seconds and passes of each, and of those with few pictures the passes alone."""

    row: Row
    seconds: list[float]
    ledgers: list[Ledger]
    few: int
    ledgers_of_few: list[Ledger]


def watch(row: Row, n: int) -> Watched:
    """Time n steps of a row, and more with few pictures."""
    model = isopatch.create_model(row.model, image_size=row.image_size, **row.arguments)
    model.train(row.mode == "train")
    swap(model, kernels="native", precision="bf16")
    seconds, ledgers = _watched(model, row, row.batch, n)
    few = max(1, row.batch // FEWER)
    return Watched(row, seconds, ledgers, few, _watched(model, row, few, 3 * n)[1])


def described(watched: Watched, rates: Rates, usual: Rates) -> dict[str, Any]:
    """Say what was seen, beside what these rates allow."""
    row, ledger, passes = watched.row, watched.ledgers[0], _by_pass(watched.ledgers)
    middle = statistics.median(watched.seconds)
    products = sum(ledger.products.values())
    arithmetic, usually = (
        {
            "products": products / rate.operations,
            "depthwise": sum(operations / rate.sums[of] for of, operations in ledger.sums.items())
            + ledger.tiled / rate.operations,
            "activations": ledger.activations / rate.activations,
        }
        for rate in (rates, usual)
    )
    bound, usual_bound = _together(arithmetic, ledger), _together(usually, ledger)
    from_cache = {
        name: value * row.batch / watched.few for name, value in _by_pass(watched.ledgers_of_few).items()
    }
    return {
        "row": row.name,
        "batch": row.batch,
        "images_per_second": row.batch / middle,
        "images_per_second_at_bound": row.batch / bound,
        "share_of_bound": round(bound / middle, 3),
        "share_at_usual_rates": round(usual_bound / middle, 3),
        "milliseconds": spread([1000 * value for value in watched.seconds]),
        "milliseconds_at_bound": _milliseconds(arithmetic),
        "milliseconds_of_passes": _milliseconds(passes),
        "milliseconds_of_passes_from_cache": _milliseconds(from_cache),
        "pictures_in_cache": watched.few,
        "milliseconds_outside": round(1000 * (middle - sum(passes.values())), 2),
        "share_of_product_rate": {
            name: round(operations / rates.operations / passes[name], 3)
            for name, operations in ledger.products.items()
        },
        "product_operations": products,
        "depthwise_operations": sum(ledger.sums.values()),
        "depthwise_operations_of_tiles": ledger.tiled,
        "activations": ledger.activations,
    }


def _together(arithmetic: Mapping[str, float], ledger: Ledger) -> float:
    """Seconds of all arithmetic: in turn, but where tiles multiply while activations are computed."""
    if not ledger.tiled:
        return sum(arithmetic.values())
    return max(arithmetic["products"] + arithmetic["depthwise"], arithmetic["activations"])


def _milliseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(1000 * value, 2) for name, value in seconds.items()}


def _by_pass(ledgers: list[Ledger]) -> dict[str, float]:
    return {name: statistics.median(each.seconds[name] for each in ledgers) for name in ledgers[0].seconds}


def _watched(model: nn.Module, row: Row, batch: int, n: int) -> tuple[list[float], list[Ledger]]:
    """Seconds and ledgers of n steps, after two that do not count."""
    step = (_training if row.mode == "train" else _inference)(model, row, batch)
    step()
    step()
    seconds, ledgers = [], []
    for _ in range(n):
        ledger = Ledger()
        with ledger.watching():
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        ledgers.append(ledger)
    return seconds, ledgers


def _training(model: nn.Module, row: Row, batch: int) -> Callable[[], None]:
    size = row.image_size or 224
    pictures, labels = torch.randn(batch, 3, size, size), torch.arange(batch) % 10
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(pictures)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def _inference(model: nn.Module, row: Row, batch: int) -> Callable[[], None]:
    size = row.image_size or 224
    pictures = torch.randn(batch, 3, size, size)

    def step() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            model(pictures)

    return step


if __name__ == "__main__":
    raise SystemExit(main())
