"""The hostile files: pickles under every name, tagged YAML, folders with a payload in one file."""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

CANARY = "canary"  # a folder that the payload would create in the current folder

# Hostile in another way: they hang or swell a careless reader, or hide the payload in rows.
NO_PAYLOAD = (
    "name.yml",
    "deep.json",
    "deep.yaml",
    "aliases.yaml",
    "Parquet with pickled pictures",
    "truncated.safetensors",
    "nan.safetensors",
)


class Payload:
    """Unpickles to a call that creates the canary."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (CANARY,)


def hostile_files(folder: Path, good: Path) -> dict[str, Path]:
    """Write every hostile file and folder; `good` is a finished run to dress some of them up with."""
    import torch

    folder.mkdir()
    files: dict[str, Path] = {}

    def put(name: str, content: bytes) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        files[name] = path
        return path

    raw = pickle.dumps(Payload())
    for suffix in (
        "pth",
        "pt",
        "bin",
        "pth.tar",
        "ckpt",
        "pkl",
        "safetensors",
        "npz",
        "npy",
        "yaml",
        "json",
        "jpg",
    ):
        put(f"pickle.{suffix}", raw)
    for suffix in ("csv", "jsonl", "parquet", "onnx", "zip"):
        put(f"pickle.{suffix}", raw)
    put("pickle-protocol-0.pth", pickle.dumps(Payload(), protocol=0))
    state = {"model": {"stem.weight": torch.zeros(2)}, "epoch": 3, "extra": Payload()}
    torch.save(state, put("zip-state.pth", b""))
    torch.save(Payload(), put("zip.bin", b""))
    torch.save(state, put("legacy-state.pth", b""), _use_new_zipfile_serialization=False)
    torch.save({"args": argparse.Namespace(lr=Payload())}, put("namespace.pth", b""))
    torch.save(collections.OrderedDict(w=Payload()), put("ordered.pt", b""))
    torch.save(state, put("zip-renamed.safetensors", b""))
    with tarfile.open(put("tar.pth", b""), "w") as archive:
        for member in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(member)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    numpy_objects(put("objects.npz", b""), put("objects.npy", b""))
    numpy_objects_among_weights(put("objects-among-weights.npz", b""), good)
    damaged_weights(put("truncated.safetensors", b""), put("nan.safetensors", b""), good)
    put("apply.yaml", f'model: !!python/object/apply:os.mkdir ["{CANARY}"]\n'.encode())
    put("new.yaml", f"!!python/object/new:os.mkdir [{CANARY}]\n".encode())
    put("name.yml", b"seed: !!python/name:os.system\n")
    put("deep.json", b"[" * 200_000)
    put("deep.yaml", b"[" * 20_000)
    put("aliases.yaml", alias_bomb())
    files |= hostile_folders(folder, good, raw)
    return files


def numpy_objects(npz: Path, npy: Path) -> None:
    import numpy as np

    array = np.empty(1, dtype=object)
    array[0] = Payload()
    np.savez(npz, labels=array)
    np.save(npy, array, allow_pickle=True)


def numpy_objects_among_weights(npz: Path, good: Path) -> None:
    """Whole weights, and one array of objects behind them."""
    import numpy as np
    from safetensors.numpy import load_file

    array = np.empty(1, dtype=object)
    array[0] = Payload()
    np.savez(npz, **load_file(good / "best" / "model.safetensors"), labels=array)


def damaged_weights(truncated: Path, nan: Path, good: Path) -> None:
    """Weights that end too early, and weights with one number that is none; both without a description."""
    from safetensors.numpy import load_file, save_file

    whole = good / "best" / "model.safetensors"
    truncated.write_bytes(whole.read_bytes()[:-100])
    state = load_file(whole)
    state["heads.cls.linear.bias"][3] = float("nan")
    save_file(state, nan)


def alias_bomb() -> bytes:
    """A few lines of YAML that stand for 10^9 values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    return ("\n".join([*lines, "seed: *a8"]) + "\n").encode()


def hostile_folders(folder: Path, good: Path, raw: bytes) -> dict[str, Path]:
    """Run folders, checkpoints, model and data folders with a payload in one of their files."""
    folders: dict[str, Path] = {}
    for relative in (
        "config.yaml",
        "summary.json",
        "status.json",
        "metrics.jsonl",
        "env.json",
        "evaluation-test.json",
    ):
        copy = folders[f"run with pickled {relative}"] = folder / f"run-{relative.split('.')[0]}"
        shutil.copytree(good, copy, symlinks=True)
        (copy / relative).write_bytes(raw)
    for kind, text in (("alias bomb", alias_bomb()), ("deep", b"[" * 20_000), ("misspelt", b"sede: 1\n")):
        copy = folders[f"run with {kind} as config.yaml"] = folder / f"run-{kind.split()[0]}"
        shutil.copytree(good, copy, symlinks=True)
        (copy / "config.yaml").write_bytes(text)
    copy = folders["run with tagged config.yaml"] = folder / "run-tagged"
    shutil.copytree(good, copy, symlinks=True)
    (copy / "config.yaml").write_text(f'seed: !!python/object/apply:os.mkdir ["{CANARY}"]\n')
    for name in ("model.safetensors", "optimizer.safetensors", "state.json", "config.json"):
        copy = folders[f"run with pickled {name}, digests right"] = (
            folder / f"run-checkpoint-{name.split('.')[0]}"
        )
        shutil.copytree(good, copy, symlinks=True)
        (copy / "status.json").unlink()  # a killed run: resume looks at the checkpoint
        for checkpoint in (copy / "checkpoints").glob("step-*"):
            (checkpoint / name).write_bytes(raw)
            sign(checkpoint)
        if name in ("model.safetensors", "config.json"):
            (copy / "best" / name).write_bytes(raw)
            sign(copy / "best")
            best = folders[f"best with pickled {name}"] = folder / f"best-{name.split('.')[0]}"
            shutil.copytree(copy / "best", best)
    torch_folder = folders["hub layout, pickled weights"] = folder / "hub"
    torch_folder.mkdir()
    (torch_folder / "config.json").write_text(
        json.dumps({"architecture": "vit_tiny_patch16_224", "num_classes": 3})
    )
    (torch_folder / "pytorch_model.bin").write_bytes(raw)
    distributed = folders["torch distributed checkpoint"] = folder / "distributed"
    distributed.mkdir()
    for name in (".metadata", "__0_0.distcp"):
        (distributed / name).write_bytes(raw)
    pictures = folders["class folders of pickles"] = folder / "pictures"
    for split in ("train", "val"):
        for name in ("a", "b"):
            (pictures / split / name).mkdir(parents=True)
            for index, suffix in enumerate(("jpg", "png", "webp", "tif")):
                (pictures / split / name / f"{index}.{suffix}").write_bytes(raw)
    shards = folders["shards of pickles"] = folder / "shards"
    shards.mkdir()
    (shards / "train-00000-of-00001.parquet").write_bytes(raw)
    (shards / "test-00000-of-00001.parquet").write_bytes(raw)
    folders["Parquet with pickled pictures"] = picture_parquet(folder / "rows.parquet", raw)
    return folders


def sign(folder: Path) -> None:
    """Make digests and manifest agree with the files, as an attacker would."""
    from isopatch.training.checkpoint import MANIFEST, _manifest

    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    with contextlib.suppress(ValueError):
        document = json.loads((folder / "config.json").read_bytes())
        (folder / "config.json").write_text(json.dumps({**document, "weights_sha256": weights}))
    if (folder / MANIFEST).is_file():
        contents = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != MANIFEST}
        (folder / MANIFEST).write_bytes(_manifest(contents))


def picture_parquet(path: Path, raw: bytes) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"bytes": raw, "path": "x.jpg"}] * 8
    pq.write_table(pa.table({"image": rows, "label": pa.array([0, 1] * 4, pa.int64())}), path)
    return path
