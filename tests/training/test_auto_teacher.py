"""`--teacher auto`: a teacher is trained first, kept, and taken again; nothing is trained in vain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import isopatch
from isopatch import api
from isopatch.cli import main
from isopatch.recipes import teacher as recipe
from isopatch.training.loop import RunResult

TINY = {"name": "convmixer", "dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "image_size": 8}


def config(**changes: Any) -> isopatch.RunConfig:
    base = {"model": TINY, "batch_size": 256, "epochs": 1, "threads": 1, "distill": {"teacher": "auto"}}
    return isopatch.RunConfig.model_validate(base | changes)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch of the teacher is enough here."""
    small = recipe.small

    def one_epoch(*arguments: Any) -> isopatch.RunConfig:
        return small(*arguments).model_copy(update={"epochs": 1})

    monkeypatch.setattr(recipe, "small", one_epoch)


def train(out: Path, settings: isopatch.RunConfig | None = None, **options: Any) -> RunResult:
    return isopatch.train(config() if settings is None else settings, out=out, quiet=True, **options)


def teachers(folder: Path) -> list[Path]:
    return sorted((folder / "teachers").glob("*"))


def test_a_teacher_is_trained_once_and_taken_again(tmp_path: Path) -> None:
    first = train(tmp_path / "first")
    (teacher,) = teachers(tmp_path)
    written = (teacher / "status.json").stat().st_mtime_ns
    second = train(tmp_path / "second", config(seed=1))
    assert first.state == second.state == "finished"
    assert teachers(tmp_path) == [teacher]
    assert (teacher / "status.json").stat().st_mtime_ns == written
    stored = json.loads((second.path / "evaluation-test.json").read_text())["distillation"]["teacher"]
    assert stored["source"] == str(teacher)
    again = train(tmp_path / "first", resume="auto")
    assert again.summary == first.summary


def test_what_refuses_the_student_comes_before_the_teacher(tmp_path: Path) -> None:
    train(tmp_path / "used", config(distill={}))
    with pytest.raises(isopatch.UsageError, match="not empty"):
        train(tmp_path / "used")
    with pytest.raises(isopatch.UsageError, match=r"started differently: distill\.teacher was None"):
        train(tmp_path / "used", resume="auto")
    with pytest.raises(isopatch.UsageError, match="no distillation token"):
        train(tmp_path / "new", config(distill={"teacher": "auto", "token": True}))
    assert teachers(tmp_path) == []


def test_an_interrupted_teacher_goes_on_as_it_began_and_the_time_limit_is_for_both(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = train(tmp_path / "run", max_minutes=1e-9)
    (teacher,) = teachers(tmp_path)
    assert (first.state, first.exit_code, first.path) == ("stopped", 75, teacher)
    assert "the command that began its teacher goes on with both" in caplog.text
    student = train(tmp_path / "run", config(threads=2), max_minutes=60)
    assert (student.state, student.path) == ("finished", tmp_path / "run")


def test_the_students_time_is_what_the_teacher_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []
    request = api.StopRequest

    def noting(max_minutes: float | None) -> Any:
        limits.append(max_minutes)
        return request(max_minutes)

    monkeypatch.setattr(api, "StopRequest", noting)
    train(tmp_path / "run", max_minutes=60)
    assert limits[0] == 60
    assert 0 < limits[1] < 60


def test_a_plan_says_that_the_teacher_is_not_there_and_fills_no_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = [f"--model.{key}={value}" for key, value in TINY.items() if key != "name"]
    command = ["train", "--model", "convmixer", *sizes, "--teacher", "auto", "--dry-run", "--threads", "1"]
    assert main([*command, "--json", "--distill.cache", "answers"]) == 0
    assert "the teacher is to be trained first" in json.loads(capsys.readouterr().out)["notes"][-1]
    train(tmp_path / "runs" / "first")
    assert main([*command, "--json", "--distill.cache", "answers"]) == 0
    assert "the teacher is to be trained" not in str(json.loads(capsys.readouterr().out)["notes"])
    assert not (tmp_path / "answers").exists()
