"""The script behind the figures of explanations, probes and robustness, from end to end on digits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from isopatch.api import configure, train

ROOT = Path(__file__).parents[2]
MODELS = {
    "deit/none-seed0": {},
    "deit/none-seed1": {},
    "deit/hard-token-seed0": {"model.distilled": True},
    "convmixer/none-seed0": {"model.kernel_size": 3},
    "convmixer/none-seed1": {"model.kernel_size": 3},
    "convmixer/hard-seed0": {"model.kernel_size": 3},
}


@pytest.mark.slow
def test_everything_is_measured_once(tmp_path: Path) -> None:
    for name, own in MODELS.items():
        model = name.split("/")[0]
        settings = {"model.dim": 8, "model.depth": 2, "model.patch_size": 2, "model.image_size": 8} | own
        settings |= {"model.num_heads": 2} if model == "deit" else {}
        settings |= {"epochs": 1, "seed": int(name[-1]), "data.val_fraction": 0}
        train(configure(model=model, recipe="small", settings=settings), out=tmp_path / name, quiet=True)
    command = [
        *(sys.executable, "-m", "benchmarks.looking_inside", "--data", "digits", "--trash", "digits"),
        *("--deit", str(tmp_path / "deit"), "--convmixer", str(tmp_path / "convmixer")),
        *("--folder", str(tmp_path / "work"), "--image-size", "8", "--patch", "2", "--epochs", "1"),
        *("--pictures", "2", "--out", str(tmp_path / "result.json")),
        *("--pictures-to", str(tmp_path / "pictures"), "--resnet", str(tmp_path / "convmixer/none-seed1")),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}

    def result() -> dict:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        figure: dict = json.loads((tmp_path / "result.json").read_text())["figure"]
        return figure

    figure = result()
    for data in ("CIFAR-10", "TrashNet"):
        part = figure[data]
        assert set(part["inside"]) == set(part["robustness"]) == {"ViT", "ConvMixer", "DeiT"}
        assert part["inside"]["DeiT"]["tokens"]["cosine"] and part["inside"]["ConvMixer"]["kernel_centre"]
        assert part["maps"]["ConvMixer"]["occlusion, target class"]["pictures"] == 2
    assert len(figure["probes"]) == 9
    assert (tmp_path / "pictures" / "filters-vit-cifar-10.svg").is_file()
    kept = tmp_path / "work" / "CIFAR-10" / "inside.json"
    before = kept.stat().st_mtime_ns
    assert result() == figure and kept.stat().st_mtime_ns == before
