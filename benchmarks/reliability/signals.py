"""Interrupt trainings at named places and look at what is left: exit code, processes, shared memory, resume.

Claim: SIGINT and SIGTERM during scan, step, validation and save, with 0 and 2 workers, save first, exit
with 130 and 143, leave no process and no shared memory, and resume to the uninterrupted run's bits; a second
SIGINT leaves at once; a killed process' lock does not block; a finished run resumed does nothing; a second
process on one run folder is refused.
Hardware: CPU. Time: about 6 minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Child,
    Done,
    fingerprint,
    isopatch,
    parser,
    record,
    run,
    sha256,
    spread,
    step_folders,
    workspace,
)
from benchmarks.reliability.small_runs import CONVMIXER, arguments_of
from benchmarks.reliability.wrapped import LINGERING, read_mark

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
OCCURRENCES = {"scan": 1, "step": 30, "validation": 2, "save": 2}  # which one of the run's is interrupted
EPOCHS = 3
EVERY_STEPS = 15
SETTLE = 8.0  # seconds for orphans to notice that their parent is gone


def arguments(out: str, workers: int) -> list[str]:
    """A run of about 60 steps and 3 validations."""
    options = {**CONVMIXER, "--data": "digits", "--ema.decay": "0.9", "--resume": "auto"}
    return arguments_of(options, out=out, epochs=EPOCHS, every_steps=EVERY_STEPS, data__workers=str(workers))


def wrapped(work: Path, out: str, workers: int, phase: str) -> list[str]:
    """The same run, staying in the chosen phase until the file `<out>.go` exists."""
    linger = {"phase": phase, "occurrence": OCCURRENCES[phase], "until": f"{out}.go"}
    spec = json.dumps({"mark": f"{out}.mark", "linger": linger})
    return [sys.executable, "-m", "benchmarks.reliability.wrapped", spec, *arguments(out, workers)]


@contextlib.contextmanager
def lingering(work: Path, out: str, workers: int, phase: str) -> Iterator[Child]:
    """A run that has arrived in the phase and stays there; its group is killed at the end."""
    child = Child(wrapped(work, out, workers, phase), cwd=work)
    try:
        deadline = time.monotonic() + 60
        while (
            child.running and read_mark(work / f"{out}.mark")[0] != LINGERING and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        yield child
    finally:
        child.signal_group(signal.SIGKILL)


def shared_memory() -> set[str]:
    """Names in /dev/shm."""
    folder = Path("/dev/shm")
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def interrupted(
    work: Path, number: signal.Signals, phase: str, workers: int, whole: dict[str, Any]
) -> dict[str, Any]:
    """One case. SIGINT goes to the whole group, as from a terminal, SIGTERM to the process alone."""
    out = f"{number.name}-{phase}-{workers}"
    memory = shared_memory()
    with lingering(work, out, workers, phase) as child:
        arrived = child.running
        if number == signal.SIGINT:
            child.signal_group(number)
        else:
            child.process.send_signal(number)
        time.sleep(0.2)
        (work / f"{out}.go").touch()
        asked = time.monotonic()
        done = child.wait(30)
        seconds = time.monotonic() - asked
        left = wait_until_gone(child)
    problems = [] if arrived else [f"ended before the phase: {done.stderr[-200:]}"]
    if done.code != CODES[number]:
        problems.append(f"exit code {done.code}")
    if done.traceback:
        problems.append("traceback")
    if left:
        problems.append(f"{len(left)} processes left")
    leaked = shared_memory() - memory
    if leaked:
        time.sleep(1)
        leaked &= shared_memory()
    if leaked:
        problems.append(f"shared memory left: {sorted(leaked)[:3]}")
    folder = work / out
    if phase != "scan":  # before the data are open there is nothing to save
        status = json.loads((folder / "status.json").read_text())
        saved = step_folders(folder)
        if status["state"] != "stopped" or status["exit_code"] != CODES[number]:
            problems.append(f"status.json says {status['state']}, {status['exit_code']}")
        if not saved or int(saved[-1].name[5:]) != status["step"] or status["step"] == 0:
            problems.append(f"not saved at step {status['step']}")
    resumed = run(*arguments(out, workers), cwd=work)
    if resumed.code != 0:
        problems.append(f"resume: exit code {resumed.code}: {resumed.stderr[-200:]}")
    elif fingerprint(folder) != whole:
        problems.append("resume: another result")
    return {"case": out, "seconds_to_exit": round(seconds, 2), "problems": problems}


def wait_until_gone(child: Child) -> list[int]:
    deadline = time.monotonic() + SETTLE
    while (left := child.members()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def second_interrupt(work: Path, whole: dict[str, Any]) -> list[str]:
    """Two SIGINTs to the process alone, in a step of a minute: it leaves at once, and so do its workers."""
    out, problems = "second-sigint", []
    with lingering(work, out, 2, "step") as child:
        child.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        if not child.running:
            problems.append("the first SIGINT did not wait for the step")
        asked = time.monotonic()
        child.process.send_signal(signal.SIGINT)
        done = child.wait(20)
        if time.monotonic() - asked > 1.0:
            problems.append(f"took {time.monotonic() - asked:.1f} s")
        if done.code != 130:
            problems.append(f"exit code {done.code}")
        if wait_until_gone(child):
            problems.append("processes left")
    return problems + resumed_like(work, out, whole)


def lock_after_kill(work: Path, whole: dict[str, Any]) -> list[str]:
    """SIGKILL to the process alone, its workers still there: a new one may start at once."""
    out = "killed"
    with lingering(work, out, 2, "step") as child:
        child.process.kill()
        child.process.wait()
        return resumed_like(work, out, whole)


def second_process(work: Path, whole: dict[str, Any]) -> list[str]:
    """A second process on the folder of a running one is refused, and the first does not notice."""
    out, problems = "shared", []
    with lingering(work, out, 0, "step") as child:
        second = run(*arguments(out, 0), cwd=work, timeout=60)
        if second.code != 2 or second.traceback or "another process" not in second.stderr:
            problems.append(f"second process: exit code {second.code}: {second.stderr[-200:]}")
        (work / f"{out}.go").touch()
        if child.wait(120).code != 0:
            problems.append("the first process failed")
    if fingerprint(work / out) != whole:
        problems.append("the first process: another result")
    return problems


def finished_again(work: Path, out: str) -> list[str]:
    """Resuming a finished run changes no file but the log."""
    folder = work / out

    def contents() -> dict[str, str]:
        files = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
        return {str(p.relative_to(folder)): sha256(p) for p in files if p.name not in ("log.txt", ".lock")}

    before = contents()
    done = run(*arguments(out, 0), cwd=work)
    problems = [] if done.code == 0 else [f"exit code {done.code}"]
    return problems + ([] if contents() == before else ["files changed"])


def resumed_like(work: Path, out: str, whole: dict[str, Any]) -> list[str]:
    done = run(*arguments(out, 0), cwd=work)
    if done.code != 0:
        return [f"resume: exit code {done.code}: {done.stderr[-200:]}"]
    return [] if fingerprint(work / out) == whole else ["resume: another result"]


def uninterrupted(work: Path) -> dict[str, Any]:
    """Fingerprint of the run that nobody disturbs."""
    done: Done = Child(isopatch(*arguments("whole", 0)), cwd=work).wait(300)
    if done.code != 0:
        raise RuntimeError(f"the uninterrupted run failed: {done.stderr[-500:]}")
    return fingerprint(work / "whole")


def main() -> int:
    given = parser(__doc__).parse_args()
    started = time.monotonic()
    results: list[dict[str, Any]] = []
    with workspace("signals") as work:
        whole = uninterrupted(work)
        for phase in OCCURRENCES:
            for workers in (0, 2):
                for number in CODES:
                    results.append(interrupted(work, number, phase, workers, whole))
                    print(results[-1], flush=True)
        singles: dict[str, Callable[[], list[str]]] = {
            "second SIGINT": lambda: second_interrupt(work, whole),
            "lock left by SIGKILL": lambda: lock_after_kill(work, whole),
            "second process": lambda: second_process(work, whole),
            "finished run": lambda: finished_again(work, "whole"),
        }
        for name, check in singles.items():
            results.append({"case": name, "problems": check()})
            print(results[-1], flush=True)
    good = sum(not result["problems"] for result in results)
    return record(
        "signals",
        claim="SIGINT and SIGTERM during scan, step, validation, save: saved, right exit code, nothing left, "
        "resume identical; second SIGINT, lock of a killed process, second process, finished run",
        measured=f"{good} of {len(results)} right",
        figure={"right": good, "of": len(results)},
        passed=good == len(results),
        n=len(results),
        seed=given.seed,
        started=started,
        out=given.out,
        spread={"seconds_to_exit": spread([r["seconds_to_exit"] for r in results if "seconds_to_exit" in r])},
        cases=results,
        cores=os.cpu_count(),
    )


if __name__ == "__main__":
    raise SystemExit(main())
