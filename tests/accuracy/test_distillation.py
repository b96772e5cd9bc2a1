"""The distillation script from end to end on digits: trains, goes on where it was, compares, fine-tunes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from isopatch.api import configure, train

ROOT = Path(__file__).parents[2]
SMALL = ("--image-size", "8", "--patch", "2", "--epochs", "1", "--seeds", "1")


def test_token_distillation_and_fine_tuning_with_both_heads(script, tmp_path: Path) -> None:
    sizes = {"dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "image_size": 8}
    settings = {f"model.{key}": value for key, value in sizes.items()} | {"epochs": 1, "data.val_fraction": 0}
    train(
        configure(model="convmixer", recipe="small", settings=settings), out=tmp_path / "teacher", quiet=True
    )

    arms = ("--arms", "hard + token", "--teacher", str(tmp_path / "teacher"), "--finetune", "12")
    code, result = script("distillation", "deit", *SMALL, *arms, "--parallel", "1")
    assert code == 0
    (taught,) = result["runs"]["hard + token"]
    (tuned,) = result["runs"]["hard + token at 12"]
    assert taught["distillation"]["cache"]["bytes_per_picture"] > 40
    assert "--model.image_size 12" in tuned["command"] and tuned["distillation"] is not None
    folder = tmp_path / "runs" / "hard-token-seed0-12"
    assert set(json.loads((folder / "evaluation-test.json").read_text())["heads"]) == {
        "cls",
        "dist",
        "agreement",
    }
    shutil.rmtree(folder)  # as if it had been interrupted before it began
    _, again = script("distillation", "deit", *SMALL, *arms, "--parallel", "1")
    assert again["runs"]["hard + token"] == result["runs"]["hard + token"]
    assert again["runs"]["hard + token at 12"][0]["weights_sha256"] == tuned["weights_sha256"]


@pytest.mark.slow
def test_a_vit_against_a_convnet_as_the_teacher_over_two_epochs(tmp_path: Path) -> None:
    """DeiT's table 2 as arguments of the script: a cache for each teacher, two epochs, two runs at a time."""
    sizes = {"dim": 8, "depth": 1, "patch_size": 2, "image_size": 8}
    for model, own in {"convmixer": {"kernel_size": 3}, "vit": {"num_heads": 2}}.items():
        settings = {f"model.{key}": value for key, value in (sizes | own).items()}
        settings |= {"epochs": 1, "data.val_fraction": 0}
        train(configure(model=model, recipe="small", settings=settings), out=tmp_path / model, quiet=True)

    teachers = ("--teacher", str(tmp_path / "convmixer"), "--other-teacher", str(tmp_path / "vit"))
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    where = ("--data", "digits", "--folder", str(tmp_path / "runs"), "--out", str(tmp_path / "result.json"))
    command = [sys.executable, "-m", "benchmarks.accuracy.distillation", "convmixer", "--arms", "hard"]
    command += [*teachers, *where, *SMALL, "--epochs", "2"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["runs"]) == ["hard", "hard by the other teacher"]
    assert {run["epochs"] for runs in result["runs"].values() for run in runs} == {2}
    caches = [tmp_path / "runs" / name / "cache.json" for name in ("cache", "cache-other")]
    ours, other = (json.loads(cache.read_text())["fingerprint"]["teacher"] for cache in caches)
    assert ours != other
    (step,) = result["figure"]["steps"]
    assert step["step"] == "hard > hard by the other teacher" and "one seed" in step["verdict"]
