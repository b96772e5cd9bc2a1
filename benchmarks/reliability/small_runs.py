"""The small trainings that the reliability harnesses break and mend: argument lists of `isopatch train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.common import make_pictures

CLASSES = ("ash", "birch", "cedar", "elm", "fir")

VIT = {
    "--model": "vit",
    "--model.image_size": "8",
    "--model.patch_size": "2",
    "--model.dim": "48",
    "--model.depth": "3",
    "--model.num_heads": "3",
    "--model.drop_path": "0.1",
    "--mix.mixup": "0.8",
    "--mix.cutmix": "1.0",
    "--optimizer.clip_norm": "1.0",
}
CONVMIXER = {
    "--model": "convmixer",
    "--model.image_size": "8",
    "--model.patch_size": "1",
    "--model.dim": "32",
    "--model.depth": "3",
    "--model.kernel_size": "5",
}
COMMON = {"--recipe": "small", "--precision": "fp32", "--threads": "1", "--batch_size": "64"}

# name: (arguments of `isopatch train` without --out, --epochs and --seed, data source)
CONFIGURATIONS: dict[str, dict[str, str]] = {
    "vit, mixup and cutmix, drop path": {**VIT, "--data": "digits"},
    "convmixer, 2 workers": {**CONVMIXER, "--data": "digits", "--data.workers": "2"},
    "convmixer, 4 micro-batches": {
        **CONVMIXER,
        "--data": "digits",
        "--accumulate": "4",
        "--mix.mixup": "0.2",
    },
    "vit, moving average, 2 workers": {
        **VIT,
        "--data": "digits",
        "--ema.decay": "0.99",
        "--data.workers": "2",
    },
    "convmixer, moving average, JPEG folder with RandAugment and erasing, 2 workers": {
        **CONVMIXER,
        "--model.image_size": "32",
        "--model.patch_size": "4",
        "--data": "pictures",
        "--data.workers": "2",
        "--data.memory_limit_mb": "0",
        "--ema.decay": "0.99",
        "--augment.torchvision_ops": "2",
        "--augment.erasing": "0.25",
    },
}

# under the native kernels, in the precision that trainings on CPUs with bf16 products take
NATIVE: dict[str, dict[str, str]] = {
    f"convmixer, native kernels, bf16, {threads} thread(s)": {
        **CONVMIXER,
        "--data": "digits",
        "--kernels": "native",
        "--precision": "bf16",
        "--threads": threads,
    }
    for threads in ("1", "2")
}


def train_arguments(
    name: str, *, out: str, epochs: int, seed: int = 0, every_steps: int | None = None, **extra: str
) -> list[str]:
    """Arguments of `isopatch train`; `extra` replaces or adds options, written with __ for a dot."""
    return arguments_of(
        (CONFIGURATIONS | NATIVE)[name], out=out, epochs=epochs, seed=seed, every_steps=every_steps, **extra
    )


def arguments_of(
    options: Mapping[str, str],
    *,
    out: str,
    epochs: int,
    seed: int = 0,
    every_steps: int | None = None,
    **extra: str,
) -> list[str]:
    """Arguments of `isopatch train` for a table of options."""
    merged = {**COMMON, **options, "--out": out, "--epochs": str(epochs), "--seed": str(seed)}
    if every_steps is not None:
        merged["--checkpoint.every_steps"] = str(every_steps)
    merged |= {"--" + key.replace("__", "."): value for key, value in extra.items()}
    return ["train", *(word for pair in merged.items() for word in pair)]


def prepare_data(folder: Path) -> None:
    """Write the JPEG class folders that one configuration trains on: 5 classes of 60 and 12 pictures."""
    if not (folder / "pictures").is_dir():
        make_pictures(folder / "pictures.tmp" / "train", classes=CLASSES, per_class=60, seed=1)
        make_pictures(folder / "pictures.tmp" / "val", classes=CLASSES, per_class=12, seed=2)
        (folder / "pictures.tmp").rename(folder / "pictures")
