"""Put NaN and infinity where training could meet them, and see that it stops before the update.

Claim: NaN or infinity in a pixel, a weight, a gradient, a BatchNorm buffer or the learning rate stops the run
with exit code 1 before the update of that step: the parameters are the ones before it, the message names the
step, the samples and the culprit, the last checkpoint is finite, and no JSON file holds a bare NaN.
Control: the same run without the injection finishes.
Hardware: CPU. Time: about 1 minute.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.common import parser, record, step_folders, workspace
from benchmarks.reliability.small_runs import CONVMIXER, VIT, arguments_of

EPOCHS, EVERY_STEPS = 2, 5
STEP = 12  # the step that meets the bad number; checkpoints before it are of steps 5 and 10
ROW = 37  # the picture of the batch whose pixel is bad
VALUES = {"NaN": math.nan, "infinity": math.inf, "1e30": 1e30}


@dataclass(frozen=True)
class Case:
    """One bad number: where, which, in which run."""

    where: str  # pixel, weight, gradient, buffer, learning rate, nothing
    value: str
    run: str

    @property
    def name(self) -> str:
        return f"{self.value} in {self.where}, {self.run}"


RUNS: dict[str, dict[str, str]] = {
    "vit with mixup": {**VIT, "--data": "digits"},
    "convmixer": {**CONVMIXER, "--data": "digits"},
    "convmixer, moving average, clipped, 4 micro-batches": {
        **CONVMIXER,
        "--data": "digits",
        "--accumulate": "4",
        "--ema.decay": "0.9",
        "--optimizer.clip_norm": "1.0",
    },
}


def cases() -> list[Case]:
    """Every place, both values, every run that has the place; the learning rate also as 1e30."""
    table = []
    for run in RUNS:
        for where in ("pixel", "weight", "gradient", "learning rate", "buffer"):
            if where == "buffer" and run.startswith("vit"):
                continue  # it has no buffers that training changes
            table += [Case(where, value, run) for value in ("NaN", "infinity")]
        table.append(Case("learning rate", "1e30", run))
    return table


@dataclass
class Seen:
    """What the injection noted: digests of the parameters before the step and after it failed."""

    before: str = ""
    after: str = ""
    culprit: list[str] = field(default_factory=list)


@contextlib.contextmanager
def injected(case: Case, seen: Seen) -> Iterator[None]:
    """Make the number bad in step STEP of whatever trains inside."""
    import torch

    from isopatch.training import loop
    from isopatch.training.schedule import Schedule

    original, lr = loop.train_step, Schedule.lr
    value = VALUES.get(case.value, math.nan)

    def digest(model: torch.nn.Module) -> str:
        return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()

    def train_step(trainer: Any, batch: Any) -> Any:
        if batch.step != STEP:
            return original(trainer, batch)
        model, hook = trainer.model, None
        if case.where == "pixel":
            batch.images[ROW, 1, 3, 4] = value
            seen.culprit = [trainer.train.name(int(batch.indices[ROW])), f"(#{int(batch.indices[ROW])})"]
        elif case.where == "weight":
            name, parameter = list(model.named_parameters())[5]
            parameter.data.view(-1)[0] = value
            seen.culprit = [name]
        elif case.where == "buffer":
            name, buffer = [(n, b) for n, b in model.named_buffers() if b.is_floating_point()][3]
            buffer.view(-1)[0] = value
            seen.culprit = [name]
        elif case.where == "gradient":
            name, parameter = list(model.named_parameters())[7]

            def spoil(gradient: torch.Tensor) -> torch.Tensor:
                gradient = gradient.clone()
                gradient.view(-1)[0] = value
                return gradient

            hook = parameter.register_hook(spoil)
            seen.culprit = [name]
        elif case.where == "learning rate":
            seen.culprit = ["learning rate"]
        seen.before = digest(model)
        try:
            return original(trainer, batch)
        finally:
            seen.after = digest(model)
            if hook is not None:
                hook.remove()

    def spoilt_lr(self: Schedule, step: int) -> float:
        return value if step == STEP else lr(self, step)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(loop, "train_step", train_step))
        if case.where == "learning rate":
            stack.enter_context(mock.patch.object(Schedule, "lr", spoilt_lr))
        yield


def check(case: Case, work: Path) -> list[str]:
    """Train with the bad number and return what is wrong with the way it ended."""
    from isopatch.cli import main

    run = work / "".join(c if c.isalnum() else "-" for c in case.name)
    arguments = arguments_of(RUNS[case.run], out=str(run), epochs=EPOCHS, every_steps=EVERY_STEPS)
    seen, stderr = Seen(), io.StringIO()
    with injected(case, seen), contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        code = main(arguments)
    if case.where == "nothing":
        return [] if code == 0 else [f"exit code {code}: {stderr.getvalue()[-300:]}"]
    message = json.loads((run / "status.json").read_text())["message"]
    problems = []
    if code != 1:
        problems.append(f"exit code {code}")
    if not seen.before or seen.before != seen.after:
        problems.append("the parameters changed")
    if f"step {STEP}:" not in message:
        problems.append("step not named")
    if "(#" not in message:
        problems.append("no sample named")
    problems += [f"{word} not named" for word in seen.culprit if word not in message]
    if "Traceback" in stderr.getvalue():
        problems.append("traceback")
    problems += not_finite(run)
    return [*problems, message] if problems else []


def not_finite(run: Path) -> list[str]:
    """Problems of the files: numbers that are not finite in the last checkpoint, bare NaN in a JSON file."""
    import torch
    from safetensors.torch import load_file

    from isopatch.models.load import load
    from isopatch.training.checkpoint import verify

    problems = []
    newest = step_folders(run)[-1]
    verify(newest)
    if int(newest.name[5:]) not in (10, 12):
        problems.append(f"last checkpoint is {newest.name}")
    for file in [*newest.glob("*.safetensors"), *run.glob("best/*.safetensors")]:
        bad = [name for name, tensor in load_file(file).items() if not bool(torch.isfinite(tensor).all())]
        problems += [f"{file.name}: {name} is not finite" for name in bad[:1]]
    load(newest)
    for file in [*run.rglob("*.json"), *run.glob("*.jsonl")]:
        for line in file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]:
            try:
                json.loads(line, parse_constant=_refuse)
            except ValueError as error:
                problems.append(f"{file.name}: {error}")
    return problems


def _refuse(constant: str) -> float:
    raise ValueError(f"a bare {constant}")


def main() -> int:
    given = parser(__doc__).parse_args()
    started = time.monotonic()
    results = []
    with workspace("nonfinite") as work:
        for case in [*cases(), *(Case("nothing", "nothing", run) for run in RUNS)]:
            results.append({"case": case.name, "problems": check(case, work)})
            print(results[-1], flush=True)
    good = sum(not result["problems"] for result in results)
    return record(
        "nonfinite",
        claim="NaN, infinity or 1e30 in pixel, weight, gradient, BatchNorm buffer, learning rate: stopped "
        "before the update, step, samples and culprit named, last checkpoint finite, exit code 1",
        measured=f"{good} of {len(results)} right, {len(RUNS)} of them controls",
        figure={"right": good, "of": len(results), "of_them_controls": len(RUNS)},
        passed=good == len(results),
        n=len(results),
        seed=given.seed,
        started=started,
        out=given.out,
        cases=results,
    )


if __name__ == "__main__":
    raise SystemExit(main())
