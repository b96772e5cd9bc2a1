"""`isopatch study run` with a defect that the study harness must notice.

    python -m benchmarks.reliability.broken_driver "forgets the position" study run ...

forgets the position: a resumed run sees the samples from the beginning again (see `wrapped.py`).
trains again: the driver takes finished runs for unfinished ones, and trains them from nothing.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from isopatch.cli import main as isopatch_main
from isopatch.study import driver, jobs
from isopatch.study.planned import Plan, PlannedRun


def forget_the_position() -> None:
    spec = json.dumps({"forget_position": True})
    jobs.COMMAND = (sys.executable, "-m", "benchmarks.reliability.wrapped", spec)


def train_again() -> None:
    begun: set[str] = set()
    original = jobs.next_job

    def next_job(folder: Path, plan: Plan, run: PlannedRun) -> jobs.Job | None:
        if run.id in begun:
            return original(folder, plan, run)
        begun.add(run.id)
        config, out = folder / "configs" / f"{run.id}.yaml", folder / "runs" / run.id
        arguments = ["train", "--config", str(config), "--out", str(out), "--overwrite"]
        return dataclasses.replace(
            jobs.Job(run, "training", arguments, folder / "logs" / f"{run.id}.txt"), name="training again"
        )

    driver.next_job = next_job
    driver.is_done = lambda *_: False


DEFECTS = {"forgets the position": forget_the_position, "trains again": train_again}


if __name__ == "__main__":
    DEFECTS[sys.argv[1]]()
    raise SystemExit(isopatch_main(sys.argv[2:]))
