"""Which form a shape is computed in: measured once on the GPU, recorded, replayed by a resumed run."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping

import torch
from torch import nn

log = logging.getLogger("isopatch")

WARM_UP, REPEATS = 2, 5  # the first call compiles, the second fills caches


def fits(name: str, run: Callable[[], object]) -> bool:
    """Run a candidate until it is warm; say whether the GPU has the shared memory and registers it needs."""
    from triton.runtime.errors import OutOfResources, PTXASError

    try:
        for _ in range(WARM_UP):
            run()
    except (OutOfResources, PTXASError) as error:
        log.info("kernels: %s does not fit this GPU: %s", name, error)
        return False
    return True


def measure(runs: Mapping[str, Callable[[], object]], *, repeats: int = REPEATS) -> dict[str, float]:
    """Time every candidate on the current CUDA device, in turn; return medians in milliseconds.

    A candidate that does not fit this GPU (`fits`) is left out, which may be all of them.
    """
    fit = {name: run for name, run in runs.items() if fits(name, run)}
    times: dict[str, list[float]] = {name: [] for name in fit}
    for _ in range(repeats):
        for name, run in fit.items():
            begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            begin.record()
            run()
            end.record()
            end.synchronize()
            times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def recorded(model: nn.Module) -> dict[str, dict[str, str]]:
    """Return what was measured so far, for a checkpoint: name of the twin -> shape -> form."""
    from isopatch.kernels.triton.blocks import TritonConvMixer

    return {
        name: dict(module.choices)
        for name, module in model.named_modules()
        if isinstance(module, TritonConvMixer)
    }


def replay(model: nn.Module, choices: Mapping[str, Mapping[str, str]]) -> None:
    """Take over a record; a form that this version no longer has is measured anew, and that is logged."""
    from isopatch.kernels.triton.blocks import TritonConvMixer
    from isopatch.kernels.triton.forms import FORMS

    known = {form.name for form in FORMS}
    for name, module in model.named_modules():
        if isinstance(module, TritonConvMixer):
            for shape, form in choices.get(name, {}).items():
                if form in known:
                    module.choices[shape] = form
                else:
                    log.warning("kernels: no form '%s' in this version, measuring %s again", form, shape)
