"""Any damage to a checkpoint is named, and the one before it used."""

import random
import shutil

import pytest
from benchmarks.common import fingerprint, step_folders
from benchmarks.reliability import damage


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run with two checkpoints that is not finished."""
    import contextlib
    import io

    from isopatch.cli import main

    folder = tmp_path_factory.mktemp("stopped") / "run"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for _ in range(2):
            assert main([*damage.arguments(str(folder)), "--max-minutes", "1e-6"]) == 75
    assert len(step_folders(folder)) == 2
    return folder


@pytest.mark.parametrize("kind", ["flip", "truncation"])
def test_detected_and_named(stopped, tmp_path, kind):
    generator = random.Random(kind)
    trials = [damage.trial(stopped / "checkpoints", tmp_path, generator, kind) for _ in range(20)]
    assert [trial for trial in trials if not trial["ok"]] == []
    assert len({trial["file"] for trial in trials}) >= 4
    if kind == "flip":  # safetensors alone lets nearly all of them pass
        assert any(trial["safetensors"] is False for trial in trials)


def test_the_run_goes_on_from_the_checkpoint_before(stopped, tmp_path, train):
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    assert train(damage.arguments(str(whole))) == 0
    shutil.copytree(stopped, damaged, symlinks=True)
    damage.damage(step_folders(damaged)[-1], random.Random(1), "flip")
    assert train(damage.arguments(str(damaged))) == 0
    assert fingerprint(damaged) == fingerprint(whole)
    assert (damaged / "checkpoints" / f"{step_folders(stopped)[-1].name}.damaged").is_dir()
