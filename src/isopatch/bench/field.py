"""Who takes part in measuring one model, and who cannot, with the reason."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from isopatch.bench.build import build_runner, deviation
from isopatch.bench.request import Request
from isopatch.bench.runner import Runner
from isopatch.bench.setting import PACKAGES, Setting, Task, missing_packages, of_peer, ours
from isopatch.bench.subject import Subject
from isopatch.errors import IsopatchError, UsageError, nearest
from isopatch.kernels import swap
from isopatch.kernels.swap import KERNELS

log = logging.getLogger("isopatch")


@dataclass(frozen=True)
class Absent:
    """A contender, or one setting of it, that is not timed.

    state: "not installed", "cannot", "failed" or "wrong". error: how far off a wrong one is.
    """

    contender: str
    state: str
    why: str
    setting: Setting | None = None
    error: float | None = None


@dataclass(frozen=True)
class Present:
    """A contender that computes the right thing. error: see `check`."""

    runner: Runner
    error: float


@dataclass
class Field:
    """Everybody who was asked for."""

    present: list[Present] = field(default_factory=list)
    absent: list[Absent] = field(default_factory=list)


def check_kernels(kernels: str) -> None:
    """Refuse kernels that do not exist, before anything is built."""
    if kernels not in KERNELS:
        raise UsageError(f"--kernels '{kernels}'{nearest(kernels, KERNELS)}: there are {', '.join(KERNELS)}")


def assemble(
    request: Request,
    task: Task,
    subject: Subject,
    threads: tuple[int, ...],
    before: Callable[[], object] = lambda: None,
) -> Field:
    """Build every contender and compare it with the plain model; those that deviate are not timed.

    before: called ahead of each. Raises UsageError where our kernels were asked for by name and cannot run.
    """
    found = Field()
    for setting in _settings(request, task, subject, found):
        for number in threads:
            before()
            if not _try(replace(setting, threads=number), task, subject, found):
                break
    return found


def _settings(request: Request, task: Task, subject: Subject, found: Field) -> list[Setting]:
    """Every way to run, for one thread; peers that cannot are noted in `found`."""
    settings: list[Setting] = []
    for kernels in _kernels(request, task, subject, found):
        settings += ours(kernels, request.precisions, subject.layouts)
    for peer in request.peers:
        missing = missing_packages(peer)
        if missing:
            _leave_out(found, Absent(peer, "not installed", f"pip install {' '.join(PACKAGES[peer])}"))
            continue
        try:
            settings += of_peer(peer, task, request.precisions, subject.layouts)
        except UsageError as error:
            _leave_out(found, Absent(peer, "cannot", str(error)))
    return settings


def _kernels(request: Request, task: Task, subject: Subject, found: Field) -> list[str]:
    """Our kernels to measure. "auto" asks for plain and for the device's own, where there are any."""
    if request.kernels == "plain":
        return ["plain"]
    model = copy.deepcopy(subject.model).to(task.device)
    swapped = swap(model, kernels=request.kernels, gradients=task.mode == "train")  # type: ignore[arg-type]
    if swapped.replaced:
        return [swapped.kernels] if request.kernels != "auto" else ["plain", swapped.kernels]
    library = (
        request.kernels if request.kernels != "auto" else "triton" if task.device == "cuda" else "native"
    )
    _leave_out(
        found, Absent(f"isopatch-{library}", "cannot", swapped.note or "nothing in this model has a twin")
    )
    return ["plain"]


def _try(setting: Setting, task: Task, subject: Subject, found: Field) -> bool:
    """Build and check one contender; False where another number of threads would end the same way."""
    log.info("building %s", setting)
    try:
        runner = build_runner(setting, task, subject)
        error, bound = deviation(runner, subject)
    except UsageError as refusal:
        _leave_out(found, Absent(setting.contender, "cannot", str(refusal), setting))
        return False
    except IsopatchError:
        raise
    except Exception as failure:  # peers' own code fails through many types
        if setting.ours:
            raise
        first = (str(failure).strip().splitlines() or [""])[0][:200]
        _leave_out(found, Absent(setting.contender, "failed", f"{type(failure).__name__}: {first}", setting))
        return False
    if not error <= bound:
        what = "gradients" if task.mode == "train" else "logits"
        why = f"its {what} deviate by {error:.1e} from the plain model in fp32, at most {bound:g} is right"
        _leave_out(found, Absent(setting.contender, "wrong", why, setting, error))
        return True
    found.present.append(Present(runner, error))
    return True


def _leave_out(found: Field, absent: Absent) -> None:
    """Note who is not timed, once for each reason."""
    said = (absent.contender, absent.why)
    if said not in [(other.contender, other.why) for other in found.absent]:
        log.info("%s: %s: %s", absent.setting or absent.contender, absent.state, absent.why)
    found.absent.append(absent)
