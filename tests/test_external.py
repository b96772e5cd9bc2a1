"""Other libraries' models on the command line: train, stop, resume, evaluate, predict, fine-tune, report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from isopatch import load
from isopatch.cli import main

pytest.importorskip("timm")

MODEL = ["--model", "timm:test_resnet", "--model.image_size", "16"]
SHORT = ["--epochs", "1", "--batch-size", "256", "--threads", "1"]

Command = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a verb with --json in an empty folder; returns (exit code, document, messages)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, Any, str]:
        code = main([*arguments, "--json"])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if captured.out else None, captured.err

    return run


def test_a_run_from_beginning_to_end(command: Command, tmp_path: Path) -> None:
    code, _, errors = command("train", *MODEL, *SHORT, "--out", "whole")
    assert code == 0, errors
    code, document, _ = command("train", *MODEL, *SHORT, "--out", "run", "--max-minutes", "1e-9")
    assert (code, document["step"]) == (75, 1)
    code, document, errors = command("train", "--resume", "run")
    assert (code, document["state"]) == (0, "finished") and "resuming at step 1" in errors
    bits = [Path(run, "best", "model.safetensors").read_bytes() for run in ("whole", "run")]
    assert bits[0] == bits[1]  # stopped and resumed, it ends with the same bits
    assert yaml.safe_load(Path("run/config.yaml").read_text())["model"] == {
        "name": "timm:test_resnet",
        "image_size": 16,
    }

    code, evaluation, _ = command("eval", "run", "--data", "digits")
    final = document["summary"]["final"]["test"]
    assert code == 0 and evaluation["top1"] == final["top1"]
    Image.new("RGB", (8, 8), "grey").save("grey.png")
    code, row, _ = command("predict", "run", "grey.png")
    assert code == 0 and len(row["labels"]) == 5
    code, _, _ = command("report", "run")
    assert code == 0 and "timm:test_resnet" in Path("run/report.html").read_text()

    code, _, errors = command(
        "train", "--weights", "run", "--model.image_size", "24", *SHORT, "--out", "tuned"
    )
    assert code == 0, errors
    assert load("tuned").spec.input.height == 24
    code, _, errors = command("train", "--weights", "run", "--model", "timm:resnet18", "--out", "x")
    assert code == 2 and "run holds timm:test_resnet; leave the name out" in errors


def test_without_out_the_folders_name_has_no_colon(command: Command) -> None:
    code, document, errors = command("train", *MODEL, *SHORT, "--max-minutes", "1e-9")
    assert code == 75 and document["path"] == "runs/digits-timm-test_resnet-1", errors


def test_recomputing_activations_is_refused_and_not_ignored(command: Command) -> None:
    code, _, errors = command("train", *MODEL, *SHORT, "--activation_checkpointing", "true")
    assert code == 2 and "activation_checkpointing: " in errors and "leave it out" in errors


def test_a_recipe_leaves_out_what_the_model_lacks(command: Command) -> None:
    code, config, errors = command("config", "--model", "timm:vgg11", "--recipe", "deit")
    assert code == 0 and config["model"] == {"name": "timm:vgg11"}
    assert "also sets drop_path 0.1, for which timm:vgg11 has no part: left out" in errors
    code, config, _ = command("config", "--model", "timm:resnet18", "--recipe", "deit")
    assert config["model"] == {"name": "timm:resnet18", "drop_path": 0.1}


def test_a_plan_names_the_cost(command: Command) -> None:
    code, plan, errors = command("train", *MODEL, *SHORT, "--dry-run")
    assert code == 0 and plan["model"] == "timm:test_resnet", errors
    model = load_nothing(plan)
    assert plan["parameters"] == sum(p.numel() for p in model.parameters())


def load_nothing(plan: dict[str, Any]) -> torch.nn.Module:
    from isopatch import create_model

    arguments = {k: v for k, v in plan["arguments"].items() if k != "model"}
    return create_model(plan["model"], **arguments)


def test_every_wrong_request_is_told_at_once(command: Command) -> None:
    code, _, errors = command(
        "train", "--model", "timm:test_resnet", "--model.kernel_size", "3", "--model.image_size", "x"
    )
    assert code == 2
    assert errors.splitlines() == [
        "isopatch: error: model.image_size: 'x' is not an integer or (an integer, an integer)",
        "isopatch: error: model.kernel_size: unknown",
    ]
