"""What the speed benchmarks share: rows with their floors, measured by `isopatch bench` and recorded."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.common import parser, record


@dataclass(frozen=True)
class Row:
    """One line of the table of aims.

    floor, aim: ratio of our fastest to the fastest peer; None is only reported. timm_bf16: floor against the
    fastest eager timm in bf16.
    """

    name: str
    model: str
    mode: str
    batch: int
    floor: float | None
    aim: float | None
    timm_bf16: float | None = None
    image_size: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


def main(doc: str | None, rows: Sequence[Row]) -> int:
    """Measure the rows that were named, or all; exit code 1 where one misses its floor."""
    options = parser(doc)
    options.add_argument(
        "rows", nargs="*", metavar="ROW", help=f"default all: {', '.join(r.name for r in rows)}"
    )
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--threads", default="1,2", help="every number is tried (default 1,2)")
    options.add_argument("--peers", default=None, help="as in isopatch bench (default: all)")
    options.add_argument("--no-memory", action="store_true")
    given = options.parse_args()
    known = {row.name: row for row in rows}
    unknown = [name for name in given.rows if name not in known]
    if unknown:
        sys.exit(f"no row {', '.join(unknown)}; there are {', '.join(known)}")
    wanted = [known[name] for name in given.rows] or list(rows)
    if given.out is not None and len(wanted) > 1:
        sys.exit("--out takes one row's result; name the row")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("isopatch").setLevel(logging.INFO)
    return max(measure(row, given) for row in wanted)


def measure(row: Row, given: argparse.Namespace) -> int:
    """Measure one row and record it as results/speed-<name>.json."""
    from isopatch.bench.request import Request
    from isopatch.bench.run import bench
    from isopatch.bench.setting import read_peers, read_threads
    from isopatch.cli.bench_text import measured

    started = time.monotonic()
    document = bench(
        Request(
            models=(row.model,),
            mode=row.mode,
            batch=row.batch,
            image_size=row.image_size,
            arguments=row.arguments,
            peers=read_peers(given.peers),
            rounds=given.rounds,
            threads=read_threads(given.threads),
            seed=given.seed,
            memory=not given.no_memory,
        )
    )
    document["plot"] = None
    print(measured(document))
    (model,) = document["models"]
    ratio, against_timm = model["ratio_to_best_peer"], ratio_to_timm_bf16(model)
    return record(
        f"speed-{row.name}",
        claim=claim(row),
        measured=in_words(model, against_timm, row),
        figure={"ratio_to_best_peer": ratio, "ratio_to_timm_bf16": against_timm, **floors(row)},
        passed=holds(row, ratio, against_timm),
        n=given.rounds,
        seed=given.seed,
        started=started,
        out=given.out,
        bench=document,
    )


def floors(row: Row) -> dict[str, float | None]:
    return {"floor": row.floor, "aim": row.aim, "floor_timm_bf16": row.timm_bf16}


def holds(row: Row, ratio: float | None, against_timm: float | None) -> bool:
    """Whether every floor is reached; a comparison that was not made misses its floor."""
    pairs = ((row.floor, ratio), (row.timm_bf16, against_timm))
    return all(floor is None or (found is not None and found >= floor) for floor, found in pairs)


def claim(row: Row) -> str:
    """What is to be shown, with its floor."""
    step = "a training step" if row.mode == "train" else "inference"
    size = f", {row.image_size}x{row.image_size}" if row.image_size else ""
    what = f"{row.model}{size}, {step}, batch {row.batch}"
    if row.floor is None:
        return f"{what}: reported"
    timm = f", {row.timm_bf16:g} times timm eager bf16" if row.timm_bf16 else ""
    return f"{what}: at least {row.floor:g} times the best peer{timm} (aim {row.aim:g})"


def in_words(model: Mapping[str, Any], against_timm: float | None, row: Row) -> str:
    best = {each["contender"]: each for each in model["contenders"] if each["best"]}
    ours = best[model["best"]]
    text = f"{model['best']} {ours['precision']}: {ours['images_per_second']:.4g} images/s"
    if model["best_peer"] is None:
        return f"{text}; no peer was measured"
    peer = best[model["best_peer"]]
    low, high = model["ratio_spread"]["min"], model["ratio_spread"]["max"]
    text += (
        f", {model['ratio_to_best_peer']:.2f} times {model['best_peer']} {peer['precision']} "
        f"({low:.2f}-{high:.2f})"
    )
    return text if row.timm_bf16 is None else f"{text}; {against_timm or 0:.2f} times timm eager bf16"


def ratio_to_timm_bf16(model: Mapping[str, Any]) -> float | None:
    """Our fastest over the fastest eager timm in bf16, of medians."""
    theirs = [
        row["images_per_second"]
        for row in model["contenders"]
        if row["contender"] == "timm" and row["precision"] == "bf16"
    ]
    mine = [row["images_per_second"] for row in model["contenders"] if row["ours"]]
    return max(mine) / max(theirs) if theirs and mine else None
