"""The papers' own table on this machine: parameters, multiply-adds, images/s, published top-1.

Claim: reported, plain and native; among it the ConvMixer authors' remark that a DeiT-S at patch 7 is as slow
as a ConvMixer. Weights are drawn here (speed does not depend on them); accuracies are the papers'.
Hardware: any CPU. Time: 20 minutes for all on 2 cores; rows that are named replace theirs in the result.
Command: python -m benchmarks.papers_table [ROW ...]; then python tools/papers_table.py
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.common import ROOT, hardware, parser, record, surroundings

_DEIT5 = "DeiT, table 5"
_CONVMIXER1 = "ConvMixer, table 1"


@dataclass(frozen=True)
class Line:
    """A model of the table: what to build, and what its paper says it reaches on ImageNet-1k."""

    label: str
    model: str
    top1: float | None
    source: str | None
    image_size: int = 224
    arguments: Mapping[str, Any] = field(default_factory=dict)


LINES = (
    Line("ConvMixer-1536/20", "convmixer_1536_20", 81.37, _CONVMIXER1),
    Line("ConvMixer-768/32", "convmixer_768_32", 80.16, _CONVMIXER1),
    Line("ConvMixer-1024/20 p14", "convmixer_1024_20_ks9_p14", 76.94, "authors' weights, timm"),
    Line("DeiT-Ti", "deit_tiny_patch16_224", 72.2, _DEIT5),
    Line("DeiT-S", "deit_small_patch16_224", 79.8, _DEIT5),
    Line("DeiT-B", "deit_base_patch16_224", 81.8, _DEIT5),
    Line("DeiT-S at patch 7", "deit_small_patch16_224", None, None, arguments={"patch_size": 7}),
    Line("ViT-B/16 at 384", "vit_base_patch16_384", 77.9, _DEIT5, image_size=384),
    Line("ResMLP-S12", "resmlp_12_224", 76.6, "ResMLP, table 1"),
    Line("ResMLP-S24", "resmlp_24_224", 79.4, "ResMLP, table 1"),
    Line("ResMLP-B24/8", "resmlp_big_24_224", 81.0, _CONVMIXER1),
    Line("ResNet-50", "timm:resnet50", 76.2, _DEIT5),
    Line("ResNet-152", "timm:resnet152", 78.3, _DEIT5),
    Line("EfficientNet-B0", "timm:efficientnet_b0", 77.1, _DEIT5),
    Line("EfficientNet-B1", "timm:efficientnet_b1", 79.1, _DEIT5, image_size=240),
    Line("EfficientNet-B2", "timm:efficientnet_b2", 80.1, _DEIT5, image_size=260),
    Line("EfficientNet-B3", "timm:efficientnet_b3", 81.6, _DEIT5, image_size=300),
    Line("EfficientNet-B4", "timm:efficientnet_b4", 82.9, _DEIT5, image_size=380),
)
SLOW, ITS_DEIT = "ConvMixer-1536/20", "DeiT-S at patch 7"


def main() -> int:
    """Measure the rows that were named, or all, and write the result."""
    options = parser(__doc__)
    options.add_argument("rows", nargs="*", metavar="ROW", help="labels such as DeiT-S; default all")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--threads", default="1,2", help="every number is tried (default 1,2)")
    given = options.parse_args()
    known = {line.label: line for line in LINES}
    unknown = [name for name in given.rows if name not in known]
    if unknown:
        sys.exit(f"no row {', '.join(unknown)}; there are {', '.join(known)}")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("isopatch").setLevel(logging.INFO)
    started = time.monotonic()
    path = given.out or ROOT / "results" / "papers_table.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": []}
    if before.get("hardware", hardware()) != hardware():
        sys.exit(f"{path} was measured on {before['hardware']}: a table of this machine's takes --out FILE")
    rows = {row["label"]: row for row in before["rows"]}
    for name in given.rows or known:
        rows[name] = measure(known[name], given.batch, given.rounds, given.threads, given.seed)
        print(f"{name}: {rows[name]['images_per_second']}", flush=True)
    ordered = [rows[name] for name in known if name in rows]
    return record(
        "papers_table",
        claim="the papers' table on this machine, plain and native: reported",
        measured=remark(rows),
        figure={row["label"]: row["images_per_second"] for row in ordered},
        passed=True,
        n=given.rounds,
        seed=given.seed,
        started=started,
        out=given.out,
        batch=given.batch,
        rows=ordered,
    )


def measure(line: Line, batch: int, rounds: int, threads: str, seed: int) -> dict[str, Any]:
    """Return one row: counts, and images/s of our fastest setting with each kind of kernels."""
    from isopatch.bench.request import Request
    from isopatch.bench.run import bench
    from isopatch.bench.setting import read_threads

    document = bench(
        Request(
            models=(line.model,),
            batch=batch,
            image_size=line.image_size,
            arguments=line.arguments,
            rounds=rounds,
            threads=read_threads(threads),
            seed=seed,
            memory=False,
        )
    )
    (model,) = document["models"]
    best = {row["contender"].removeprefix("isopatch-"): row for row in model["contenders"] if row["best"]}
    return {
        "label": line.label,
        "model": line.model,
        "arguments": dict(line.arguments),
        "image_size": line.image_size,
        "parameters": model["parameters"],
        "macs": model["macs"],
        "top1": line.top1,
        "source": line.source,
        "images_per_second": {kernels: round(row["images_per_second"], 3) for kernels, row in best.items()},
        "settings": best,
        "absent": model["absent"],
        **{key: value for key, value in surroundings().items() if key in ("commit", "date")},
    }


def remark(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Answer the authors' remark from the rows."""
    count = f"{len(rows)} of {len(LINES)} models"
    if SLOW not in rows or ITS_DEIT not in rows:
        return count
    kinds = [kind for kind in rows[SLOW]["images_per_second"] if kind in rows[ITS_DEIT]["images_per_second"]]
    said = []
    for kind in kinds:
        slow, deit = (rows[name]["images_per_second"][kind] for name in (SLOW, ITS_DEIT))
        said.append(f"{kind} {deit / slow:.2f} times")
    return f"{count}; {ITS_DEIT} runs at {', '.join(said)} the speed of {SLOW}"


if __name__ == "__main__":
    raise SystemExit(main())
