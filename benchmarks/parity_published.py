"""Every published size against timm: same weights, same logits, same input gradient.

Claim: relative error at most 1e-10 in float64 and 1e-5 in float32, for every name timm has. Models with more
than 2 GB of weights are left out and listed. ConvMixer is compared in channels_last, our layout; how far
timm's own model is from itself in the other layout stands beside it (`layout_control`:
ReLUs within rounding of 0).
Hardware: CPU. Time: a quarter of an hour on one core.
"""

from __future__ import annotations

import importlib.util
import time
from types import ModuleType

import torch
from benchmarks.common import ROOT, parser, record


def published() -> ModuleType:
    """The test module that defines what is compared."""
    path = ROOT / "tests" / "parity" / "test_timm_published.py"
    spec = importlib.util.spec_from_file_location("published_parity", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--threads", type=int, default=1)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    started = time.monotonic()
    test = published()
    errors: dict[str, dict[str, dict[str, str]]] = {}
    left_out = []
    worst = dict.fromkeys(test.LIMITS, 0.0)
    for name in test.SHARED:
        for dtype, limit in test.LIMITS.items():
            weights = test.resolve(name).parameters * torch.empty((), dtype=dtype).element_size()
            if weights > test.WEIGHT_BYTES:
                left_out.append(f"{name} in {str(dtype).removeprefix('torch.')} ({weights / 1e9:.1f} GB)")
                continue
            found = test.published_errors(name, dtype)
            worst[dtype] = max(worst[dtype], *found.values())
            kind = str(dtype).removeprefix("torch.")
            errors.setdefault(name, {})[kind] = {key: f"{error:.2e}" for key, error in found.items()}
            print(f"{name} {kind} {errors[name][kind]} limit {limit:g}", flush=True)
    controls = {
        name: {key: f"{error:.2e}" for key, error in test.layout_control(name, torch.float32).items()}
        for name in test.SHARED
        if name.startswith("convmixer")
    }
    return record(
        "parity_published",
        claim="Published sizes, same weights: relative error of logits and input gradient against timm, "
        "float64 <= 1e-10, float32 <= 1e-5",
        measured=", ".join(f"{str(dtype)[6:]} {error:.1e}" for dtype, error in worst.items())
        + f"; {len(left_out)} pairs of model and type with more than 2 GB of weights left out",
        figure={str(dtype).removeprefix("torch."): f"{error:.2e}" for dtype, error in worst.items()},
        passed=all(error <= test.LIMITS[dtype] for dtype, error in worst.items()),
        n=sum(len(kinds) for kinds in errors.values()),
        seed=0,
        started=started,
        out=given.out,
        errors=errors,
        layout_control=controls,
        left_out=left_out,
    )


if __name__ == "__main__":
    raise SystemExit(main())
