"""Kill trainings with SIGKILL at random moments, resume them, and demand the bits of an unbroken run.

Claim: n of n runs end with the weights, optimiser state, moving average and metrics of the uninterrupted run;
at least half of the kills come after the first checkpoint, a third while one is being written.
Control: with the sampler's position not restored, every run must differ.
Hardware: 2 CPU cores (two runs at a time, one thread each). Time: n=20 of 60 s each, about 25 minutes.
Continues where it was interrupted (`--work`, --fresh to begin again).
    under native kernels    --native (bf16, one run at a time, on 1 thread and on 2)
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, Child, Done, fingerprint, isopatch, parser, record, spread, step_folders
from benchmarks.reliability.small_runs import CONFIGURATIONS, NATIVE, prepare_data, train_arguments
from benchmarks.reliability.wrapped import read_mark

CLAIM = (
    "runs killed with SIGKILL one to three times and resumed end with the uninterrupted run's weights, "
    "optimiser state, moving average and metrics, bit for bit; half of the kills after the first checkpoint, "
    "a third while one is being written; control: with the sampler's position not restored every run differs"
)
SAVES_PER_RUN = 80  # a save every percent or so: many chances to be killed in one
CALIBRATION_EPOCHS = 3


@dataclass(frozen=True)
class Reference:
    """The uninterrupted run of a configuration. seconds: of training, without start-up."""

    name: str
    epochs: int
    every_steps: int
    seconds: float
    result: dict[str, Any]


@dataclass(frozen=True)
class Kill:
    """When to kill: after `share` of the remaining steps and a moment; or in the next save after that."""

    share: float
    in_save: bool


@dataclass
class Killed:
    """What was going on when the process died."""

    phase: str
    step: int
    after_first_checkpoint: bool


@dataclass
class Outcome:
    """One run that was killed and resumed."""

    key: str
    name: str
    identical: bool
    differing: list[str]
    kills: list[Killed]
    error: str = ""


def reference(work: Path, name: str, seconds: float, seed: int) -> Reference:
    """Train without interruption, with as many epochs as take at least `seconds` seconds of training."""
    folder = work / f"reference-{_slug(name)}"
    epochs, every_steps = CALIBRATION_EPOCHS, 1000
    for _attempt in range(8):  # the speed of a machine that others use changes between two of them
        shutil.rmtree(folder, ignore_errors=True)
        arguments = train_arguments(name, out=folder.name, epochs=epochs, every_steps=every_steps, seed=seed)
        done = Child(isopatch(*arguments), cwd=work).wait(60 + 10 * seconds)
        if done.code != 0:
            raise RuntimeError(f"{name}: the uninterrupted run failed: {_last_line(done)}")
        summary = json.loads((folder / "summary.json").read_text())
        if summary["seconds"] >= seconds:
            return Reference(name, epochs, every_steps, summary["seconds"], fingerprint(folder))
        epochs = max(epochs + 1, int(epochs * seconds * 1.15 / summary["seconds"]))
        every_steps = max(2, summary["steps"] * epochs // max(1, summary["epochs"]) // SAVES_PER_RUN)
    raise RuntimeError(f"{name}: no number of epochs takes {seconds:g} s")


def survive(
    work: Path, key: str, reference: Reference, kills: list[Kill], seed: int, *, broken: bool = False
) -> Outcome:
    """Start a run, kill it as planned, resume it to its end, and compare it with the uninterrupted one."""
    folder = work / f"run-{key}"
    shutil.rmtree(folder, ignore_errors=True)
    mark = work / f"mark-{key}"
    spec = json.dumps({"mark": mark.name, "forget_position": broken})
    arguments = train_arguments(
        reference.name,
        out=folder.name,
        epochs=reference.epochs,
        every_steps=reference.every_steps,
        seed=seed,
        resume="auto",
    )
    command = [sys.executable, "-m", "benchmarks.reliability.wrapped", spec, *arguments]
    killed: list[Killed] = []
    total = reference.result["step"]
    for kill in [*kills, None]:
        mark.unlink(missing_ok=True)
        before = step_folders(folder)
        steps_left = total - (int(before[-1].name[5:]) if before else 0)
        child = Child(command, cwd=work)
        try:
            if kill is not None and _wait_for(child, folder, mark, kill, steps_left):
                child.signal_group(signal.SIGKILL)
            done = child.wait(120 + 10 * reference.seconds)
        finally:
            child.signal_group(signal.SIGKILL)
        if done.code == -signal.SIGKILL and kill is not None:
            killed.append(_autopsy(folder, mark))
        elif done.code != 0:
            return Outcome(
                key, reference.name, False, ["exit code"], killed, f"{done.code}: {_last_line(done)}"
            )
        else:
            break
    result = fingerprint(folder)
    differing = sorted(
        k for k in result.keys() | reference.result.keys() if result.get(k) != reference.result.get(k)
    )
    if not differing:
        shutil.rmtree(folder)
    return Outcome(key, reference.name, not differing, differing, killed)


def _wait_for(child: Child, folder: Path, mark: Path, kill: Kill, steps_left: int) -> bool:
    """Wait for the planned moment; False where the process ended before it."""
    target = max(1, int(kill.share * steps_left))
    while child.running:
        phase, count = read_mark(mark)
        if phase == "step" and count >= target:
            break
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.3))  # on to another place: a later step, a save, a validation
    patience = 0.02
    while kill.in_save and child.running:
        if _being_written(folder):
            time.sleep(random.uniform(0, patience))  # anywhere between the first file and the rename
            if _being_written(folder):
                return True
            patience /= 2
        time.sleep(0.0003)
    return child.running


def _being_written(folder: Path) -> list[int]:
    """Steps of the checkpoints in the making."""
    try:
        names = os.listdir(folder / "checkpoints")
    except OSError:
        return []
    newest = max(
        (int(name[5:]) for name in names if name.startswith("step-") and name[5:].isdigit()), default=-1
    )
    steps = [int(name.split(".")[1][5:]) for name in names if name.startswith(".step-")]
    return [step for step in steps if step > newest]  # an older one is being deleted, not written


def _autopsy(folder: Path, mark: Path) -> Killed:
    """Read what the process was doing from what it left: half a checkpoint proves a kill in a save."""
    phase, _ = read_mark(mark)
    whole = step_folders(folder)
    if _being_written(folder):
        phase = "save"
    elif phase == "save":
        phase = "after the save's rename"
    return Killed(phase, int(whole[-1].name[5:]) if whole else 0, bool(whole))


def plan_kills(n: int, seed: int) -> list[list[Kill]]:
    """One to three kills a run; two of five aimed at a save, some before the first, others at any moment."""
    generator = random.Random(seed)
    plans: list[list[Kill]] = []
    number = 0
    for run in range(n):
        plan = []
        for index in range(1 + run % 3):
            early = index == 0 and run % 5 == 4
            plan.append(Kill(0.0 if early else generator.uniform(0.02, 0.85), number % 5 in (0, 2)))
            number += 1
        plans.append(plan)
    return plans


class Journal:
    """What is done already, one JSON line each, so that an interrupted harness continues."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self._path, self._lock = path, threading.Lock()
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        if lines and lines[0] != header:
            sys.exit(f"{path.parent} holds another experiment ({lines[0]}); give --fresh or another --work")
        self.entries: dict[str, dict[str, Any]] = {line["key"]: line["value"] for line in lines[1:]}
        if not lines:
            self._append(header)

    def add(self, key: str, value: dict[str, Any]) -> None:
        with self._lock:
            self.entries[key] = value
            self._append({"key": key, "value": value})

    def _append(self, line: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def main() -> int:
    options = parser(__doc__, n=20)
    options.add_argument(
        "--seconds", type=float, default=60, help="least training time of a run (default 60)"
    )
    options.add_argument("--jobs", type=int, default=2, help="runs at a time (default 2)")
    options.add_argument("--work", type=Path, default=ROOT / "runs" / "resume-kills")
    options.add_argument("--fresh", action="store_true", help="forget what an earlier call did")
    options.add_argument("--quick", action="store_true", help="n=3 runs of 8 s")
    options.add_argument("--native", action="store_true", help="the runs under native kernels instead")
    given = options.parse_args()
    if given.native:
        given.jobs = 1  # two threads on two cores
    configurations = NATIVE if given.native else CONFIGURATIONS
    n, seconds = (3, 8.0) if given.quick else (given.n, given.seconds)
    if given.fresh:
        shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True, exist_ok=True)
    work = given.work.resolve()
    journal = Journal(
        work / "journal.jsonl", {"n": n, "seconds": seconds, "seed": given.seed, "native": given.native}
    )
    prepare_data(work)
    started = time.monotonic()
    names = list(configurations)[:n]

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {text}", flush=True)

    def ensure_reference(name: str) -> Reference:
        if f"reference {name}" not in journal.entries:
            made = reference(work, name, seconds, given.seed)
            journal.add(f"reference {name}", asdict(made))
            say(f"reference: {name}: {made.epochs} epochs, {made.result['step']} steps, {made.seconds:.0f} s")
        return Reference(**journal.entries[f"reference {name}"])

    def ensure_run(key: str, made: Reference, kills: list[Kill], broken: bool) -> dict[str, Any]:
        if key not in journal.entries:
            outcome = survive(work, key, made, kills, given.seed, broken=broken)
            journal.add(key, asdict(outcome))
            verdict = "identical" if outcome.identical else f"DIFFERS in {outcome.differing} {outcome.error}"
            say(f"{key} ({made.name}): killed in {[kill.phase for kill in outcome.kills]}: {verdict}")
        return journal.entries[key]

    with ThreadPoolExecutor(given.jobs) as pool:
        references = dict(zip(names, pool.map(ensure_reference, names), strict=True))
        plans = plan_kills(n, given.seed)
        jobs = [
            pool.submit(ensure_run, f"{i:03d}", references[names[i % len(names)]], plans[i], False)
            for i in range(n)
        ]
        controls = [
            pool.submit(ensure_run, f"control-{i}", references[name], [Kill(0.4, False)], True)
            for i, name in enumerate(names)
        ]
        outcomes = [job.result() for job in jobs]
        control_outcomes = [job.result() for job in controls]
    return report(outcomes, control_outcomes, references, given, n, seconds, started)


def report(
    outcomes: list[dict[str, Any]],
    controls: list[dict[str, Any]],
    references: dict[str, Reference],
    given: Any,
    n: int,
    seconds: float,
    started: float,
) -> int:
    """Record the figures."""
    kills = [kill for outcome in outcomes for kill in outcome["kills"]]
    phases = Counter(kill["phase"] for kill in kills)
    figure = {
        "identical": sum(outcome["identical"] for outcome in outcomes),
        "of": n,
        "kills": len(kills),
        "kills_after_first_checkpoint": sum(kill["after_first_checkpoint"] for kill in kills),
        "kills_while_a_checkpoint_was_being_written": phases["save"],
        "control_differing": sum(not outcome["identical"] for outcome in controls),
        "control_of": len(controls),
    }
    passed = (
        figure["identical"] == n
        and all(outcome["kills"] for outcome in outcomes)
        and 2 * figure["kills_after_first_checkpoint"] >= len(kills)
        and 3 * figure["kills_while_a_checkpoint_was_being_written"] >= len(kills)
        and figure["control_differing"] == len(controls)
        and not any(outcome["error"] for outcome in controls)
    )
    return record(
        "resume_kills_native" if given.native else "resume_kills",
        claim=("under native kernels, on 1 thread and on 2: " if given.native else "") + CLAIM,
        measured=f"{figure['identical']} of {n} identical after {len(kills)} kills, {phases['save']} of them "
        f"inside a save; control: {figure['control_differing']} of {len(controls)} differ",
        figure=figure,
        passed=passed,
        n=n,
        seed=given.seed,
        started=started,
        out=given.out,
        spread={"seconds_of_training_uninterrupted": spread([r.seconds for r in references.values()])},
        phases=dict(phases.most_common()),
        least_seconds=seconds,
        threads=[1, 2] if given.native else 1,
        references=[asdict(made) for made in references.values()],
        runs=outcomes,
        controls=controls,
    )


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)[:40]


def _last_line(done: Done) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else "(nothing on stderr)"


if __name__ == "__main__":
    raise SystemExit(main())
