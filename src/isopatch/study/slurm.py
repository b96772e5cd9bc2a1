"""Drivers as a SLURM array, through submitit: each job is a driver, and they share the work by their claims.

A job that its time limit or a preemption ends has saved before, and is queued again by submitit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isopatch.errors import EXIT_DONE, EXIT_SAVED_EARLY, IsopatchError, UsageError, nearest
from isopatch.recipes.reading import parse_value

WORKERS, CLUSTER = "workers", "cluster"
MINUTES = 240  # of a job; submitit's own default is 5
QUEUED_AGAIN = 100  # times, when its time limit ends a driver; submitit's own default is 3
# What SLURM itself knows may be given without submitit's prefix: partition=gpu.
BARE = (
    "partition",
    "account",
    "qos",
    "constraint",
    "exclude",
    "gres",
    "comment",
    "setup",
    "array_parallelism",
    "mail_type",
    "mail_user",
)
KNOWN = (
    WORKERS,
    CLUSTER,
    "timeout_min",
    "cpus_per_task",
    "gpus_per_node",
    "mem_gb",
    *(f"slurm_{name}" for name in BARE),
)


class DriverJob:
    """What a job of the array does: a driver, as a command of its own. submitit stores and calls it."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self._driver: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run the driver; returns its exit code. A failed run of the study is no failure of the job."""
        # The warning before a time limit goes to every process of the job, and would end those that do not
        # know it before they save. It is for submitit, which calls `checkpoint`.
        self._driver = subprocess.Popen(self.command, preexec_fn=_deaf_to_the_warning)
        code = self._driver.wait()
        if code not in (EXIT_DONE, EXIT_SAVED_EARLY, 1):
            raise RuntimeError(f"the driver ended with exit code {code}: {' '.join(self.command)}")
        return code

    def checkpoint(self) -> Any:
        """Have everything saved, and queue the same again: submitit asks before a time limit or a kill."""
        import submitit

        if self._driver is not None and self._driver.returncode is None:
            self._driver.send_signal(signal.SIGUSR1)
            # Not `wait`: this runs in a signal handler, inside the `wait` above, which holds its lock.
            os.waitid(os.P_PID, self._driver.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(DriverJob(self.command))


def _deaf_to_the_warning() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # what is ignored stays so in all that is started


def slurm_settings(text: str) -> dict[str, Any]:
    """Return what `--slurm KEY=VALUE,...` says; raises UsageError for unknown keys, with the nearest."""
    settings: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        key = f"slurm_{key}" if key in BARE else key
        if not equals:
            raise UsageError(f"--slurm {part}: give KEY=VALUE, as in partition=gpu,timeout_min=240,workers=4")
        if key not in KNOWN:
            raise UsageError(f"--slurm {part}: unknown key{nearest(key, [*KNOWN, *BARE])}")
        settings[key] = parse_value(value)
    if not isinstance(settings.get(WORKERS, 1), int) or settings.get(WORKERS, 1) < 1:
        raise UsageError(f"--slurm workers={settings[WORKERS]}: give a whole number from 1 up")
    return settings


def submit(folder: Path, settings: dict[str, Any], arguments: Sequence[str], *, runs: int) -> list[str]:
    """Queue drivers for a study that was begun in `folder`; returns the jobs' ids.

    settings: as `slurm_settings` gives them; workers: how many drivers, default 4 and at most one per run;
    timeout_min: default MINUTES; cluster: "slurm", or "local" for processes on this machine. arguments: of
    `isopatch study run`.
    """
    try:
        import submitit
    except ImportError:
        raise UsageError("--slurm needs submitit: pip install 'isopatch[slurm]'") from None
    given = {"timeout_min": MINUTES, **settings}
    workers = min(int(given.pop(WORKERS, 4)), max(runs, 1))
    cluster = str(given.pop(CLUSTER, "slurm"))
    logs = folder / "slurm"
    try:
        executor = submitit.AutoExecutor(
            folder=logs / "%j", cluster=cluster, slurm_max_num_timeout=QUEUED_AGAIN
        )
    except Exception as error:
        raise IsopatchError(f"--slurm: {error}; cluster=local runs the drivers on this machine") from None
    executor.update_parameters(name=f"isopatch-{folder.name}", **given)
    command = [sys.executable, "-m", "isopatch", "study", "run", *arguments]
    with executor.batch():
        jobs = [executor.submit(DriverJob(command)) for _ in range(workers)]
    return [str(job.job_id) for job in jobs]
