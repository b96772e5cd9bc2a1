"""From a distilled run to its page: what the run stores is what `isopatch eval` measures."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

import isopatch
from isopatch import api
from isopatch.cli import main

CONVMIXER = {"name": "convmixer", "dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "image_size": 8}
DEIT = {"name": "deit", "dim": 12, "depth": 1, "num_heads": 2, "patch_size": 4, "image_size": 8}


def train(path: Path, **changes: Any) -> Path:
    base = {"batch_size": 256, "epochs": 1, "threads": 1}
    isopatch.train(isopatch.RunConfig.model_validate(base | changes), out=path, quiet=True)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("heads")
    teacher = train(folder / "teacher", model=CONVMIXER)
    distill = {"teacher": str(teacher)}
    return {
        "teacher": teacher,
        "none": train(folder / "none", model=DEIT),
        "token": train(folder / "token", model={**DEIT, "distilled": True}, distill=distill),
        "one head": train(folder / "one-head", model=DEIT, distill=distill),
        "control": train(folder / "control", model={**DEIT, "distilled": True}),
    }


def stored(run: Path, split: str = "test") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run / f"evaluation-{split}.json").read_text())
    return document


def test_the_run_stores_what_eval_measures(runs: dict[str, Path]) -> None:
    found = stored(runs["token"])["distillation"]
    again = api.evaluate_checkpoint(
        runs["token"], "digits", teacher=str(runs["teacher"]), baseline=str(runs["none"]), threads=1
    ).to_json()["distillation"]
    assert set(again) - set(found) == {"baseline"}
    for name in ("cls", "dist", "mean_of_logits", "mean_of_probabilities"):
        assert found["heads"][name]["num_correct"] == again["heads"][name]["num_correct"]
    assert found["teacher"]["compared"] == again["teacher"]["compared"]
    assert found["token_cosine"]["by_depth"] == pytest.approx(again["token_cosine"]["by_depth"], abs=1e-6)
    for who in ("teacher", "none"):
        alone = api.evaluate_checkpoint(runs[who], "digits", threads=1)
        told = again["baseline" if who == "none" else who]
        assert told["num_correct"] == alone.scalars["num_correct"]
    summary = json.loads((runs["token"] / "summary.json").read_text())
    assert found["heads"]["mean_of_logits"]["top1"] == summary["final"]["test"]["top1"]


def test_the_teacher_is_asked_about_the_headline_split_only(runs: dict[str, Path]) -> None:
    assert set(stored(runs["token"], "val")["distillation"]) == {"heads", "token_cosine", "disagreement"}


def test_runs_without_a_teacher_or_a_second_head_store_what_they_have(runs: dict[str, Path]) -> None:
    assert "distillation" not in stored(runs["none"])
    assert set(stored(runs["one head"])["distillation"]) == {"teacher", "disagreement"}
    assert set(stored(runs["control"])["distillation"]) == {"heads", "token_cosine", "disagreement"}


def test_the_pages_of_the_runs(runs: dict[str, Path]) -> None:
    for name, title in (
        ("token", "What the heads learned"),
        ("control", "What the heads learned"),
        ("one head", "What the student learned"),
    ):
        assert f"<h2>{title}</h2>" in (runs[name] / "report.html").read_text(), name
    for name in ("none", "teacher"):
        assert not re.search(r"<h2>What the \w+ learned", (runs[name] / "report.html").read_text())


def test_the_tables_in_words(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    others = ["--teacher", str(runs["teacher"]), "--baseline", str(runs["none"])]
    assert main(["eval", str(runs["token"]), "--data", "digits", "--threads", "1", *others]) == 0
    out = capsys.readouterr().out
    found = stored(runs["token"])["distillation"]
    accuracy = re.search(r"^class head +([\d.]+) %", out, flags=re.MULTILINE)
    assert accuracy is not None
    assert float(accuracy[1]) == pytest.approx(100 * found["heads"]["cls"]["top1"], abs=0.006)
    for words in (
        "share of pictures decided differently", "cosine of class token", "recall of class", "after block 1",
        f"{found['teacher']['compared']['only_other']:,} for the teacher alone", "for the baseline alone",
    ):  # fmt: skip
        assert words in out, words
    assert main(["eval", str(runs["none"]), "--data", "digits", "--threads", "1"]) == 0
    assert "decided differently" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "source", "message"),
    [
        ("teacher", "nowhere", "--teacher: nowhere: no such file"),
        ("baseline", "a,,b", "--baseline 'a,,b': a source is missing"),
    ],
)
def test_what_cannot_be_opened_is_named_by_its_option(
    runs: dict[str, Path], option: str, source: str, message: str
) -> None:
    with pytest.raises(isopatch.UsageError, match=re.escape(message)):
        api.evaluate_checkpoint(runs["none"], "digits", threads=1, **{option: source})  # type: ignore[arg-type]


def test_a_teacher_of_another_cut_is_pointed_out(
    runs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = train(tmp_path / "other", model=CONVMIXER, data={"split_seed": 1})
    with caplog.at_level(logging.WARNING, logger="isopatch"):
        for split, teacher in (("val", runs["teacher"]), ("test", other)):  # the test split is not cut
            api.evaluate_checkpoint(runs["token"], "digits", split=split, teacher=str(teacher), threads=1)
        assert "another cut" not in caplog.text
        api.evaluate_checkpoint(runs["token"], "digits", split="val", teacher=str(other), threads=1)
    assert "was trained on another cut of digits, so on pictures of this val split" in caplog.text
