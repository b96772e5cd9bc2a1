"""What a user's mistakes look like: one line on stderr, the right exit code, no traceback, empty stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from isopatch.cli import main
from isopatch.cli.parser import VERBS, build_parser
from isopatch.models import render

SIZES = {"dim": 16, "depth": 1, "kernel_size": 3, "patch_size": 1, "image_size": 8}
TINY = ["--model", "convmixer", *(f"--model.{key}={value}" for key, value in SIZES.items())]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in an empty folder; `--help` and `--version` end like any other command."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> Outcome:
        try:
            code = main(list(arguments))
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return command


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    """What the mistakes below point to."""
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    (tmp_path / "twice.yaml").write_text("epochs: 3\nepochs: 4\n")
    (tmp_path / "broken.yaml").write_text("a: [1\nb: 2\n")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.doc").write_text("important")


# (command, what the line says)
MISTAKES = [
    ("", "no verb given; there are train, eval"),
    ("trian", "'trian' is no verb (did you mean 'train'?)"),
    ("--foo", "start with a verb"),
    ("train --epoch 3", "--epoch: unknown option (did you mean '--epochs'?)"),
    ("train --lr 3", "--lr: unknown option (did you mean '--optimizer.lr'?)"),
    ("train --weight-decay 3", "(did you mean '--optimizer.weight_decay'?)"),
    ("train --mod convmixer", "--mod: unknown option (did you mean '--model'?)"),
    ("train -epochs 3", "-epochs: unknown option (did you mean '--epochs'?)"),
    ("train --optimizer.lr", "--optimizer.lr: give a value"),
    ("train --optimizer.lr --seed 3", "--optimizer.lr: give a value"),
    ("train photos", "'photos' is one argument too many"),
    ("train --optimizer.lrr 3", "optimizer.lrr: unknown key (did you mean 'lr'?)"),
    ("train --optimizer.lr fast", "optimizer.lr: 'fast' is not a number"),
    ("train --optimizer.name adam", "(did you mean 'adamw'?)"),
    ("train --batch-size 0", "batch_size: 0 is below 1"),
    ("train --epochs 1.5", "epochs: 1.5 is not a whole number"),
    ("train --seed -1", "seed: -1 is below 0"),
    ("train --bad maybe", "data.bad: 'maybe' is not one of fail, skip"),
    ("train --threads 0", "threads: 0 is below 1"),
    ("train --model vit_tny", "unknown model 'vit_tny' (did you mean 'vit_tiny'?)"),
    ("train --recipe diet", "'diet' is no recipe (did you mean 'deit'?)"),
    ("train --model vit_tiny --model.kernel_size 3", "model.kernel_size: unknown"),
    ("train --model.kernal_size 3", "model.kernal_size: unknown (did you mean 'kernel_size'?)"),
    ("train --model vit_tiny --model.image_size 30", "30"),
    ("train --config absent.yaml", "--config absent.yaml: cannot read"),
    ("train --config broken.yaml", "broken.yaml:2: not YAML"),
    ("train --config twice.yaml", "twice.yaml:2: epochs was given in line 1 already"),
    ("train --data absent", "absent"),
    ("train --data notes.txt", "notes.txt"),
    ("train --data empty", "empty"),
    ("train --weights absent.pth", "absent.pth"),
    ("train --max-minutes 0", "--max-minutes 0: give a time above 0"),
    ("train --max-minutes soon", "argument --max-minutes: invalid float value: 'soon'"),
    ("train --resume auto --overwrite --out runs/x", "--resume and --overwrite exclude each other"),
    ("train --dry-run --resume runs/x", "--dry-run plans a new run"),
    ("train --out used", "used is not empty"),
    ("train --out used --overwrite", "used is not a run folder"),
    ("config --recipe deit --epochs 3", "warmup_epochs 5 leaves nothing of 3 epochs"),
    ("eval", "the following arguments are required: CHECKPOINT, --data"),
    ("eval run", "the following arguments are required: --data"),
    ("eval run --data digits --min-acc 95", "--min-acc 95: give a share between 0 and 1"),
    ("eval run --data digits --batch-size 0", "argument --batch-size: 0 is below 1"),
    ("eval run --data digits --split tset", "argument --split: invalid choice: 'tset'"),
    ("eval run --data digits", "run: no such file or folder"),
    ("eval run --data digits --epochs 3", "--epochs: unknown option"),
    ("eval empty --data digits", "empty: neither a run nor a checkpoint"),
    ("predict run", "the following arguments are required: PATH"),
    ("predict run absent.jpg", "absent.jpg"),
    ("predict run notes.txt", "run: no such file or folder"),
    ("predict run notes.txt --top-k 0", "argument --top-k: 0 is below 1"),
    ("report", "the following arguments are required: RUN"),
    ("models", "the following arguments are required: list|show"),
    ("models show", "the following arguments are required: NAME"),
    ("models show vit_tny", "unknown model 'vit_tny' (did you mean 'vit_tiny'?)"),
    ("models show vit_tiny --image-size big", "--image-size big: give pixels"),
    ("models show vit_tiny --image-size 30", "30"),
    ("models show vit_tiny --model.dimm 3", "model.dimm: unknown (did you mean 'dim'?)"),
    ("models show vit_tiny --optimizer.lr 3", "--optimizer.lr: unknown option"),
    ("models list extra", "'extra' is one argument too many"),
    ("data check", "the following arguments are required: DATA"),
    ("data check absent", "absent"),
    ("demo --seed one", "argument --seed: 'one' is not a whole number"),
]


@pytest.mark.parametrize(
    ("command", "fragment"), MISTAKES, ids=[command or "(nothing)" for command, _ in MISTAKES]
)
def test_a_mistake_is_one_line_and_exit_code_2(run: Run, command: str, fragment: str) -> None:
    result = run(*command.split())
    assert result.code == 2, result.err
    assert result.out == ""
    errors = [line for line in result.err.splitlines() if line.startswith("isopatch: error: ")]
    assert len(errors) == 1 and fragment in errors[0], result.err
    assert "Traceback" not in result.err
    assert not Path("runs").exists() or not list(Path("runs").rglob("checkpoints/*"))


def test_every_problem_has_its_line(run: Run) -> None:
    result = run("config", "--optimizer.lrr", "1", "--batch_size", "0", "--model.kernal_size", "3")
    assert result.code == 2
    lines = result.err.splitlines()
    assert len(lines) == 3 and all(line.startswith("isopatch: error: ") for line in lines)


def test_a_missing_run_is_not_reported_on(run: Run) -> None:
    result = run("report", "absent")
    assert result.code in (1, 2)
    assert result.err.count("\n") == 1 and "absent" in result.err


def test_resuming_what_is_not_a_run_fails_in_one_line(run: Run) -> None:
    result = run("train", "--resume", "empty")
    assert result.code in (1, 2)
    assert result.err.count("\n") == 1 and "empty" in result.err


def test_debug_shows_the_traceback() -> None:
    command = [sys.executable, "-m", "isopatch", "models", "show", "vit_tny", "--debug"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "Traceback" in result.stderr


def test_an_unexpected_error_is_one_line_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("two\nlines")

    monkeypatch.setattr(render, "list_rows", broken)
    result = run("models", "list")
    assert result.code == 1
    assert result.err.count("\n") == 1 and "KeyError" in result.err and "--debug" in result.err


def test_an_interrupt_is_code_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(render, "list_rows", interrupted)
    result = run("models", "list")
    assert result.code == 130 and result.err == "isopatch: error: interrupted\n"


@pytest.mark.parametrize("command", [["--help"], ["models", "list"]])
def test_a_reader_that_leaves_early_is_no_error(command: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        result = subprocess.run(
            [sys.executable, "-m", "isopatch", *command],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (result.returncode, result.stderr) == (0, "")


def test_help_lists_every_verb(run: Run) -> None:
    result = run("--help")
    assert result.code == 0 and result.err == ""
    assert all(f"    {verb} " in result.out for verb in VERBS)


def test_help_of_train_lists_the_recipes_and_points_to_config(run: Run) -> None:
    result = run("train", "--help")
    assert result.code == 0
    assert "convmixer-cifar" in result.out and "isopatch config" in result.out


def test_abbreviated_options_are_not_taken() -> None:
    with pytest.raises(ValueError, match="required"):
        build_parser().parse_args(["eval", "run", "--dat", "digits"])


def test_config_prints_yaml_that_it_reads_back(run: Run) -> None:
    first = run("config", *TINY, "--recipe", "convmixer", "--optimizer.lr=1e-2", "--seed", "3")
    assert first.code == 0
    document = yaml.safe_load(first.out)
    assert document["optimizer"]["lr"] == 0.01 and document["seed"] == 3
    Path("run.yaml").write_text(first.out)
    assert run("config", "--config", "run.yaml").out == first.out


def test_config_as_json_on_stdout_and_notes_on_stderr(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="isopatch"):
        result = run("config", *TINY, "--recipe", "deit", "--json")
    assert json.loads(result.out)["recipe"] == "deit"
    assert "drop_path" in caplog.text and "drop_path 0.1" not in result.out


def test_the_default_model_is_chosen_for_the_pictures(run: Run) -> None:
    result = run("config", "--json")
    model = json.loads(result.out)["model"]
    assert model["name"] == "convmixer" and model["image_size"] == 8


def test_models_as_json(run: Run) -> None:
    rows = json.loads(run("models", "list", "--json").out)
    assert {"vit_base_patch16_224", "convmixer_1536_20"} <= {row["name"] for row in rows}
    shown = json.loads(run("models", "show", "convmixer_256_8_ks5_p2", "--json").out)
    assert (shown["parameters"], shown["flops"]) == (594_186, 2 * shown["macs"])
    changed = run("models", "show", "convmixer_256_8_ks5_p2", "--model.kernel_size", "9", "--json")
    assert json.loads(changed.out)["parameters"] == 708_874


def test_data_check_as_json(run: Run) -> None:
    document = json.loads(run("data", "check", "digits", "--json").out)
    assert (document["readable"], document["unreadable"]) == (1797, 0)


def test_doctor_as_json_and_text(run: Run) -> None:
    document = json.loads(run("doctor", "--json").out)
    assert document["versions"]["torch"] != "not installed" and document["bf16_speedup"] > 0
    text = run("doctor").out
    assert "torch" in text and "ISOPATCH_DATA" in text
