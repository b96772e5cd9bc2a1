"""What a run that is continued, or begun from another run's weights, takes from what is already there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from isopatch.cli import main
from isopatch.recipes import default

SIZES = {"dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "image_size": 8}
TINY = ["--model", "convmixer", *(f"--model.{key}={value}" for key, value in SIZES.items())]
SHORT = ["--epochs", "2", "--batch-size", "256", "--threads", "1"]

Command = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `isopatch train ... --json` in an empty folder; returns (exit code, document, messages)."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, dict[str, Any], str]:
        code = main(["train", *arguments, "--json"])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if captured.out else {}, captured.err

    return command


@pytest.fixture
def stopped(train: Command) -> list[str]:
    """A run in `run`, stopped after its first step; returns the command that began it."""
    command = [*TINY, *SHORT, "--recipe", "small", "--seed", "3", "--out", "run"]
    code, document, errors = train(*command, "--max-minutes", "1e-9")
    assert (code, document["state"], document["step"]) == (75, "stopped", 1), errors
    return command


def test_the_command_that_began_it_continues_it(train: Command, stopped: list[str]) -> None:
    code, document, errors = train(*stopped, "--resume", "auto")
    assert (code, document["state"]) == (0, "finished"), errors


def test_a_harmless_option_leaves_the_rest_as_it_was(train: Command, stopped: list[str]) -> None:
    code, document, errors = train("--resume", "run", "--data.workers", "2", "--eval.batch_size", "100")
    assert (code, document["state"]) == (0, "finished"), errors
    assert document["summary"]["model"]["arguments"]["dim"] == 8 and document["summary"]["seed"] == 3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["--epochs", "5"], "epochs was 2, now 5"),
        (["--model.dim", "16"], "model.dim was 8, now 16"),
        (["--recipe", "finetune"], "recipe was 'small', now 'finetune'"),
        (["--data", "elsewhere"], "elsewhere"),
    ],
)
def test_an_option_that_changes_the_weights_is_refused(
    train: Command, stopped: list[str], changes: list[str], named: str
) -> None:
    code, document, errors = train("--resume", "run", *changes)
    assert code == 2 and not document
    assert [named in line for line in errors.splitlines() if "error:" in line] == [True]


def test_an_unknown_recipe_is_named_on_resume(train: Command, stopped: list[str]) -> None:
    code, _, errors = train("--resume", "run", "--recipe", "smal")
    assert code == 2 and "did you mean 'small'" in errors


def test_the_default_choice_of_another_machine_does_not_matter(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = ["--out", "run", "--model.dim", "8", "--model.depth", "1", *SHORT]
    assert train(*begin, "--max-minutes", "1e-9")[0] == 75

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the default was chosen again")

    monkeypatch.setattr(default, "choose", refuse)
    code, document, errors = train(*begin, "--resume", "auto")
    assert (code, document["state"]) == (0, "finished"), errors


def test_weights_of_ours_bring_their_sizes_where_the_name_only_confirms_them(
    train: Command, stopped: list[str]
) -> None:
    assert train("--resume", "run")[0] == 0
    start = ["--data", "digits", "--weights", "run", *SHORT]
    code, plan, errors = train("--model", "convmixer", *start, "--dry-run")
    assert code == 0 and plan["arguments"]["dim"] == 8, errors
    _, nameless, _ = train(*start, "--dry-run")
    assert nameless["arguments"] == plan["arguments"] and nameless["macs"] == plan["macs"]
    code, document, errors = train("--model", "convmixer", *start, "--out", "tuned")
    model = document["summary"]["model"]["arguments"]
    assert (code, model["dim"], model["patch_size"]) == (0, 8, 2), errors
    assert document["summary"]["macs"] == plan["macs"]


def test_weights_of_ours_under_another_name_are_refused(train: Command, stopped: list[str]) -> None:
    code, _, errors = train("--model", "deit_tiny_patch16_224", "--weights", "run", "--data", "digits")
    assert code == 2 and "run holds convmixer" in errors and len(errors.splitlines()) == 1


def _pictures(folder: Path) -> None:
    for split, count in (("train", 6), ("test", 2)):
        for number, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                colour = (100 * number + index, 50, 50)
                Image.new("RGB", (8, 8), colour).save(folder / split / name / f"{index}.png")


def test_an_unreadable_test_picture_is_found_before_the_first_step(train: Command, tmp_path: Path) -> None:
    _pictures(tmp_path / "pets")
    broken = tmp_path / "pets" / "test" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    start = [
        *TINY,
        "--recipe",
        "small",
        "--data",
        "pets",
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--out",
        "run",
    ]
    start += ["--data.val_fraction", "0", "--threads", "1"]
    code, _, errors = train(*start)
    assert code == 1 and "test: 1 of 4 pictures cannot be read" in errors and "--bad skip" in errors
    assert "1.png" in errors and not (tmp_path / "run" / "metrics.jsonl").exists()
    code, document, errors = train(*start, "--bad", "skip")
    assert code == 0 and document["summary"]["data"]["skipped"] == {"test": 1}, errors


def test_without_validation_the_moving_average_is_evaluated_too(train: Command) -> None:
    options = ["--data.val_fraction", "0", "--ema.decay", "0.5", "--out", "run"]
    code, document, errors = train(*TINY, *SHORT, *options)
    final = document["summary"]["final"]
    assert code == 0 and set(final) == {"test", "test_ema"}, errors
    assert final["test_ema"]["num_images"] == 359 and final["test_ema"]["nll"] != final["test"]["nll"]
