"""What the cache of a teacher's answers saves: photographs at 224 pixels, a RegNetY of timm as the teacher.

Claim: from the second run on an epoch takes at most half the time it takes with the teacher; with the same
seed the cached run ends with the weights of the live one, bit for bit (so with its accuracy); answers cost
less than 100 bytes a picture and epoch. The teacher is trained first, on a tenth of the pictures for one
epoch: how good it is makes no difference to what is measured. Live and cached runs take turns, one thread
each.
Hardware: 2 CPU cores. Time: about 25 minutes.
Command: ISOPATCH_DATA=... python -m benchmarks.distill_cache [--n 2] [--teacher timm:regnety_016]
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import Child, data_root, isopatch, parser, record, spread, workspace

STUDENT = (
    "--model convmixer --model.dim 96 --model.depth 4 --model.kernel_size 5 --model.patch_size 14 "
    "--model.image_size 224 --recipe small --batch_size 32 --data_seed 0 --threads 1 --precision fp32"
)

TEACHER = "--model.image_size 224 --epochs 1 --batch_size 32 --data.fraction 0.1 --threads 1 --precision fp32"


def train(arguments: list[str], out: Path) -> dict[str, Any]:
    """Run `isopatch train` and return its summary."""
    done = Child(isopatch("train", *arguments, "--out", str(out), "--overwrite"), cwd=out.parent).wait(3600)
    if done.code:
        raise SystemExit(f"{out.name} ended with code {done.code}: {done.stderr[-2000:]}")
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def main() -> int:
    """Train the teacher, then the same student with it and with the cache, in turns."""
    options = parser(__doc__, n=2)
    options.add_argument("--teacher", default="timm:regnety_016", help="a model of timm")
    options.add_argument("--epochs", type=int, default=2)
    given = options.parse_args()
    started = time.monotonic()
    data = ["--data", str(data_root() / "trashnet")]
    live, cached = [], []
    with workspace("distill-cache") as folder:
        teacher = folder / "teacher"
        train([*data, "--model", given.teacher, *TEACHER.split()], teacher)
        taught = [*data, *STUDENT.split(), "--epochs", str(given.epochs), "--teacher", str(teacher)]
        cache = ["--distill.cache", str(folder / "cache")]
        filling = train([*taught, *cache, "--seed", str(given.seed + given.n)], folder / "filling")
        for seed in range(given.seed, given.seed + given.n):
            live.append(train([*taught, "--seed", str(seed)], folder / f"live-{seed}"))
            cached.append(train([*taught, *cache, "--seed", str(seed)], folder / f"cached-{seed}"))
            print(
                f"seed {seed}: live {live[-1]['seconds']:.0f} s, cached {cached[-1]['seconds']:.0f} s",
                flush=True,
            )
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(live, cached, strict=True)]
    same = all(a["weights_sha256"] == b["weights_sha256"] for a, b in zip(live, cached, strict=True))
    told = cached[-1]["distillation"]["cache"]
    asked = [run["distillation"]["pictures_asked"] for run in cached]
    return record(
        "distill_cache",
        claim="Cached teacher (timm RegNetY at 224, TrashNet): an epoch at most half as long from the second "
        "run on, the weights of the uncached run bit for bit",
        measured=f"{min(ratios):.1f} times as fast, {'the same' if same else 'OTHER'} weights, "
        f"{told['bytes_per_picture']:.0f} bytes a picture and epoch",
        figure={
            "ratio": spread(ratios),
            "seconds_per_epoch": {
                "live": spread([run["seconds"] / given.epochs for run in live]),
                "filling": filling["seconds"] / given.epochs,
                "cached": spread([run["seconds"] / given.epochs for run in cached]),
            },
        },
        passed=min(ratios) >= 2 and same and told["bytes_per_picture"] < 100 and not any(asked),
        n=given.n,
        seed=given.seed,
        started=started,
        out=given.out,
        teacher=given.teacher,
        student=STUDENT,
        top1={
            "live": [r["final"]["test"]["top1"] for r in live],
            "cached": [r["final"]["test"]["top1"] for r in cached],
        },
        cache=told,
    )


if __name__ == "__main__":
    sys.exit(main())
