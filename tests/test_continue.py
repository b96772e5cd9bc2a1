"""What a run that is continued, or begun from another run's weights, takes from what is already there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from isopatch import demo, evaluation
from isopatch.cli import main
from isopatch.data.open import open_data
from isopatch.errors import UsageError
from isopatch.recipes import default
from isopatch.training import hardware

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
    assert (code, document["state"]) == (0, "finished") and "resuming at step 1 of 10" in errors


def test_a_harmless_option_leaves_the_rest_as_it_was(train: Command, stopped: list[str]) -> None:
    code, document, errors = train("--resume", "run", "--data.workers", "2", "--eval.batch_size", "100")
    assert (code, document["state"]) == (0, "finished") and "resuming at step 1 of 10" in errors
    assert document["summary"]["model"]["arguments"]["dim"] == 8 and document["summary"]["seed"] == 3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["--epochs", "5"], "epochs was 2, now 5"),
        (["--model.dim", "16"], "model.dim was 8, now 16"),
        (["--recipe", "finetune"], "recipe was 'small', now 'finetune'"),
        (["--data", "elsewhere"], "elsewhere"),
        (["--weights", "run"], "the folder of this run itself"),
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
    assert (code, document["state"]) == (0, "finished") and "resuming at step 1 of 10" in errors


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


def pets(*, epochs: int) -> list[str]:
    """The options of a training on the folder `pets`, into `run`."""
    text = f"--recipe small --data pets --batch_size 4 --epochs {epochs} --threads 1 --out run"
    return [*TINY, *text.split()]


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
    start = pets(epochs=1)
    start += ["--data.val_fraction", "0"]
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


@pytest.mark.parametrize("changes", [["--recipe", "convmixer-cifar"], ["--epochs", "3"]])
def test_before_the_first_checkpoint_other_settings_are_refused_too(
    train: Command, stopped: list[str], tmp_path: Path, changes: list[str]
) -> None:
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    code, _, errors = train("--resume", "auto", "--out", "run", *changes)
    assert code == 2 and "started differently" in errors
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    assert train("--resume", "auto", "--out", "run")[0] == 0  # control: unchanged, it starts again


def test_a_finished_run_does_not_answer_for_another_configuration(
    train: Command, stopped: list[str], tmp_path: Path
) -> None:
    assert train("--resume", "run")[0] == 0
    assert train(*stopped, "--resume", "auto")[0] == 0
    code, document, errors = train(*stopped, "--resume", "auto", "--seed", "7")
    assert code == 2 and not document and "seed was 3, now 7" in errors
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("finished", 0)


def test_a_refused_resume_is_in_status_json(train: Command, stopped: list[str], tmp_path: Path) -> None:
    assert train("--resume", "run", "--epochs", "5")[0] == 2
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["step"]) == ("failed", 2, 1)
    assert train("--resume", "run")[0] == 0


def test_auto_without_a_folder_continues_the_newest_unfinished_run(train: Command, tmp_path: Path) -> None:
    begin = [*TINY, *SHORT, "--recipe", "small"]
    assert train(*begin, "--max-minutes", "1e-9")[1]["path"] == "runs/digits-convmixer-1"
    assert train(*begin, "--seed", "4", "--max-minutes", "1e-9")[1]["path"] == "runs/digits-convmixer-2"
    code, document, errors = train(*begin, "--resume", "auto")
    assert (code, document["path"]) == (0, "runs/digits-convmixer-1") and "resuming at step 1" in errors
    assert train(*begin, "--resume", "auto")[1]["path"] == "runs/digits-convmixer-3"  # nothing unfinished


def test_overwriting_deletes_nothing_that_a_run_did_not_write(
    train: Command, stopped: list[str], tmp_path: Path
) -> None:
    (tmp_path / "run" / "thesis.txt").write_text("important")
    code, _, errors = train(*stopped, "--overwrite")
    assert code == 2 and "thesis.txt" in errors and (tmp_path / "run" / "thesis.txt").exists()
    (tmp_path / "run" / "thesis.txt").rename(tmp_path / "run" / "checkpoints" / "mine.pth")
    code, _, errors = train(*stopped, "--overwrite")
    assert code == 2 and "checkpoints/mine.pth" in errors
    (tmp_path / "run" / "checkpoints" / "mine.pth").unlink()
    assert train(*stopped, "--overwrite")[0] == 0


def test_a_stopped_run_has_a_report(train: Command, stopped: list[str], tmp_path: Path) -> None:
    train("--resume", "run", "--max-minutes", "1e-9")
    assert "stopped" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_goes_on_from_another_folder_and_with_moved_data(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pictures(tmp_path / "pets")
    start = pets(epochs=2)
    start += ["--data.val_fraction", "0"]
    assert train(*start, "--max-minutes", "1e-9")[0] == 75
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert train("--resume", "../run", "--max-minutes", "1e-9")[0] == 75
    (tmp_path / "pets").rename(tmp_path / "animals")
    code, document, errors = train("--resume", "../run", "--data", "../animals")
    assert (code, document["state"]) == (0, "finished") and "resuming at step 2 of 6" in errors
    (tmp_path / "animals" / "train" / "cat" / "0.png").unlink()
    other = [*start, "--out", "../other", "--data", "../animals"]
    assert train(*other, "--max-minutes", "1e-9")[0] == 75
    (tmp_path / "animals" / "train" / "cat" / "1.png").unlink()
    code, _, errors = train("--resume", "../other")
    assert code == 2 and "changed since the run started" in errors


def test_a_split_cut_by_seed_travels_with_the_weights(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index in range(20):
            Image.new("RGB", (8, 8), (100 * number + index, 50, 50)).save(
                tmp_path / f"pets/{name}/{index}.png"
            )
    start = pets(epochs=1)
    assert train(*start, "--data.split_seed", "5")[0] == 0
    used = open_data(tmp_path / "pets", split_seed=5)
    assert used.test is not None
    expected = {Path(used.test.name(i)).name for i in range(len(used.test))}
    shutil.copytree(tmp_path / "run" / "best", tmp_path / "copied")
    (tmp_path / "config.yaml").write_text("trainer: {gpus: 1}")  # somebody else's: no run of ours
    (tmp_path / "pets").rename(tmp_path / "animals")
    monkeypatch.chdir("/")
    for source in ("run", "run/best", "run/checkpoints/last", "copied"):
        where = tmp_path / source
        splits, changed = evaluation._open_as_the_run_did(where, str(tmp_path / "animals"), "fail")
        assert not changed
        assert splits.test is not None
        assert {Path(splits.test.name(i)).name for i in range(len(splits.test))} == expected
    config = json.loads((tmp_path / "copied" / "config.json").read_text())
    del config["data"]
    (tmp_path / "copied" / "config.json").write_text(json.dumps(config))
    caplog.clear()
    evaluation._open_as_the_run_did(tmp_path / "copied", str(tmp_path / "animals"), "fail")
    assert "holds some that it was trained on" in caplog.text
    (tmp_path / "animals").rename(tmp_path / "pets")
    assert main(["eval", str(tmp_path / "run"), "--data", str(tmp_path / "pets")]) == 0  # control
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "pets" / "cat" / "new.png")
    assert main(["eval", str(tmp_path / "run"), "--data", str(tmp_path / "pets")]) == 2
    assert main(["eval", str(tmp_path / "run"), "--data", str(tmp_path / "pets"), "--split", "train"]) == 0


def test_the_demo_overwrites_its_own_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vit").mkdir()
    with pytest.raises(UsageError, match="did not write"):
        demo.run_demo(tmp_path)
    assert not (tmp_path / demo.MARK).exists()
    (tmp_path / "vit").rmdir()
    demo._claim(tmp_path)
    (tmp_path / "vit").mkdir()
    demo._claim(tmp_path)  # its own, a second time


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        (["--optimizer.betas", "[2,3]"], "optimizer.betas"),
        (["--device", "foo"], "device"),
        (["--data.val_fraction", "1"], "data.val_fraction"),
        (["--model.in_channels", "1"], "model.in_channels: 1"),
    ],
)
def test_bad_values_are_refused_with_the_configuration(
    train: Command, setting: list[str], named: str
) -> None:
    code, _, errors = train(*TINY, *SHORT, *setting, "--out", "run")
    assert code == 2 and named in errors and not Path("run").exists()


@pytest.mark.parametrize(("limit", "code"), [("100", 2), ("0", 0)])
def test_pictures_replaced_by_others_of_the_same_size_are_noticed(
    train: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture, limit: str, code: int
) -> None:
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / "train" / name).mkdir(parents=True)
        for index in range(6):
            Image.new("RGB", (8, 8), (100 * number, 9, 9)).save(tmp_path / f"pets/train/{name}/{index}.bmp")
    start = pets(epochs=2)
    start += ["--data.val_fraction", "0", "--data.memory_limit_mb", limit]
    assert train(*start, "--max-minutes", "1e-9")[0] == 75
    assert train("--resume", "run", "--max-minutes", "1e-9")[0] == 75
    assert "written anew" not in caplog.text  # control
    Image.new("RGB", (8, 8), (0, 200, 0)).save(tmp_path / "pets/train/cat/3.bmp")
    result, _, errors = train("--resume", "run")
    assert result == code, errors
    assert ("changed since the run started, their names and sizes did not" in errors) == (code == 2)
    assert ("written anew" in caplog.text) == (code == 0)


def test_an_unreadable_training_picture_says_what_to_do(train: Command, tmp_path: Path) -> None:
    _pictures(tmp_path / "pets")
    (tmp_path / "pets" / "train" / "cat" / "0.png").write_bytes(b"")
    start = pets(epochs=1)
    for limit in ("100", "0"):
        code, _, errors = train(*start, "--data.memory_limit_mb", limit, "--data.val_fraction", "0")
        assert code == 1 and "0.png: empty file" in errors and "--bad skip" in errors
        shutil.rmtree(tmp_path / "run")


def test_a_path_that_does_not_exist_is_said_to(train: Command, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    code, _, errors = train("--data", "picturse")
    assert code == 2 and "no such file or folder (did you mean 'pictures'?)" in errors
    code, _, errors = train("--data", "xyzzy")
    assert code == 2 and "no such file or folder" in errors


def test_a_busy_machine_is_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "available_cores", lambda: 2)
    monkeypatch.setattr(hardware.os, "getloadavg", lambda: (3.0, 0.0, 0.0))
    assert "--threads 1" in (hardware.busy_note(2) or "")
    assert hardware.busy_note(1) is None
    monkeypatch.setattr(hardware.os, "getloadavg", lambda: (0.4, 0.0, 0.0))
    assert hardware.busy_note(2) is None
