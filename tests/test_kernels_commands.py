"""`--kernels` and `--precision` on the command line: what ran is printed, and what cannot run is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from isopatch import cli
from isopatch.data.open import open_data
from isopatch.errors import UsageError
from isopatch.kernels import native
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.predict import Predictor
from isopatch.predict_file import predict_to_file

SIZES = {"dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "image_size": 8}
TINY = ["--model", "convmixer", *(f"--model.{key}={value}" for key, value in SIZES.items())]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the command line in a folder that holds weights and a picture: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    classes = tuple(str(digit) for digit in range(10))
    model = build(make_spec("convmixer", {**SIZES, "num_classes": 10}, classes=classes))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.6)
    save_model(Path("weights"), model)
    pictures = open_data("digits", val_fraction=0.0).train
    assert pictures is not None
    pictures.read(0).save("0.png")

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_an_evaluation_says_what_it_ran_on(needs_native: None, command: Command) -> None:
    found = {}
    for kernels, ran in (("auto", "native"), ("plain", "plain")):
        asked = ("--data", "digits", "--kernels", kernels, "--json")
        code, out, err = command("eval", "weights", *asked)
        document = found[ran] = json.loads(out)
        assert code == 0 and (document["kernels"], document["precision"]) == (ran, "fp32")
        instructions = native.instructions() if ran == "native" else None
        assert (document["instruction_set"], document["threads"]) == (instructions, torch.get_num_threads())
        assert err.count(f"kernels {ran}") == 1
    assert found["native"]["nll"] == pytest.approx(found["plain"]["nll"], rel=1e-5)
    half = ("--kernels", "native", "--precision", "bf16")
    _, out, err = command("eval", "weights", "--data", "digits", *half)
    assert f"in bf16, native kernels ({native.instructions()}), " in out and "kernels native, bf16: " in err
    _, out, _ = command("eval", "weights", "--data", "digits", *half, "--sizes", "8,12", "--json")
    assert [json.loads(out)[key] for key in ("kernels", "precision")] == ["native", "bf16"]


def test_predictions_say_what_they_ran_on(needs_native: None, command: Command) -> None:
    _, _, err = command("predict", "weights", "0.png", "--kernels", "plain")
    assert "kernels plain" in err
    _, out, err = command("predict", "weights", "0.png", "--out", "rows.csv", "--json")
    assert json.loads(out)["kernels"] == "native" and "kernels native, fp32: " in err
    assert json.loads(Path("rows.csv.meta.json").read_text())["kernels"] == "native"
    plain = Predictor("weights", kernels="plain")  # a machine without kernels may go on with the file
    assert predict_to_file(plain, ["0.png"], Path("rows.csv"))["skipped"] == 1
    first, second = Predictor("weights")("0.png"), plain("0.png")
    assert first.label == second.label and first.probabilities == pytest.approx(
        second.probabilities, rel=1e-4
    )


def test_a_plan_says_what_would_run(needs_native: None, command: Command) -> None:
    plan = ("train", *TINY, "--dry-run", "--batch_size", "64")
    _, out, err = command(*plan, "--precision", "bf16")
    assert "cpu, bf16, native kernels" in out and "kernels native, bf16: " in err
    document = json.loads(command(*plan, "--kernels", "plain", "--json")[1])
    assert (document["kernels"], document["instruction_set"]) == ("plain", None)


def test_without_native_kernels_everything_runs_plain_or_says_why_not(
    without_native: None, command: Command
) -> None:
    code, out, err = command("eval", "weights", "--data", "digits", "--json")
    assert code == 0 and json.loads(out)["kernels"] == "plain"
    assert "kernels plain: the native kernels were taken away" in err
    for arguments in (
        ("eval", "weights", "--data", "digits"),
        ("predict", "weights", "0.png"),
        ("train", *TINY, "--dry-run"),
    ):
        code, out, err = command(*arguments, "--kernels", "native")
        assert (code, out) == (2, "")
        (line,) = [line for line in err.splitlines() if line.startswith("isopatch: error:")]
        assert "kernels native: " in line and "use --kernels plain" in line


def test_names_of_kernels_are_checked(command: Command) -> None:
    code, _, err = command("eval", "weights", "--data", "digits", "--kernels", "fast")
    assert code == 2 and "'fast'" in err and "native" in err
    code, _, err = command("train", *TINY, "--kernels", "natve", "--dry-run")
    assert code == 2 and "kernels: 'natve' is not one of auto, plain, native, triton" in err
    with pytest.raises(UsageError, match="did you mean 'plain'"):
        Predictor("weights", kernels="plan")


def test_doctor_names_the_instruction_set(needs_native: None, command: Command) -> None:
    document = json.loads(command("doctor", "--json")[1])
    assert document["native_kernels"] == native.instructions()
    assert document["triton"]
    line = next(line for line in command("doctor")[1].splitlines() if line.startswith("native kernels"))
    assert native.instructions() in line


def test_doctor_says_why_there_are_none(without_native: None, command: Command) -> None:
    assert json.loads(command("doctor", "--json")[1])["native_kernels"].startswith("none: the native kernels")
