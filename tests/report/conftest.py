"""Run folders as training writes them, made up but plausible."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from markupsafe import Markup
from PIL import Image

from isopatch.training.config import ModelNode, RunConfig
from isopatch.training.metrics import MetricAccumulator

DIGITS = tuple("0123456789")


def thumbnail(seed: int, side: int = 8) -> str:
    """A data URI of a soft random picture, side x side pixels."""
    rng = np.random.default_rng(seed)
    pixels = (rng.random((3, 3, 3)) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def make_evaluation(classes: tuple[str, ...], images: int, skill: float, seed: int) -> dict[str, Any]:
    """An evaluation-<split>.json of random logits; `skill` is added to the true class."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(0, len(classes), images))
    logits = rng.normal(size=(images, len(classes)))
    logits[np.arange(images), labels] += skill
    logits[np.arange(images), (labels + 1) % len(classes)] += 0.8  # each class has a look-alike
    metrics = MetricAccumulator(len(classes))
    predictions, confidence = metrics.update(logits, labels)
    wrong = np.flatnonzero(predictions != labels)
    worst = sorted(wrong, key=lambda row: -confidence[row])[:24]
    return {
        **metrics.scalars(),
        "per_class": metrics.per_class(classes),
        "confusion": metrics.confusion(),
        "calibration": metrics.calibration(),
        "mistakes": [
            {
                "name": f"test/{row:04d}.png",
                "label": classes[labels[row]],
                "prediction": classes[predictions[row]],
                "confidence": float(confidence[row]),
                "thumbnail": thumbnail(int(row)),
            }
            for row in worst
        ],
    }


def metric_rows(
    steps: int, epochs: int, rng: np.random.Generator, ema: bool, eval_every: int
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    per_epoch = steps / epochs
    for step in range(1, steps + 1):
        done = step / steps
        loss = 2.3 * np.exp(-4 * done) + 0.15 + 0.06 * rng.normal()
        warm = min(1.0, done / 0.1)
        rows.append(
            {
                "kind": "train", "step": step, "epoch": step / per_epoch, "loss": float(loss),
                "lr": float(1e-3 * warm * 0.5 * (1 + np.cos(np.pi * done))),
                "grad_norm": float(1 + np.exp(-3 * done) + 0.2 * rng.random()),
                "images_per_second": float(2100 + 90 * rng.normal()), "seconds": step * 0.06,
            }
        )  # fmt: skip
        if step % eval_every == 0:
            for weights in ("model", "ema") if ema else ("model",):
                top1 = (0.985 if weights == "ema" else 0.975) * (1 - np.exp(-6 * done)) + 0.004 * rng.normal()
                rows.append(
                    {
                        "kind": "eval", "step": step, "epoch": step / per_epoch, "split": "val",
                        "weights": weights, "top1": float(min(top1, 1)), "top5": 0.999,
                        "nll": float(2.2 * np.exp(-5 * done) + 0.08), "seconds": 0.3,
                    }
                )  # fmt: skip
    return rows


RunMaker = Callable[..., Path]


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts become empty: drawing takes most of a page's time, and many tests are about the rest."""
    empty = Markup("<svg></svg>")
    monkeypatch.setattr("isopatch.report.plots._svg", lambda draw, title, room_for_legend=False: empty)


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    """A function that writes a finished run; its arguments change what matters to a test."""

    def make(
        name: str = "digits-convmixer-1",
        *,
        model: str = "convmixer_256_8_ks5_p2",
        classes: tuple[str, ...] = DIGITS,
        seed: int = 0,
        lr: float = 5e-3,
        skill: float = 5.0,
        images: int = 360,
        epochs: int = 30,
        steps: int = 600,
        ema: bool = True,
        splits: tuple[str, ...] = ("test", "val"),
        source: str = "digits",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        rng = np.random.default_rng(seed)
        config = RunConfig(
            model=ModelNode.model_validate({"name": model, "kernel_size": 5}), recipe="small",
            epochs=epochs, seed=seed,
        ).model_dump(mode="json")  # fmt: skip
        config["optimizer"]["lr"] = lr
        config["data"]["source"] = source
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        write(folder, "env.json", {
            "python": "3.11.9", "platform": "Linux-6.1-x86_64", "cpu": "Xeon, 2 cores", "gpu": None,
            "versions": {"torch": "2.13.0", "numpy": "2.3.0"}, "commit": "0123abcd" * 5,
        })  # fmt: skip
        write(folder, "status.json", {
            "state": "finished", "exit_code": 0, "step": steps, "total_steps": steps, "message": "", "pid": 7,
            "updated": "2026-01-05T10:11:12+00:00",
        })  # fmt: skip
        rows = metric_rows(steps, epochs, rng, ema, eval_every=max(1, steps // epochs))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        final = {}
        for index, split in enumerate(splits):
            evaluation = make_evaluation(classes, images, skill, seed + index)
            write(folder, f"evaluation-{split}.json", evaluation)
            final[split] = {key: evaluation[key] for key in ("top1", "top5", "nll", "num_images")}
        write(folder, "summary.json", {
            "name": name, "recipe": "small", "parameters": 594186, "macs": 150_400_000,
            "model": {
                "name": model, "architecture": "convmixer",
                "arguments": {"dim": 256, "depth": 8, "kernel_size": 5, "num_classes": len(classes)},
                "input": {"height": 32, "width": 32, "mean": [0.5, 0.5, 0.5]}, "classes": list(classes),
            },
            "image_size": [32, 32], "epochs": epochs, "steps": steps, "batch_size": 64,
            "micro_batch_size": 64, "images_seen": steps * 64, "seconds": 41.2, "images_per_second": 2113.4,
            "final": final,
            "selection": "the moving average of step 580, selected on the validation split (98.96 % of 288 "
            "pictures)",
            "seed": seed, "data_seed": seed, "threads": 2, "precision": "fp32", "device": "cpu",
            "hardware": "Xeon, 2 cores",
            "data": {
                "source": source, "fingerprint": "ab" * 16, "train": 1149, "val": 288, "test": 360,
                "classes": list(classes), "skipped": {"train": 2},
                "skipped_files": {"train": [["train/7/broken.png", "damaged: image file is truncated"],
                                            ["train/9/empty.jpg", "no picture: the file is empty"]]},
                "notes": ["The validation split was cut from train by seed 0 (20 %)."],
            },
            "weights_sha256": "cd" * 32,
        })  # fmt: skip
        return folder

    return make


def write(folder: Path, name: str, document: Any) -> None:
    (folder / name).write_text(json.dumps(document))
