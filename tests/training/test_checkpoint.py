"""Checkpoints are whole or absent, and notice damage."""

import os
import random

import pytest
import torch

from isopatch.errors import IsopatchError
from isopatch.training import checkpoint as c


def write(root, step, value=None):
    tensors = {"model": {"w": torch.full((50,), float(step if value is None else value))}, "optimizer": {}}
    documents = {"state": {"step": step}, "config": {"format": "isopatch-model-1", "model": {}}}
    return c.write_checkpoint(root, step, tensors=tensors, documents=documents)


def test_round_trip_and_newest_wins(tmp_path):
    write(tmp_path, 5)
    write(tmp_path, 12)
    found = c.find_latest(tmp_path)
    assert found is not None and found.step == 12
    assert torch.equal(found.tensors("model")["w"], torch.full((50,), 12.0))
    assert found.document("state") == {"step": 12}
    assert os.readlink(tmp_path / "last") == "step-0000012"


def test_no_checkpoint_is_none_not_an_error(tmp_path):
    assert c.find_latest(tmp_path / "absent") is None


@pytest.mark.parametrize("kind", ["flip", "truncate"])
def test_every_damage_is_detected_and_the_previous_checkpoint_used(tmp_path, kind, caplog):
    rng = random.Random(0)
    for trial in range(40):
        root = tmp_path / str(trial)
        write(root, 1)
        newest = write(root, 2).folder
        victim = rng.choice(sorted(p for p in newest.iterdir()))
        raw = bytearray(victim.read_bytes())
        if kind == "flip":
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        else:
            del raw[rng.randrange(len(raw)) :]
        victim.write_bytes(raw)
        caplog.clear()
        found = c.find_latest(root)
        assert found is not None and found.step == 1, victim
        assert victim.name in caplog.text
        assert (root / "step-0000002.damaged").is_dir()


def test_control_an_undamaged_checkpoint_verifies(tmp_path):
    c.verify(write(tmp_path, 3).folder)


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path):
    folder = write(tmp_path, 1).folder
    (folder / "model.safetensors").write_bytes(b"x")
    for _ in range(2):  # the second start must not begin afresh either
        with pytest.raises(IsopatchError, match=r"every checkpoint .* is damaged"):
            c.find_latest(tmp_path)


def test_a_kill_between_the_renames_of_a_replacement_loses_nothing(tmp_path):
    folder = write(tmp_path, 4).folder
    folder.rename(tmp_path / ".step-0000004.tmp-77-former")
    assert c.find_latest(tmp_path) is None
    c.clean_temporary(tmp_path)
    assert c.find_latest(tmp_path).step == 4


def test_retain_keeps_the_newest(tmp_path):
    for step in (1, 2, 3, 10):
        write(tmp_path, step)
    c.retain(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "step-0000003", "step-0000010"]


def test_a_failed_write_leaves_the_previous_checkpoint_and_no_rubbish(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(c, "write_new", full)
    with pytest.raises(IsopatchError, match=r"disk full while writing .*step-0000002.* MB free"):
        write(tmp_path, 2)
    assert c.find_latest(tmp_path).step == 1
    assert not list(tmp_path.glob(".*tmp*"))


def test_temporary_folders_of_killed_writers_are_cleaned_and_never_loaded(tmp_path):
    write(tmp_path, 1)
    (tmp_path / ".step-0000009.tmp-77").mkdir()
    assert c.find_latest(tmp_path).step == 1
    c.clean_temporary(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_too_small_a_disk_is_refused_before_the_first_step(tmp_path, monkeypatch):
    import shutil

    tensors = {"model": {"w": torch.zeros(1000)}, "optimizer": {}}
    c.check_space(tmp_path, tensors, 2)
    monkeypatch.setattr(c.shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(1, 1, 10_000))
    with pytest.raises(IsopatchError, match="free some space"):
        c.check_space(tmp_path, tensors, 2)
