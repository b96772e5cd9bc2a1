"""A payload does not run, whatever door it is given to; all of them: benchmarks/reliability/hostile.py."""

import contextlib
import io
import os
import pickle

import pytest
from benchmarks.reliability import hostile
from benchmarks.reliability.hostile_files import CANARY, Payload

FILES = ("pickle.pth", "zip-state.pth", "pickle.safetensors", "apply.yaml")
WEIGHTS = ("objects.npz", "objects-among-weights.npz", "truncated.safetensors", "nan.safetensors")
FOLDERS = (
    "run with tagged config.yaml",
    "run with alias bomb as config.yaml",
    "run with pickled model.safetensors, digests right",
    "run with pickled state.json, digests right",
    "hub layout, pickled weights",
)
WEIGHTS_DOORS = (
    "convert SRC",
    "convert SRC --partial",
    "convert DST",
    "convert --against",
    "predict CHECKPOINT",
    "train --weights",
)
RUN_DOORS = ("convert SRC", "train --resume", "eval CHECKPOINT", "predict CHECKPOINT", "report RUN")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    from isopatch.cli import main

    path = tmp_path_factory.mktemp("good") / "run"
    arguments = ["train", "--data", "digits", *hostile.TINY, "--out", str(path), "--batch_size", "256"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(arguments) == 0
    return path


def test_files_at_every_door(tmp_path, good):
    tries, wrong, _ = hostile.sweep(
        tmp_path, good, doors_wanted=lambda door: True, files_wanted=lambda name: name in FILES
    )
    assert wrong == [] and tries == len(FILES) * len(hostile.doors("", ""))


def test_weights_at_the_doors_that_open_them(tmp_path, good):
    tries, wrong, _ = hostile.sweep(
        tmp_path,
        good,
        doors_wanted=lambda door: door in WEIGHTS_DOORS,
        files_wanted=lambda name: name in WEIGHTS,
    )
    assert wrong == [] and tries == len(WEIGHTS) * len(WEIGHTS_DOORS)
    assert not (tmp_path / "new").exists()


def test_run_folders_at_the_doors_that_open_them(tmp_path, good):
    tries, wrong, _ = hostile.sweep(
        tmp_path,
        good,
        doors_wanted=lambda door: door in RUN_DOORS,
        files_wanted=lambda name: name in FOLDERS,
    )
    assert wrong == [] and tries == len(FOLDERS) * len(RUN_DOORS)


def test_control_the_payload_is_alive_and_seen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Payload()))
    with (tmp_path / "x.pkl").open("rb") as file:
        pickle.load(file)
    assert os.path.isdir(CANARY)
    assert "THE PAYLOAD RAN" in hostile.attempt(["models", "list"], may_pass=True)
