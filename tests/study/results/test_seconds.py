"""The seconds of a study's table are those of training: how often a run validates is not in them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml

from isopatch.cli import main
from isopatch.errors import IsopatchError, UsageError
from isopatch.study import costs
from isopatch.study.planning import plan
from isopatch.study.rows import CLOCK, digest, table, validation_seconds
from isopatch.training import finish

SIZES = {"dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "image_size": 8}
SLOW = 0.4  # seconds that every validation is made to take longer
STUDY = {
    "name": "clock",
    "question": "How long does it train?",
    "base": {
        "data": "digits",
        "recipe": "small",
        "model": {"name": "convmixer", **SIZES},
        "batch_size": 256,
        "threads": 1,
        "precision": "fp32",
    },
    "factors": {"eval.every_epochs": [1, 4]},
    "seeds": 1,
    "equal": {"epochs": 4},
}


def line(step, seconds, **more):
    row = {"kind": "eval", "step": step, "split": "val", "weights": "model", "seconds": seconds}
    return json.dumps({**row, **more})


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        ([], 0.0),
        ([json.dumps({"kind": "train", "step": 1, "seconds": 50.0})], 0.0),
        ([line(1, 2.0), line(2, 3.0)], 5.0),
        ([line(1, 2.0), line(1, 4.0, weights="ema")], 6.0),
        ([line(1, 2.0), line(1, 2.5), line(2, 3.0)], 5.5),  # done again after a resume: the last counts
        ([line(1, 2.0), line(2, 9.0, split="test"), line(3, None), "[1]", '{"kind": "eval", "st'], 2.0),
    ],
)
def test_validations_are_summed_once_each(tmp_path, lines, seconds):
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(lines))
    assert validation_seconds(path) == seconds


def test_a_run_without_metrics_has_no_validations(tmp_path):
    assert validation_seconds(tmp_path / "metrics.jsonl") == 0.0


def test_how_often_a_run_validates_is_not_in_its_seconds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    validate = finish._evaluate

    def slowly(*arguments, **options):
        time.sleep(SLOW)
        return validate(*arguments, **options)

    monkeypatch.setattr(finish, "_evaluate", slowly)
    Path("clock.yaml").write_text(yaml.safe_dump(STUDY))
    assert main(["study", "run", "clock.yaml", "--in-process", "--max-minutes", "1e-9"]) == 75
    assert main(["study", "run", "clock.yaml", "--in-process"]) == 0, capsys.readouterr().err
    folder = Path("studies/clock")
    results = table(folder)
    often, once = (
        next(row for row in results.to_pylist() if row["factor.eval.every_epochs"] == level)
        for level in ("1", "4")
    )
    for row, times in ((often, 4), (once, 1)):
        path = folder / "runs" / row["run"]
        summary = json.loads((path / "summary.json").read_text())
        rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        validating = [found["seconds"] for found in rows if found["kind"] == "eval"]
        assert len(validating) == times and min(validating) >= SLOW
        assert row["wall_seconds"] == summary["seconds"] > times * SLOW
        assert row["seconds"] == pytest.approx(summary["seconds"] - sum(validating)) and row["seconds"] > 0
        assert row["images_per_second"] == pytest.approx(row["images_seen"] / row["seconds"])
        assert row["images_per_second"] > summary["images_per_second"], "the control"
    path = folder / "runs" / once["run"] / "metrics.jsonl"
    written = path.read_text()
    path.unlink()
    alone = next(row for row in table(folder).to_pylist() if row["run"] == once["run"])
    assert alone["seconds"] == alone["wall_seconds"] == once["wall_seconds"]
    path.write_text(written + line(1, 1e6) + "\n")
    with pytest.raises(IsopatchError, match=r"metrics\.jsonl: validations of 1e\+06 s in a run of .* edited"):
        table(folder)
    assert "wall_seconds" in CLOCK and digest(results) == digest(results.drop_columns(["wall_seconds"]))


def test_runs_that_are_taught_cannot_have_equal_seconds(declare, monkeypatch):
    """Their speed is measured without the teacher, whose answers take time at every step."""
    monkeypatch.setattr(costs.Costs, "speed", lambda self, config: 640.0)
    taught = {
        "convmixers": True,
        "factors": {"start": {"alone": {}, "taught": {"teacher": "@first", "distillation": "soft"}}},
        "before": {"first": {"model": {"name": "convmixer", **SIZES}, "epochs": 1, "recipe": "small"}},
    }
    study = declare(**taught, equal={"seconds": 5})
    with pytest.raises(UsageError, match=r"without @first, .*; hold images") as refused:
        plan(study)
    assert str(refused.value).startswith("equal.seconds: ") and "\n" not in str(refused.value)
    assert len(plan(declare(**taught, equal={"images": 640}))) == 6, "control: other amounts are equal"
    assert plan(declare(convmixers=True, equal={"seconds": 5}, seeds=1)).runs[0].steps == 50
