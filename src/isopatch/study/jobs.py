"""One piece of work on a run: training it, or a probe of it, in a process of its own or in this one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from isopatch.errors import EXIT_FAILURE
from isopatch.files import fsync_folder, replace_file
from isopatch.recipes.resolve import dump_config
from isopatch.study.planned import Plan, PlannedRun, run_path
from isopatch.study.state import is_trained, next_probe, probe_path, read_json

Runner = Callable[[list[str]], int]  # the arguments of `isopatch` -> its exit code
COMMAND = (sys.executable, "-m", "isopatch.study.child")  # runs `isopatch ARGUMENTS`
LOG_TAIL = 1 << 16  # bytes of a log that are searched for the error
ERROR = "isopatch: error: "
PROBE_PRECISION = "fp32"  # of every accuracy that is reported, whatever a run trained in
IN_USE = "another process is using the run folder"


@dataclass(frozen=True)
class Job:
    """Arguments for `isopatch`. result: where what it prints on stdout belongs; None: nowhere.

    logged: bytes that stood in the log before: what earlier attempts said is not this one's error.
    """

    run: PlannedRun
    name: str
    arguments: list[str]
    log: Path
    result: Path | None = None
    logged: int = 0


def next_job(folder: Path, plan: Plan, run: PlannedRun) -> Job | None:
    """Return what is to be done next for a run; None where it is done. Writes its configuration."""
    log = folder / "logs" / f"{run.id}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    logged = log.stat().st_size if log.is_file() else 0
    path = run_path(folder, run.id)
    if not is_trained(folder, run):
        config = folder / "configs" / f"{run.id}.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        replace_file(config, dump_config(run.run_config(folder)).encode())
        arguments = ["train", "--config", str(config), "--out", str(path), "--resume", "auto"]
        return Job(run, "training", arguments, log, logged=logged)
    probe = next_probe(folder, plan, run)
    if probe is None:
        return None
    result = probe_path(folder, run.id, probe)
    result.parent.mkdir(parents=True, exist_ok=True)
    return Job(run, f"probe {probe}", _probe_arguments(path, run, probe), log, result, logged)


def _probe_arguments(path: Path, run: PlannedRun, probe: str) -> list[str]:
    """A probe runs as the run's own test evaluation did: on its device, threads and kernels, in float32."""
    data = run.config["data"]
    summary = read_json(path / "summary.json") or {}
    as_trained = [(f"--{key}", summary.get(key)) for key in ("device", "threads", "kernels")]
    told = [
        *as_trained,
        ("--precision", PROBE_PRECISION),
        ("--bad", data["bad"]),
        ("--workers", data["workers"]),
    ]
    more = [str(part) for option in told if option[1] is not None for part in option]
    return ["eval", str(path), "--data", data["source"], "--probe", probe, *more, "--json"]


class Process:
    """A job in a process of its own: what befalls it does not befall the driver."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._printed = _partial(job).open("wb") if job.result is not None else None
        with job.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*COMMAND, *job.arguments],
                stdin=subprocess.PIPE,
                stdout=self._printed or subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C reaches the driver, which passes it on
            )

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code once it has ended, its result then in place."""
        code = self._process.poll()
        if code is not None and self._printed is not None:
            self._printed.close()
            self._printed = None
            _keep(self.job, code)
        return code

    def signal(self, number: signal.Signals) -> None:
        """Pass a signal on."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill(self) -> None:
        """End the process and what it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def run_here(job: Job, runner: Runner, max_minutes: float | None) -> int:
    """Do a job in this process; returns its exit code. What it says goes to its log."""
    arguments = list(job.arguments)
    if max_minutes is not None and job.name == "training":
        arguments += ["--max-minutes", repr(max(max_minutes, 1e-9))]
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(job.log.open("a", encoding="utf-8"))
        to: IO[str] = log
        if job.result is not None:
            to = stack.enter_context(_partial(job).open("w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stderr(log))
        stack.enter_context(contextlib.redirect_stdout(to))
        try:
            code = runner(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else EXIT_FAILURE
    if job.result is not None:
        _keep(job, code)
    return code


def last_error(log: Path, code: int, since: int = 0) -> str:
    """Return the error a job ended with: its own line, else the last it said, or the signal.

    since: bytes of the log that are not the job's.
    """
    with log.open("rb") as file:
        file.seek(max(since, log.stat().st_size - LOG_TAIL))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    if code < 0:
        name = signal.Signals(-code).name
        guess = " (out of memory?)" if name == "SIGKILL" else ""
        return f"killed by {name}{guess}" + (f"; its last words: {lines[-1]}" if lines else "")
    errors = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    return (errors or lines or [f"exit code {code}, and not a word"])[-1]


def _partial(job: Job) -> Path:
    assert job.result is not None
    return job.result.with_name(f".{job.result.name}.tmp")


def _keep(job: Job, code: int) -> None:
    """Put what a job printed in its place, where it succeeded; a power cut leaves all of it or nothing."""
    assert job.result is not None
    if code == 0:
        with _partial(job).open("rb") as printed:
            os.fsync(printed.fileno())
        os.replace(_partial(job), job.result)
        fsync_folder(job.result.parent)
    else:
        _partial(job).unlink(missing_ok=True)
