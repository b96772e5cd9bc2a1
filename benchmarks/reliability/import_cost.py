"""What `import isopatch` and `isopatch --help` load, and how long the help takes.

Claim: neither loads torch, torchvision or timm; the help takes less than 0.5 s (median of n starts).
Hardware: CPU. Time: seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from benchmarks.common import ROOT, environment, isopatch, parser, record, spread

FLOOR_SECONDS = 0.5
HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pyarrow",
    "matplotlib",
    "PIL",
    "sklearn",
    "pydantic",
    "datasets",
)
FORBIDDEN = ("torch", "torchvision", "timm")

PROBES = {
    "import isopatch": "import isopatch",
    "isopatch --help": "from isopatch.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
    "control: isopatch.create_model": "import isopatch; isopatch.create_model",
}
REPORT = "\nimport sys, json; print('\\n' + json.dumps(sorted(m for m in sys.modules if '.' not in m)))"


def loaded(code: str) -> list[str]:
    """Heavy top-level modules that are loaded after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", code + REPORT],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
        cwd=ROOT,
    )
    return [name for name in json.loads(done.stdout.splitlines()[-1]) if name in HEAVY]


def seconds_of(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True, env=environment(), cwd=ROOT)
    return time.perf_counter() - started


def main() -> int:
    given = parser(__doc__, n=10).parse_args()
    started = time.monotonic()
    modules = {name: loaded(code) for name, code in PROBES.items()}
    seconds_of(isopatch("--help"))  # fills the disk cache
    seconds = [seconds_of(isopatch("--help")) for _ in range(given.n)]
    bare = [seconds_of([sys.executable, "-c", "pass"]) for _ in range(given.n)]
    figure = {"help_seconds_median": spread(seconds)["median"], "heavy_modules": modules}
    clean = not any(set(modules[name]) & set(FORBIDDEN) for name in list(PROBES)[:2])
    control = "torch" in modules["control: isopatch.create_model"]
    return record(
        "import_cost",
        claim="`import isopatch` and `isopatch --help` load no torch, torchvision, timm; "
        f"`--help` under {FLOOR_SECONDS} s",
        measured=f"{figure['help_seconds_median']:.2f} s",
        figure=figure,
        passed=clean and control and figure["help_seconds_median"] < FLOOR_SECONDS,
        n=given.n,
        seed=None,
        started=started,
        out=given.out,
        spread={"help_seconds": spread(seconds), "python_alone_seconds": spread(bare)},
    )


if __name__ == "__main__":
    raise SystemExit(main())
