"""`isopatch demo`: two small models on the embedded digits, beside two classical methods."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from isopatch.api import train
from isopatch.data.open import open_data
from isopatch.data.source import ImageSource
from isopatch.errors import UsageError
from isopatch.predict import Predictor
from isopatch.recipes.resolve import resolve
from isopatch.report.compare_page import write_comparison
from isopatch.training.config import RunConfig

# Sizes and lengths that leave both under 90 seconds together on two cores. Chosen among others on validation
# pictures cut from the training split: benchmarks/accuracy/demo_choice.py.
DEMO_RUNS = {
    "convmixer": {
        "model.dim": "64",
        "model.depth": "4",
        "model.kernel_size": "5",
        "model.patch_size": "1",
        "optimizer.lr": "1e-2",
        "epochs": "16",
    },
    "vit": {
        "model.dim": "64",
        "model.depth": "4",
        "model.num_heads": "4",
        "model.mlp_ratio": "2",
        "model.patch_size": "2",
        "model.pool": "norm-mean",
        "model.class_token": "false",
        "model.position": "sincos-2d",
        "model.init": "timm",
        "optimizer.lr": "4e-3",
        "epochs": "80",
    },
}


MARK = ".isopatch-demo"  # an empty file in folders that the demo may overwrite


@dataclass(frozen=True)
class DemoResult:
    """Test accuracies (fractions) by name, and the page that shows them."""

    accuracies: dict[str, float]
    report: Path
    runs: tuple[Path, ...]


def run_demo(
    out: str | Path = "runs/demo", *, seed: int = 0, say: Callable[[str], None] = print
) -> DemoResult:
    """Train a ConvMixer and a ViT on the digits, evaluate on the held-out part, predict, write the report."""
    out = Path(out)
    _claim(out)
    accuracies: dict[str, float] = {}
    runs = []
    for name in DEMO_RUNS:
        say(f"training a {name} on 1,438 of the 1,797 digits ...")
        result = train(demo_config(name, seed=seed), out=out / name, overwrite=True)
        if result.exit_code:
            raise SystemExit(result.exit_code)
        accuracies[name] = result.summary["final"]["test"]["top1"]
        runs.append(result.path)
    splits = open_data("digits", val_fraction=0.0)
    assert splits.train is not None and splits.test is not None
    train_x, train_y = _pixels(splits.train)
    test_x, test_y = _pixels(splits.test)
    accuracies["1-nearest-neighbour"] = float((nearest_neighbour(train_x, train_y, test_x) == test_y).mean())
    accuracies["logistic regression"] = float(
        (logistic_regression(train_x, train_y, test_x) == test_y).mean()
    )
    report = write_comparison(
        runs,
        out / "report.html",
        reference_rows=[
            ("1-nearest-neighbour", accuracies["1-nearest-neighbour"], "Euclidean distance on raw pixels"),
            ("logistic regression", accuracies["logistic regression"], "raw pixels, L2 penalty"),
        ],
        predictions=_predictions(out / "convmixer", splits.test),
        predictions_of="the ConvMixer",
    )
    return DemoResult(accuracies, report, tuple(runs))


def _claim(out: Path) -> None:
    """Mark the folder as the demo's, which it overwrites at every call; refuse one with other things."""
    written = [out / name for name in (*DEMO_RUNS, "report.html")]
    if any(path.exists() for path in written) and not (out / MARK).is_file():
        raise UsageError(f"{out} holds runs or a report that the demo did not write; choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / MARK).touch()
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror}; choose another --out") from None


def demo_config(name: str, *, seed: int = 0, changes: Mapping[str, str] | None = None) -> RunConfig:
    """Return the configuration of one of the demo's runs; changes: settings that replace the demo's own."""
    settings = {"model.image_size": "8", "data.val_fraction": "0", "batch_size": "64", "seed": str(seed)}
    settings |= {**DEMO_RUNS[name], **(changes or {})}
    return resolve(model=name, recipe="small", data="digits", overrides=settings.items())


def nearest_neighbour(
    train_x: NDArray[np.float64], train_y: NDArray[np.int64], x: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Label of the closest training picture. x: (N, D); returns (N,)."""
    distances = (x**2).sum(1)[:, None] - 2 * x @ train_x.T + (train_x**2).sum(1)[None]
    labels: NDArray[np.int64] = train_y[distances.argmin(1)]
    return labels


def logistic_regression(
    train_x: NDArray[np.float64], train_y: NDArray[np.int64], x: NDArray[np.float64], *, penalty: float = 1.0
) -> NDArray[np.int64]:
    """Multinomial logistic regression, cross entropy summed plus penalty/2 * |W|^2, by L-BFGS in float64."""
    features, labels = torch.from_numpy(train_x), torch.from_numpy(train_y)
    linear = torch.nn.Linear(train_x.shape[1], int(train_y.max()) + 1, dtype=torch.float64)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(linear(features), labels, reduction="sum")
        loss = loss + 0.5 * penalty * linear.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        predicted: NDArray[np.int64] = linear(torch.from_numpy(x)).argmax(1).numpy()
    return predicted


def _pixels(source: ImageSource) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Grey values 0..16 of every picture, (N, D), and the labels."""
    grey = [np.asarray(source.read(i), dtype=np.float64)[..., 0].ravel() for i in range(len(source))]
    return np.stack(grey) * 16 / 255, source.labels


def _predictions(run: Path, test: ImageSource, count: int = 8) -> list[dict[str, object]]:
    """A few held-out pictures with what the model says of them."""
    predictor = Predictor(run / "best")
    chosen = np.linspace(0, len(test) - 1, count).astype(int)
    rows: list[dict[str, object]] = []
    for index in chosen:
        image = test.read(int(index))
        prediction = predictor([image])[0]
        buffer = io.BytesIO()
        image.resize((64, 64), 0).save(buffer, format="PNG")
        thumbnail = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        rows.append(
            {
                "thumbnail": thumbnail,
                "label": test.classes[int(test.labels[index])],
                "prediction": prediction.labels[0],
                "confidence": prediction.probabilities[0],
            }
        )
    return rows
