"""The driver: takes runs that nobody works on, one after the other, until the study is done.

Any number of drivers, on any number of machines with one shared folder, work on a study side by side. A
driver may end in any way: another one goes on with its runs from their last checkpoints.
"""

from __future__ import annotations

import datetime
import fcntl
import fnmatch
import logging
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isopatch.errors import EXIT_DONE, EXIT_FAILURE, EXIT_SAVED_EARLY, UsageError, nearest
from isopatch.files import replace_file, to_json
from isopatch.study.claims import STALE_SECONDS, Claim, Claims, Heart
from isopatch.study.jobs import IN_USE, Job, Process, Runner, last_error, next_job, run_here
from isopatch.study.planned import Plan, PlannedRun, run_path
from isopatch.study.state import CLAIMS, failure_path, is_done, read_failure, status
from isopatch.training.stop import StopRequest

log = logging.getLogger("isopatch")

POLL_SECONDS = 0.2
IDLE_SECONDS = 1.0  # between looks where others do what is left
_SIGNALS = {130: signal.SIGINT, 143: signal.SIGTERM, EXIT_SAVED_EARLY: signal.SIGUSR1}


@dataclass(frozen=True)
class Outcome:
    """How a driver ended. status: as `study.status` gives it. worked_on: runs it took, in order."""

    exit_code: int
    status: dict[str, Any]
    worked_on: tuple[str, ...]


def run(
    plan: Plan,
    folder: str | Path,
    *,
    parallel: int = 1,
    only: Sequence[str] = (),
    retry_failed: bool = False,
    max_minutes: float | None = None,
    runner: Runner | None = None,
    stale_after: float = STALE_SECONDS,
) -> Outcome:
    """Work on a study that was begun in `folder` until nothing is left to do.

    parallel: runs at a time. only: patterns of run ids ("kernel-size-3-*"); what they need is done too.
    retry_failed: take up again, once each, what had failed before. max_minutes: save and stop then.
    runner: does `isopatch ARGUMENTS` in this process, one run at a time; None: a process for each run.
    stale_after: seconds without a sign of life after which another machine's run is taken over.
    Exit codes: 0 all done; 1 a run failed; 75, 130 or 143 stopped early, everything saved.
    """
    driver = _Driver(
        plan,
        Path(folder),
        chosen(plan, only),
        parallel=parallel,
        retry_failed=retry_failed,
        runner=runner,
        stale_after=stale_after,
    )
    code = driver.drive(StopRequest(max_minutes), max_minutes)
    return Outcome(code, status(folder), tuple(driver.worked_on))


def chosen(plan: Plan, only: Sequence[str]) -> list[PlannedRun]:
    """Return the runs whose ids match one of the patterns, and what they need; all without patterns."""
    known = plan.by_id
    wanted: set[str] = set()
    for pattern in only:
        found = fnmatch.filter(known, pattern)
        if not found:
            raise UsageError(f"--only {pattern}: no run is called so{nearest(pattern, known)}")
        wanted.update(found)
    while more := {need for name in wanted for need in known[name].needs.values()} - wanted:
        wanted |= more
    return [run for run in plan if not only or run.id in wanted]


class _Driver:
    """What one driver knows and does."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        runs: list[PlannedRun],
        *,
        parallel: int,
        retry_failed: bool,
        runner: Runner | None,
        stale_after: float,
    ) -> None:
        self._plan, self._folder, self._runs = plan, folder, runs
        self._parallel, self._runner = parallel, runner
        self._claims = Claims(folder / CLAIMS, stale_after=stale_after)
        self._active: dict[str, Process] = {}
        self._done: set[str] = set()
        self._left: set[str] = set()  # given back by this driver, which does not take them again
        # Only what had failed before is taken up again, by one driver: not what another's retry left.
        failed = {run.id: read_failure(folder, run.id) for run in runs} if retry_failed else {}
        self._retry = {name: record for name, record in failed.items() if record is not None}
        self._stopped: int | None = None  # the exit code of a run in this process that was asked to stop
        self.worked_on: list[str] = []

    def drive(self, stop: StopRequest, max_minutes: float | None) -> int:
        """Work until nothing is left, or a stop is asked for; returns the exit code."""
        deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        with stop.listening(), Heart(self._claims):
            stop.defer()
            try:
                while not stop and self._stopped is None:
                    self._reap()
                    started = self._start_some(deadline)
                    if not self._active and not started and not self._others_work():
                        break
                    time.sleep(POLL_SECONDS if self._active or started else IDLE_SECONDS)
                code = stop.exit_code if self._stopped is None else self._stopped
                if code is not None:
                    self._stop_all(code)
            finally:
                for name in list(self._active):
                    self._active.pop(name).kill()
                    self._claims.end(name, "released")
        unfinished = [run for run in self._runs if not self._is_done(run)]
        if not unfinished:
            return EXIT_DONE
        if code is not None:
            return code
        failed = any(read_failure(self._folder, run.id) is not None for run in unfinished)
        return EXIT_FAILURE if failed else EXIT_SAVED_EARLY

    # --- what to do next -------------------------------------------------------------------------------

    def _start_some(self, deadline: float | None) -> bool:
        """Take free runs up to the number that run at a time; returns whether any was."""
        if len(self._active) >= self._parallel:
            return False
        started = False
        newest = self._claims.newest()
        for run in self._runs:
            if len(self._active) >= self._parallel:
                break
            former = newest.get(run.id)
            if not self._free(run, former) or not self._claims.take(run.id, former):
                continue
            started = True
            self.worked_on.append(run.id)
            # A run that failed is taken up again once: if it fails again, that is what the record says.
            failure_path(self._folder, run.id).unlink(missing_ok=True)
            self._retry.pop(run.id, None)
            log.info("%s: %s", run.id, "taken over" if _abandoned(former) else "begun")
            if self._runner is None:
                self._step(run)
            else:
                self._run_here(run, self._runner, deadline)
                break  # a signal, the clock, and the claims of others are looked at between two runs
        return started

    def _free(self, run: PlannedRun, former: Claim | None) -> bool:
        """Whether a run is there to be taken. The claim was read before: what is done after that is seen."""
        if run.id in self._active or run.id in self._left:
            return False
        if former is not None and self._claims.alive(former):
            return False
        if self._is_done(run) or not self._ready(run):
            return False
        failure = read_failure(self._folder, run.id)
        if failure is not None and failure != self._retry.get(run.id):
            return False
        return not in_use(run_path(self._folder, run.id))

    def _ready(self, run: PlannedRun) -> bool:
        """Whether every run that this one starts from is done."""
        known = self._plan.by_id
        return all(self._is_done(known[need]) for need in run.needs.values())

    def _is_done(self, run: PlannedRun) -> bool:
        if run.id not in self._done and is_done(self._folder, self._plan, run):
            self._done.add(run.id)
        return run.id in self._done

    def _others_work(self) -> bool:
        """Whether waiting makes sense: others work on what is left, or on what it needs."""
        newest = self._claims.newest()
        for run in self._runs:
            claim = newest.get(run.id)
            if run.id in self._left or self._is_done(run):
                continue
            if claim is not None and self._claims.alive(claim):
                return True
            if in_use(run_path(self._folder, run.id)):  # a process whose driver is gone is saving
                return True
        return False

    # --- doing it --------------------------------------------------------------------------------------

    def _step(self, run: PlannedRun) -> None:
        """Start the next job of a run that is held, or end with it."""
        job = next_job(self._folder, self._plan, run)
        if job is None:
            self._finished(run.id)
        else:
            self._active[run.id] = Process(job)

    def _run_here(self, run: PlannedRun, runner: Runner, deadline: float | None) -> None:
        """Do all jobs of a run in this process."""
        while (job := next_job(self._folder, self._plan, run)) is not None:
            minutes = None if deadline is None else (deadline - time.monotonic()) / 60
            code = run_here(job, runner, minutes)
            if not self._after(job, code):
                return
        self._finished(run.id)

    def _reap(self) -> None:
        """Look after the processes: those that ended, and those whose run was taken away."""
        for name in self._claims.lost():
            log.warning("%s: another driver took it over, believing this one dead; leaving it to that", name)
            process = self._active.pop(name, None)
            if process is not None:
                process.kill()
            self._claims.forget(name)
            self._left.add(name)
        for name, process in list(self._active.items()):
            code = process.poll()
            if code is None:
                continue
            del self._active[name]
            if self._after(process.job, code):
                self._step(process.job.run)

    def _after(self, job: Job, code: int) -> bool:
        """Judge how a job ended; returns whether the run goes on to its next."""
        name = job.run.id
        if code == EXIT_DONE:
            following = next_job(self._folder, self._plan, job.run)
            if following is None or following.name != job.name:
                return True
            self._failed(name, job.name, code, "ended well, and left no result")
        elif code in _SIGNALS or -code in _SIGNALS.values():
            saved = any((run_path(self._folder, name) / "checkpoints").glob("*"))
            log.info("%s: stopped %s", name, "and saved" if saved else "before it had anything to save")
            self._left.add(name)
            self._stopped = code if self._runner is not None else None
            self._claims.end(name, "released")
        else:
            error = last_error(job.log, code, job.logged)
            if IN_USE in error:
                log.info("%s: %s", name, error)
                self._claims.end(name, "released")
            else:
                self._failed(name, job.name, code, error)
        return False

    def _finished(self, name: str) -> None:
        self._done.add(name)
        self._claims.end(name, "done")
        done = sum(self._is_done(run) for run in self._runs)
        log.info("%s: done (%d of %d)", name, done, len(self._runs))

    def _failed(self, name: str, job: str, code: int, error: str) -> None:
        """Record a failure; the record stands before the claim ends, so that nobody takes the run between."""
        log.error("%s: %s failed: %s", name, job, error)
        path = failure_path(self._folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "run": name,
            "job": job,
            "exit_code": code,
            "error": error,
            "log": f"logs/{name}.txt",
            "host": socket.gethostname(),
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        replace_file(path, to_json(document))
        self._claims.end(name, "failed")

    def _stop_all(self, code: int) -> None:
        """Ask every process to save and end, and wait for it."""
        if self._active:
            log.info("stopping: %d runs are saved first", len(self._active))
        asked: set[str] = set()
        while self._active:
            for name, process in self._active.items():
                if name not in asked:
                    process.signal(_SIGNALS[code])
                    asked.add(name)
            time.sleep(POLL_SECONDS)
            for name, process in list(self._active.items()):
                ended = process.poll()
                if ended is None:
                    continue
                del self._active[name]
                # One that just finished is not begun on its next job: that is for the next driver.
                if self._after(process.job, ended):
                    following = next_job(self._folder, self._plan, process.job.run)
                    self._claims.end(name, "released") if following else self._finished(name)


def in_use(run_folder: Path) -> bool:
    """Return whether a process holds the lock of a run folder, such as one whose driver has gone."""
    try:
        with (run_folder / ".lock").open("r+") as lock:
            fcntl.lockf(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _abandoned(former: Claim | None) -> bool:
    return former is not None and former.state == "held"
