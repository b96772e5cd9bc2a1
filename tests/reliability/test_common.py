"""The tools of the harnesses themselves: a blind one would let everything pass."""

import json
import signal
import sys
import time

import torch
from benchmarks import common
from safetensors.torch import save_file


def test_tensor_hash_sees_values_names_and_shapes_but_not_their_order(tmp_path):
    def digest(**tensors):
        save_file(tensors, tmp_path / "x.safetensors", metadata={"written": str(time.monotonic_ns())})
        return common.tensor_hash(tmp_path / "x.safetensors")

    a, b = torch.arange(6.0), torch.ones(3, dtype=torch.int64)
    base = digest(a=a, b=b)
    assert digest(b=b.clone(), a=a.clone()) == base
    assert digest(a=a.nextafter(torch.tensor(9.0)), b=b) != base
    assert digest(a=a.reshape(2, 3), b=b) != base
    assert digest(c=a, b=b) != base


def test_a_process_that_hangs_is_killed_with_its_children(tmp_path):
    code = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    child = common.Child([sys.executable, "-c", code], cwd=tmp_path)
    deadline = time.monotonic() + 10
    while len(child.members()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(child.members()) == 2
    assert child.wait(timeout=0.1).code == -signal.SIGKILL
    deadline = time.monotonic() + 5
    while child.members() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert child.members() == []


def test_a_missed_floor_gives_exit_code_1_and_a_result_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOPATCH_DATA", "/somewhere/data")
    out = tmp_path / "x.json"
    options = {"n": 2, "seed": 3, "started": time.monotonic(), "out": out, "file": "/somewhere/data/a.png"}
    assert common.record("x", claim="c", measured="a 1", figure={"a": 1}, passed=True, **options) == 0
    assert common.record("x", claim="c", measured="a 1", figure={"a": 1}, passed=False, **options) == 1
    result = json.loads(out.read_text())
    assert result["passed"] is False and result["file"] == "$ISOPATCH_DATA/a.png"
    assert {
        "figure",
        "n",
        "seed",
        "seconds",
        "command",
        "hardware",
        "python",
        "versions",
        "date",
    } <= result.keys()
