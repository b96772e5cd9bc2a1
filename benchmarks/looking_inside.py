"""What trained models look like inside: explanations, probes and damage of a ViT, a DeiT and a ConvMixer.

Claim: none; it measures what the pages on explanations, probes and robustness speak of. CIFAR-10 models are
those of `benchmarks.accuracy.distillation` (its deit and convmixer folders), beside the published ResNet-56;
TrashNet models are trained here, at 128 pixels with patches of 8, the DeiT taught by the ConvMixer.
Control: two trainings of one architecture, and maps of the same models with shuffled weights.
Restartable: what is finished under --folder is not made again. Hardware: 2 CPU cores. Time: about 90 minutes.
Command: ISOPATCH_DATA=... python -m benchmarks.looking_inside --deit DIR --convmixer DIR --folder DIR
    in minutes, on digits: see tests/accuracy/test_looking_inside.py
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.accuracy.training import train_or_continue
from benchmarks.common import ROOT, data_root, parser, record

OF_MODELS = ("filters", "kernels", "positions", "attention-distance", "receptive-field", "layers", "tokens")
OF_PICTURES = ("attention", "rollout", "gradient-rollout", "grad-cam", "occlusion", "integrated-gradients")
VIT = "--model deit --model.num_heads 4 --model.dim 128 --model.depth 6"
MODELS = {
    "ViT": VIT,
    "ConvMixer": "--model convmixer --model.dim 128 --model.depth 6 --model.kernel_size 5",
    "DeiT": VIT + " --distill.token true --teacher {}",
}
# in the distillation script's folders: which of the two, and the run
DISTILLED = {
    "ViT": ("deit", "none-seed0"),
    "ViT, other seed": ("deit", "none-seed1"),
    "DeiT": ("deit", "hard-token-seed0"),
    "ConvMixer": ("convmixer", "none-seed0"),
    "ConvMixer, other seed": ("convmixer", "none-seed1"),
    "ConvMixer, taught": ("convmixer", "hard-seed0"),
}
# what the documentation shows: explanation, figure
PICTURES = (("filters", "components"), ("kernels", "atlas"), ("positions", "similarity"))


def main() -> int:
    """Train what is missing, explain what is not explained, record all of it."""
    given = _options()
    started = time.monotonic()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    cifar, trash = _cifar_models(given, folder), _trash_models(given, folder)
    figure: dict[str, Any] = {}
    for name, data, models in (("CIFAR-10", given.data, cifar), ("TrashNet", given.trash, trash)):
        figure[name] = _measured(models, data, given.pictures, folder / name)
    figure["probes"] = _kept(
        folder / "probes.json",
        lambda: {
            f"{model}, {what}": _probed(cifar[model], data)
            for model in MODELS
            for what, data in (("CIFAR-10", given.data), ("digits", "digits"), ("TrashNet", given.trash))
        },
    )
    if given.pictures_to is not None:
        _copy_pictures(folder, given.pictures_to)
    return record(
        "looking_inside",
        claim="Explanations, probes and robustness of small models trained on CIFAR-10 and TrashNet",
        measured=f"{sum(len(part) for part in (cifar, trash))} models",
        figure=figure,
        passed=True,
        n=1,
        seed=given.seed,
        started=started,
        out=given.out,
    )


def _options() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument(
        "--deit", type=Path, required=True, help="folder of benchmarks.accuracy.distillation"
    )
    options.add_argument("--convmixer", type=Path, required=True, help="likewise")
    options.add_argument("--folder", type=Path, required=True, help="run again to go on")
    options.add_argument("--resnet", type=Path, help="default: the published ResNet-56")
    options.add_argument("--data", help="default: CIFAR-10")
    options.add_argument("--trash", help="default: TrashNet")
    options.add_argument("--image-size", type=int, default=128, help="of the TrashNet models")
    options.add_argument("--patch", type=int, default=8)
    options.add_argument("--epochs", type=int, default=40)
    options.add_argument("--pictures", type=int, default=40, help="whose maps are checked")
    options.add_argument(
        "--pictures-to", type=Path, help="copy the figures that the documentation shows here"
    )
    given = options.parse_args()
    given.data = given.data or str(data_root() / "cifar10")
    given.trash = given.trash or str(data_root() / "trashnet")
    return given


# --- models ---------------------------------------------------------------------------------------------


def _cifar_models(given: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """The distillation script's students and its teacher, under the names that charts show."""
    models = {}
    for name, (which, run) in DISTILLED.items():
        source = getattr(given, which) / run
        models[name] = _named(source, folder / "models" / name)
    if given.resnet is not None:
        models["ResNet-56"] = _named(given.resnet, folder / "models" / "ResNet-56")
    else:
        file = next((data_root().parent / "weights" / "cifar-resnet").glob("resnet56-*.th"))
        models["ResNet-56"] = _named(file, folder / "models" / "ResNet-56", name="cifar_resnet56")
    return models


def _named(source: Path, target: Path, **how: Any) -> Path:
    from isopatch.api import convert

    if not target.exists():
        convert(source, target, to="isopatch", **how)
        summary = source / "summary.json"
        if summary.is_file():
            shutil.copy(summary, target / "summary.json")
    return target


def _trash_models(given: argparse.Namespace, folder: Path) -> dict[str, Path]:
    models = {}
    (folder / "runs").mkdir(exist_ok=True)
    for name, text in MODELS.items():
        out = folder / "runs" / name
        common = f"--model.patch_size {given.patch} --model.image_size {given.image_size} --recipe small"
        taught = text.format(folder / "runs" / "ConvMixer")
        arguments = f"{taught} {common} --batch_size 32 --epochs {given.epochs}".split()
        train_or_continue(["--data", given.trash, *arguments, "--seed", str(given.seed)], out=out, threads=1)
        models[name] = _named(out, folder / "models" / "TrashNet" / name)
    return models


def _told(model: Path) -> dict[str, Any]:
    """What the run behind a model says of itself."""
    summary = model / "summary.json"
    if not summary.is_file():
        return {"top1": None}
    told = json.loads(summary.read_text())
    return {
        "top1": told["final"]["test"]["top1"],
        "epochs": told["epochs"],
        "parameters": told["parameters"],
        "weights_sha256": told["weights_sha256"],
    }


# --- measurements ---------------------------------------------------------------------------------------


def _kept(file: Path, make: Callable[[], Any]) -> Any:
    """What the file holds, made and written where there is none."""
    if not file.is_file():
        made = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".part")
        beside.write_text(json.dumps(made, indent=1))
        beside.replace(file)
        print(file, flush=True)
    return json.loads(file.read_text())


def _measured(models: dict[str, Path], data: str, pictures: int, folder: Path) -> dict[str, Any]:
    """Everything that is measured on one data set."""
    three = {model: models[model] for model in MODELS}
    return {
        "models": {model: _told(path) for model, path in models.items()},
        "inside": _kept(folder / "inside.json", lambda: _inside(three, data, folder)),
        "maps": _kept(folder / "maps.json", lambda: _maps(three, data, pictures, folder)),
        "similarity": _kept(folder / "similarity.json", lambda: _similarity(models, data)),
        "robustness": _kept(folder / "robustness.json", lambda: _robustness(three, data, folder)),
    }


def _inside(models: dict[str, Path], data: str, folder: Path) -> dict[str, Any]:
    """By model: what `isopatch explain` says of weights and of 128 test pictures, in short."""
    from isopatch.api import load
    from isopatch.explaining import explain_checkpoint

    result = {}
    for name, path in models.items():
        explained = explain_checkpoint(path, data=data, out=folder / "inside" / name)
        data_of = {
            (one, figure.name): figure.data for one, found in explained.figures.items() for figure in found
        }
        distance = data_of["attention-distance", "distance"][path.name]
        waves = data_of.get(("positions", "waves"))
        tokens = data_of.get(("tokens", "tokens"))
        cka = data_of["layers", "layers"]["cka"]
        result[name] = {
            "filters_variance": data_of["filters", "components"]["variance"],
            "distance": [layer["mean"] for layer in distance],
            "distance_uniform": distance[0]["uniform"],
            "radius_90": [row[1] for row in data_of["receptive-field", "widths"]["radius"]],
            "radius_90_even": data_of["receptive-field", "widths"]["even_radius_90"],
            "positions": waves,
            "kernel_centre": _centres(data_of.get(("kernels", "energy"))),
            "layers_neighbours": [cka[i][i + 1] for i in range(len(cka) - 1)],
            "layers_ends": cka[0][-1],
            "tokens": tokens,
            "parameters": sum(p.numel() for p in load(path).parameters()),
        }
    return result


def _centres(energy: dict[str, Any] | None) -> list[float] | None:
    """Share of the squared weight in the middle of the kernels, by layer."""
    return None if energy is None else [layer["share"][0] for layer in energy["layers"]]


def _maps(models: dict[str, Path], data: str, pictures: int, folder: Path) -> dict[str, Any]:
    """By model and map: how many pictures' maps pass all checks, and the mean areas."""
    from isopatch.explaining import explain_checkpoint

    result: dict[str, Any] = {}
    for name, path in models.items():
        explained = explain_checkpoint(
            path, data=data, num_pictures=pictures, seed=1, out=folder / "maps" / name
        )
        for what in OF_PICTURES:
            for figure in explained.figures.get(what, ()):
                for token, scores in figure.data.get("maps", {}).items():
                    counts = result.setdefault(name, {}).setdefault(
                        f"{what}, {token}", {"pictures": 0, "passed": 0, "deletion": [], "random": []}
                    )
                    counts["pictures"] += 1
                    counts["passed"] += not scores["fails"]
                    if scores["deletion"] is not None:
                        counts["deletion"].append(scores["deletion"]["area"])
                        counts["random"].append(scores["deletion"]["random_mean"])
    for counts in (each for maps in result.values() for each in maps.values()):
        for key in ("deletion", "random"):
            counts[key] = round(sum(counts[key]) / max(1, len(counts[key])), 4)
    return result


def _similarity(models: dict[str, Path], data: str) -> dict[str, Any]:
    """Of every other model: more like the ViT or the convnet (the ResNet where there is one)?"""
    from isopatch.explaining import explain_checkpoint

    convnet = "ResNet-56" if "ResNet-56" in models else "ConvMixer"
    result = {}
    for name, path in models.items():
        if name in ("ViT", convnet):
            continue
        made = explain_checkpoint(
            path, data=data, what=["similarity"], compare=[models["ViT"], models[convnet]]
        )
        (nearer,) = [figure.data for figure in made.figures["similarity"] if figure.name == "nearer"]
        result[name] = {
            key: nearer[key] for key in ("references", "mean", "difference", "interval", "by_layer")
        }
        result[name]["verdict"] = nearer["verdict"]
    return result


def _robustness(models: dict[str, Path], data: str, folder: Path) -> dict[str, Any]:
    from isopatch.api import robustness

    result = {}
    for name, path in models.items():
        told = robustness(path, data, out=folder / "robustness" / name)
        result[name] = {
            "clean": {key: told["clean"][key] for key in ("top1", "ece", "nll")},
            "sample": {key: told["clean_sample"][key] for key in ("top1", "confidence")},
            "shuffled": [
                {key: row[key] for key in ("tiles", "patches", "top1", "interval")}
                for row in told["shuffled"]
            ],
            "level_5": {
                "top1": _mean(kind["levels"][-1]["top1"] for kind in told["corruptions"]),
                "confidence": _mean(kind["levels"][-1]["confidence"] for kind in told["corruptions"]),
            },
            "kinds": {
                kind["name"]: [level["top1"] for level in kind["levels"]] for kind in told["corruptions"]
            },
            "damaged_images": told["damaged_images"],
        }
    return result


def _mean(values: Any) -> float:
    values = list(values)
    return float(sum(values) / len(values))


def _probed(model: Path, data: str) -> dict[str, Any]:
    from isopatch.api import probe

    told = probe(model, data, probes=["few-shot", "knn", "logistic"], ks=[10], settings=["vit"])
    rows = {
        f"{row['shots']} shots": {"top1": row["top1"], "interval": row["interval"]}
        for row in told["probes"]["few-shot"]
    }
    rows |= {
        what: {"top1": row["top1"], "interval": row["interval"]}
        for what in ("knn", "logistic")
        for row in told["probes"][what][:1]
    }
    return rows


def _copy_pictures(folder: Path, target: Path) -> None:
    """Copy the figures that the pages show."""
    target.mkdir(parents=True, exist_ok=True)
    for data in ("CIFAR-10", "TrashNet"):
        for model in MODELS:
            for what, figure in PICTURES:
                source = folder / data / "inside" / model / f"{what}-{figure}.svg"
                if source.is_file():
                    shutil.copy(source, target / f"{what}-{model.lower()}-{data.lower()}.svg")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
