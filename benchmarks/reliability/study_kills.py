"""Kill the drivers of a 12-run study with SIGKILL at 20 random moments; demand the unbroken study's table.

Claim: no finished run is repeated, none is lost, the table of results equals the uninterrupted study's in
everything but the clock; two drivers at once begin no run twice. Half of the kills take the driver alone,
whose trainings then save and end; half take the trainings with it, as a machine that dies.
Controls: with the sampler's position forgotten the table differs; drivers that train finished runs again are
noticed.
Hardware: 2 CPU cores (two runs at a time, one thread each). Time: about 15 minutes on a quiet machine.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from benchmarks.common import Child, Done, isopatch, parser, record, workspace

CLAIM = (
    "a 12-run study killed with SIGKILL at 20 random moments: 0 finished runs repeated, 0 lost, the final "
    "table equal to the uninterrupted one; two drivers at once: no run twice; controls: with the sampler's "
    "position forgotten the table differs, drivers that train finished runs again are noticed"
)
MOMENT = 0.5  # seconds within which a kill comes after the progress that was waited for
PARALLEL = 2


def declare(work: Path, *, kernels: list[int], seeds: int, epochs: int) -> Path:
    """Write the study: ConvMixers on the built-in digits, a checkpoint every few steps."""
    document = {
        "name": "killed",
        "question": "Does a study survive being killed?",
        "base": {
            "data": "digits",
            "recipe": "small",
            "model": "convmixer",
            "model.dim": 32,
            "model.depth": 3,
            "model.patch_size": 1,
            "model.image_size": 8,
            "batch_size": 64,
            "precision": "fp32",
            "threads": 1,
            "checkpoint.every_steps": 5,
        },
        "factors": {"kernel_size": kernels},
        "seeds": seeds,
        "equal": {"epochs": epochs},
    }
    path = work / "killed.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def drive(work: Path, study: Path, out: str, *, defect: str | None = None, parallel: int = PARALLEL) -> Child:
    """Start a driver."""
    arguments = ["study", "run", study.name, "--out", out, "--parallel", str(parallel), "--threads", "1"]
    if defect is None:
        return Child(isopatch(*arguments), cwd=work)
    return Child([sys.executable, "-m", "benchmarks.reliability.broken_driver", defect, *arguments], cwd=work)


def finished(folder: Path) -> dict[str, list[int]]:
    """Every finished run with what tells a second training of it apart: its results' identity and time."""
    found = {}
    for status in sorted((folder / "runs").glob("*/status.json")):
        try:
            if json.loads(status.read_bytes()).get("state") != "finished":
                continue
            stat = (status.parent / "summary.json").stat()
        except (OSError, ValueError):
            continue
        found[status.parent.name] = [stat.st_ino, stat.st_mtime_ns]
    return found


def steps(folder: Path) -> dict[str, int]:
    """The newest whole checkpoint of every run."""
    found: dict[str, int] = {}
    for path in (folder / "runs").glob("*/checkpoints/step-*"):
        number = path.name.removeprefix("step-")
        if number.isdigit():
            run = path.parent.parent.name
            found[run] = max(found.get(run, 0), int(number))
    return found


def progress(folder: Path) -> int:
    """Steps that all runs together have saved."""
    return sum(steps(folder).values())


def digest_of(folder: Path) -> list[str | int]:
    """[digest of the results without the clock, rows], from the Parquet file as a reader finds it."""
    import pyarrow.parquet as pq

    from isopatch.study.rows import digest

    results = pq.read_table(folder / "results.parquet")
    return [digest(results), results.num_rows]


def undisturbed(work: Path, study: Path, out: str) -> dict[str, Any]:
    """Run the study once without a kill."""
    shutil.rmtree(work / out, ignore_errors=True)
    done = drive(work, study, out).wait(7200)
    if done.code != 0:
        raise RuntimeError(f"the uninterrupted study failed: {last_line(done)}")
    return {
        "digest": digest_of(work / out),
        "seconds": done.seconds,
        "steps": progress(work / out),
    }


def kill_often(
    work: Path, study: Path, out: str, kills: int, window: float, seed: int, *, defect: str | None = None
) -> dict[str, Any]:
    """Kill drivers at random moments and let the last one finish; returns what was seen.

    window: a kill comes a moment after up to so many steps, of all runs together, were saved by the driver.
    """
    generator = random.Random(seed)
    folder = work / out
    shutil.rmtree(folder, ignore_errors=True)
    done: dict[str, list[int]] = {}
    repeated: set[str] = set()
    moments: list[dict[str, Any]] = []
    for number in range(kills):
        child = drive(work, study, out, defect=defect)
        target = progress(folder) + generator.uniform(0, window)
        while child.running and progress(folder) < target:
            time.sleep(0.02)
        time.sleep(generator.uniform(0, MOMENT))
        whole = number % 2 == 1 or defect is not None  # a broken one's trainings would go on
        trainings = children(child.pid) if whole else []
        was_running = child.running
        child.signal_group(signal.SIGKILL)
        for pid in trainings:
            kill(pid)
        ended = child.wait(30)
        now = finished(folder)
        repeated |= {run for run, marks in done.items() if now.get(run) != marks}
        done = now
        moments.append({"driver_alone": not whole, "was_running": was_running, "finished": len(now)})
        if not was_running and ended.code != 0:
            raise RuntimeError(f"a driver failed: {last_line(ended)}")
    last = drive(work, study, out, defect=defect).wait(3600)
    now = finished(folder)
    repeated |= {run for run, marks in done.items() if now.get(run) != marks}
    logs = [path.read_text() for path in (folder / "logs").glob("*.txt")]
    return {
        "digest": digest_of(folder),
        "exit_code": last.code,
        "error": "" if last.code == 0 else last_line(last),
        "repeated": sorted(repeated),
        "kills": sum(moment["was_running"] for moment in moments),
        "moments": moments,
        "finished": len(now),
        "resumed": sum(text.count("resuming at step") for text in logs),
        "clashes": sum(text.count("another process is using") for text in logs),
    }


def two_at_once(work: Path, study: Path, out: str) -> dict[str, Any]:
    """Let two drivers do a study together, and count who took what."""
    shutil.rmtree(work / out, ignore_errors=True)
    drivers = [drive(work, study, out, parallel=1) for _ in range(2)]
    ended = [driver.wait(3600) for driver in drivers]
    taken: Counter[str] = Counter()
    for driver in ended:
        taken.update(line.split(":")[0] for line in driver.stderr.splitlines() if line.endswith(": begun"))
    logs = [path.read_text() for path in (work / out / "logs").glob("*.txt")]
    return {
        "digest": digest_of(work / out),
        "exit_codes": [driver.code for driver in ended],
        "taken_twice": sorted(run for run, count in taken.items() if count > 1),
        "taken_by_each": [driver.stderr.count(": begun") for driver in ended],
        "clashes": sum(text.count("another process is using") for text in logs),
    }


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
            except OSError:
                continue
            if int(parent) == pid:
                found.append(int(entry.name))
    return found


def kill(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)  # a training is the first of its session
    except ProcessLookupError:
        return


def last_line(done: Done) -> str:
    return ([line for line in done.stderr.splitlines() if line.strip()] or ["(nothing on stderr)"])[-1]


def main() -> int:
    options = parser(__doc__, n=20)
    options.add_argument("--epochs", type=int, default=30, help="of each run (default 30)")
    options.add_argument(
        "--work", type=Path, default=None, help="folder to work in, kept: a call that was interrupted goes on"
    )
    options.add_argument("--quick", action="store_true", help="4 runs of 10 epochs, n=4 kills")
    given = options.parse_args()
    kernels, seeds, epochs, kills = [3, 5, 7, 9], 3, given.epochs, given.n
    if given.quick:
        kernels, seeds, epochs, kills = [3, 5], 2, 10, 4
    runs = len(kernels) * seeds
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {text}", flush=True)

    with workspace("study-kills", given.work) as work:
        study = declare(work, kernels=kernels, seeds=seeds, epochs=epochs)

        def part(name: str, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
            """Do a part, or take what an earlier call that was interrupted found."""
            kept = work / f"{name}.json"
            if not kept.is_file():
                found = do()
                kept.write_text(json.dumps(found))
            result: dict[str, Any] = json.loads(kept.read_text())
            say(f"{name}: {json.dumps({k: v for k, v in result.items() if k != 'moments'})}")
            return result

        whole = part("uninterrupted", lambda: undisturbed(work, study, "whole"))
        window = whole["steps"] / max(kills, 1)
        killed = part("killed", lambda: kill_often(work, study, "killed-study", kills, window, given.seed))
        together = part("two drivers", lambda: two_at_once(work, study, "together"))
        forgetful = part(
            "control, position forgotten",
            lambda: kill_often(work, study, "control", 2, window, given.seed, defect="forgets the position"),
        )
        again = part("control, trained again", lambda: repeats(work, study, "together"))["repeated"]
    equal = killed["digest"] == whole["digest"]
    differs = forgetful["digest"] != whole["digest"]
    together["equal"] = together["digest"] == whole["digest"]
    figure = {
        "runs": runs,
        "kills": killed["kills"],
        "repeated": len(killed["repeated"]),
        "lost": runs - killed["finished"],
        "table_equal": equal,
        "resumed_from_a_checkpoint": killed["resumed"],
        "two_drivers_taken_twice": len(together["taken_twice"]),
        "two_drivers_table_equal": together["equal"],
        "control_table_differs": differs,
        "control_repeated": len(again),
    }
    passed = (
        killed["exit_code"] == 0
        and killed["kills"] == kills
        and figure["repeated"] == figure["lost"] == figure["two_drivers_taken_twice"] == 0
        and killed["clashes"] == together["clashes"] == 0
        and equal
        and together["equal"]
        and together["exit_codes"] == [0, 0]
        and min(together["taken_by_each"]) > 0
        and killed["resumed"] > 0
        and differs
        and len(again) == runs
    )
    return record(
        "study_kills",
        claim=CLAIM,
        measured=f"{figure['repeated']} repeated, {figure['lost']} lost after {killed['kills']} kills, table "
        f"{_same(equal)}; two drivers: {figure['two_drivers_taken_twice']} twice; controls: table "
        f"{_same(not differs)}, {len(again)} of {runs} repetitions noticed",
        figure=figure,
        passed=passed,
        n=kills,
        seed=given.seed,
        started=started,
        out=given.out,
        threads=1,
        uninterrupted_seconds=round(whole["seconds"], 1),
        killed=killed,
        together=together,
        control=forgetful,
    )


def _same(equal: bool) -> str:
    return "equal" if equal else "different"


def repeats(work: Path, study: Path, out: str) -> dict[str, Any]:
    """Let a driver that forgets train a finished study again; returns the runs that were seen to be."""
    before = finished(work / out)
    drive(work, study, out, defect="trains again").wait(3600)
    now = finished(work / out)
    return {"repeated": sorted(run for run, marks in before.items() if now.get(run) != marks)}


if __name__ == "__main__":
    raise SystemExit(main())
