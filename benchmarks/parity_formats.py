"""Every checkpoint format, family and direction: the other project's own code, its files, the same logits.

Claim: relative error of the logits at most 1e-10 in float64 and 1e-5 in float32, for random weights read from
files of the other project and written for it. Google's code does not install here: its npz is constructed
and computed by the test itself, hybrids are read by timm. isopatch's own format: equal to the bit.
Controls: query, key and value in another order, and another LayerNorm eps, are noticed.
Hardware: CPU. Time: about 2 minutes on one core.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from benchmarks.common import ROOT, parser, record, version


def formats() -> ModuleType:
    """The test module that defines what is compared."""
    path = ROOT / "tests" / "parity" / "test_formats.py"
    spec = importlib.util.spec_from_file_location("format_parity", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--threads", type=int, default=1)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    started = time.monotonic()
    test = formats()
    rows: list[dict[str, Any]] = []
    worst = dict.fromkeys(test.LIMITS, 0.0)
    for family, kind, direction in test.TABLE:
        row: dict[str, Any] = {"family": family, "format": kind, "direction": direction}
        passed = True
        for dtype, limit in test.LIMITS.items():
            with tempfile.TemporaryDirectory() as folder:
                torch.manual_seed(given.seed)
                error = test.error(family, kind, direction, dtype, Path(folder))
            worst[dtype] = max(worst[dtype], error)
            row[str(dtype).removeprefix("torch.")] = f"{error:.2e}"
            passed &= error <= limit
        rows.append({**row, "pass": passed})
        print(row, flush=True)
    for name in test.OURS:
        with tempfile.TemporaryDirectory() as folder:
            same = test.round_trip(name, Path(folder))
        row = {"family": name, "format": "isopatch", "direction": "write and read", "difference": same}
        rows.append({**row, "pass": same == 0.0})
        print(row, flush=True)
    controls = {name: f"{error:.2e}" for name, error in test.controls().items()}
    failed = [row for row in rows if not row["pass"]]
    return record(
        "parity",
        claim="Random weights through the other project's own code: relative error of logits "
        "float64 <= 1e-10, float32 <= 1e-5, every format, family and direction",
        measured=", ".join(f"{str(dtype)[6:]} {error:.1e}" for dtype, error in worst.items())
        + f"; {len(rows)} pairs of family and format, read or written, {len(failed)} failed",
        figure={str(dtype).removeprefix("torch."): f"{error:.2e}" for dtype, error in worst.items()},
        passed=not failed and all(float(error) > 1e-6 for error in controls.values()),
        n=len(rows),
        seed=given.seed,
        started=started,
        out=given.out,
        rows=rows,
        controls=controls,
        peers={package: version(package) for package in ("timm", "transformers")},
    )


if __name__ == "__main__":
    raise SystemExit(main())
