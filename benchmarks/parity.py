"""Every format, family and direction against the other project's own code; sizes; resized positions.

Claims: relative error of the logits at most 1e-10 in float64 and 1e-5 in float32, for random weights read
from files of the other project and written for it; parameters and multiply-adds of every name are what its
table says; a DeiT-S taken from 224 x 224 to 384 x 384 and to 192 x 320 has, in all four modes, the positions
that the origin's own function gives, to 1e-6.
Google's code does not install here: its npz is constructed and computed by the test itself, hybrids are read
by timm. isopatch's own format: equal to the bit.
Controls: query, key and value in another order, and another LayerNorm eps, are noticed; the positions of one
mode are not those of another.
Hardware: CPU. Time: about 2 minutes on one core. `tools/parity_table.py` makes results/parity.md from it.
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


def module_of(path: Path) -> ModuleType:
    """A test module, which defines what is compared."""
    spec = importlib.util.spec_from_file_location(f"parity_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def counted() -> list[dict[str, Any]]:
    """Parameters and multiply-adds of every name, counted again and beside the table's."""
    from isopatch.models.describe import describe
    from isopatch.models.table import MODELS

    rows = []
    for name, entry in MODELS.items():
        if not entry.plain:
            facts = describe(name)
            same = (facts["parameters"], facts["macs"]) == (entry.parameters, entry.macs)
            rows.append(
                {"name": name, "parameters": facts["parameters"], "macs": facts["macs"], "pass": same}
            )
    return rows


def resized(origins: ModuleType) -> tuple[list[dict[str, Any]], float]:
    """Largest error of a DeiT-S's resized positions, per mode and size; how far two modes are apart."""
    from isopatch.models.load import load
    from isopatch.models.save import save_model
    from isopatch.models.spec import build, make_spec

    model = build(make_spec("deit_small_patch16_224", {}))
    table = model.state_dict()["position.table"]
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), model, {})
        for size in ((384, 384), (192, 320)):
            grid = (size[0] // 16, size[1] // 16)
            for mode, origin in origins.ORIGINS.items():
                loaded = load(folder, image_size=size, position_resize=mode).state_dict()["position.table"]
                error = float((loaded - origin(table, (14, 14), grid)).abs().max())
                found[size, mode] = loaded
                rows.append(
                    {"size": list(size), "mode": mode, "error": f"{error:.2e}", "pass": error <= 1e-6}
                )
    apart = float((found[(384, 384), "jax"] - found[(384, 384), "deit"]).abs().max())
    return rows, apart


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--threads", type=int, default=1)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    started = time.monotonic()
    test = module_of(ROOT / "tests" / "parity" / "test_formats.py")
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
    sizes = counted()
    positions, apart = resized(module_of(ROOT / "tests" / "models" / "test_resize.py"))
    controls["positions of two modes"] = f"{apart:.2e}"
    failed = [row for row in (*rows, *sizes, *positions) if not row["pass"]]
    return record(
        "parity",
        claim="Random weights through the other project's own code, every format, family and direction: "
        "relative error of logits float64 <= 1e-10, float32 <= 1e-5; counts of every name; positions of a "
        "DeiT-S resized as by their origins to 1e-6",
        measured=", ".join(f"{str(dtype)[6:]} {error:.1e}" for dtype, error in worst.items())
        + f" in {len(rows)} rows; {len(sizes)} names; positions "
        + f"{max(float(row['error']) for row in positions):.1e}; {len(failed)} failed",
        figure={str(dtype).removeprefix("torch."): f"{error:.2e}" for dtype, error in worst.items()},
        passed=not failed and all(float(error) > 1e-6 for error in controls.values()),
        n=len(rows) + len(sizes) + len(positions),
        seed=given.seed,
        started=started,
        out=given.out,
        rows=rows,
        counts=sizes,
        positions=positions,
        controls=controls,
        peers={package: version(package) for package in ("timm", "transformers")},
    )


if __name__ == "__main__":
    raise SystemExit(main())
