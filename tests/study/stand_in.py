"""A driver whose runs are no trainings: `python stand_in.py drive FOLDER [OPTIONS]`.

A stand-in run counts slowly to its steps, keeps the count in a file as a training keeps checkpoints, holds
the run folder's lock, and notes when it begins, goes on and ends. So what the driver does can be tested many
times a minute; `benchmarks/reliability/study_kills.py` does the same with trainings.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

STEPS, STEP_SECONDS = 12, 0.03
SUMMARY = {  # what the table of results reads of a run
    **{"parameters": 1, "macs": 1, "steps": STEPS, "seed": 0, "images_seen": STEPS, "seconds": 1.0},
    **{"images_per_second": 1.0, "precision": "fp32", "kernels": "none", "threads": 1, "hardware": "x"},
    **{"data": {"fingerprint": "x", "train": 1}, "final": {"test": {"top1": 0.5}}, "weights_sha256": "x"},
}


def note(folder: Path, line: str) -> None:
    with (folder / "journal.txt").open("a") as file:
        file.write(f"{line}\n")


def train(arguments: list[str]) -> int:
    """What stands in for `isopatch train --config FILE --out DIR --resume auto`."""
    if arguments[0] == "eval":  # a probe of a run
        path = Path(arguments[1])
        note(path.parent.parent, f"probe {path.name}")
        probe = arguments[arguments.index("--probe") + 1]
        print(json.dumps({"probes": {probe: [{"setting": "k = 3", "top1": 0.5}]}}))
        return 1 if (path.parent.parent / "fails" / f"probe-{path.name}").is_file() else 0
    import fcntl
    import threading

    from isopatch.study.child import watch

    threading.Thread(target=watch, args=(0,), daemon=True).start()
    asked = []
    signal.signal(signal.SIGTERM, lambda number, _frame: asked.append(143))
    signal.signal(signal.SIGINT, lambda number, _frame: asked.append(130))
    signal.signal(signal.SIGUSR1, lambda number, _frame: asked.append(75))
    config, out = (Path(arguments[arguments.index(name) + 1]) for name in ("--config", "--out"))
    study, name = out.parent.parent, out.name
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(config.read_text())
    with (out / ".lock").open("a+") as lock:
        try:
            fcntl.lockf(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            note(study, f"clash {name}")
            print(f"isopatch: error: another process is using the run folder {out}; wait", file=sys.stderr)
            return 2
        kept = out / "count.txt"
        step = int(kept.read_text()) if kept.is_file() else 0
        note(study, f"{'begin' if step == 0 else 'resume'} {name} {step}")
        fails = study / "fails" / name
        while step < STEPS:
            time.sleep(STEP_SECONDS)
            if fails.is_file() and step == STEPS // 2:
                print("something on the way", file=sys.stderr)
                print(f"isopatch: error: {fails.read_text()}", file=sys.stderr)
                note(study, f"fail {name}")
                if "kill" in fails.read_text():
                    os.kill(os.getpid(), signal.SIGKILL)
                return 1
            step += 1
            temporary = kept.with_suffix(f".{os.getpid()}")
            temporary.write_text(str(step))
            temporary.replace(kept)
            if asked:
                note(study, f"stop {name}")
                return asked[0]
        seed = int(name.rpartition("-seed")[2])
        summary = {**SUMMARY, "seed": seed, "weights_sha256": name, "config": config.read_text()}
        (out / "summary.json").write_text(json.dumps(summary))
        (out / "status.json").write_text(json.dumps({"state": "finished", "step": STEPS}))
        note(study, f"end {name}")
    return 0


def drive(folder: Path, options: dict[str, object]) -> int:
    """Drive the study in a folder; options: of `run`, and `defect`."""
    from isopatch.study import claims, driver, jobs
    from isopatch.study.folder import open_plan
    from isopatch.study.planned import PlannedRun
    from isopatch.study.state import is_trained

    defect = options.pop("defect", None)
    if defect == "forgets what is done":
        asked: set[str] = set()

        def forgetful(folder: Path, run: PlannedRun) -> bool:
            known = run.id in asked
            asked.add(run.id)
            return known and is_trained(folder, run)

        driver.is_done = lambda *_: False
        jobs.is_trained = forgetful
    if defect == "believes nobody":
        claims.Claims.alive = lambda *_, **__: False  # type: ignore[method-assign]
        driver.in_use = lambda _: False
        jobs.IN_USE = driver.IN_USE = "no such message"
    jobs.COMMAND = (sys.executable, str(Path(__file__)), "train")
    driver.POLL_SECONDS, driver.IDLE_SECONDS = 0.02, 0.05
    outcome = driver.run(open_plan(folder), folder, **options)  # type: ignore[arg-type]
    print(json.dumps({"worked_on": outcome.worked_on, "exit_code": outcome.exit_code}))
    return outcome.exit_code


if __name__ == "__main__":
    if sys.argv[1] == "train":
        raise SystemExit(train(sys.argv[2:]))
    raise SystemExit(drive(Path(sys.argv[2]), json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}))
