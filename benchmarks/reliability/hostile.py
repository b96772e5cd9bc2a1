"""Give hostile files to every verb and flag that takes a path.

Claim: no file, whatever its name, makes `isopatch` run what is in it: the canary folder is never created; what
cannot be used is refused with one line and no traceback.
Control: opened without care (pickle.load, torch.load(weights_only=False), yaml.unsafe_load, np.load with
allow_pickle), the same files do create the canary.
Hardware: CPU. Time: about 2 minutes.
"""

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
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import environment, isopatch, make_pictures, parser, record, run, workspace
from benchmarks.reliability.small_runs import CONVMIXER, arguments_of

SLOW = 30.0  # seconds: nothing here is worth more
CANARY = "canary"  # a folder that the payload would create in the current folder
TINY = ["--model", "convmixer", "--model.image_size", "8", "--model.patch_size", "2", "--model.dim", "8"]
TINY += [
    "--model.depth",
    "1",
    "--model.kernel_size",
    "3",
    "--recipe",
    "small",
    "--epochs",
    "1",
    "--threads",
    "1",
]


# Hostile in another way: they hang or swell a careless reader, or hide the payload from one that takes it whole.
NO_PAYLOAD = ("name.yml", "deep.json", "deep.yaml", "aliases.yaml", "Parquet with pickled pictures")


class Payload:
    """Unpickles to a call that creates the canary."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (CANARY,)


# --- the files ------------------------------------------------------------------------------------------


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


# --- the doors ------------------------------------------------------------------------------------------


def doors(good: str, picture: str) -> dict[str, Callable[[str], list[str]]]:
    """Every verb and flag that takes a path: path -> command line."""
    return {
        "train --weights": lambda p: ["train", "--data", "digits", *TINY, "--weights", p, "--out", "new"],
        "train --resume": lambda p: ["train", "--resume", p],
        "train --out --resume auto": lambda p: ["train", "--out", p, "--resume", "auto"],
        "train --out": lambda p: ["train", "--data", "digits", *TINY, "--out", p],
        "train --config": lambda p: ["train", "--config", p, "--out", "new"],
        "train --data": lambda p: ["train", "--data", p, "--out", "new"],
        "train --dry-run --weights": lambda p: [
            "train",
            "--data",
            "digits",
            *TINY,
            "--weights",
            p,
            "--dry-run",
        ],
        "config --config": lambda p: ["config", "--config", p],
        "config --data": lambda p: ["config", "--data", p],
        "config --weights": lambda p: ["config", *TINY, "--weights", p],
        "eval CHECKPOINT": lambda p: ["eval", p, "--data", "digits"],
        "eval --data": lambda p: ["eval", good, "--data", p],
        "predict CHECKPOINT": lambda p: ["predict", p, picture],
        "predict PATH": lambda p: ["predict", good, p],
        "predict --out": lambda p: ["predict", good, picture, "--out", p],
        "report RUN": lambda p: ["report", p, "--out", "page.html"],
        "report RUN RUN": lambda p: ["report", good, p, "--out", "page.html"],
        "models show": lambda p: ["models", "show", p],
        "data check": lambda p: ["data", "check", p],
        "demo --out": lambda p: ["demo", "--out", p],
    }


# Doors that may succeed, because they do not open the hostile file, or count it: (door, start of the file's name).
# A report reads the small JSON files of a run, never weights; data check reports unreadable pictures as a result.
MAY_SUCCEED = (
    ("config --weights", ""),
    ("config --data", ""),
    ("report", "run with"),
    ("eval CHECKPOINT", "run with"),
    ("predict CHECKPOINT", "run with"),
    ("train --resume", "run with"),
    ("train --out --resume auto", "run with"),
    ("train --weights", "run with"),
    ("train --dry-run --weights", "run with"),
    ("data check", ""),
    ("predict --out", ""),
)


def may_succeed(door: str, name: str) -> bool:
    return any(door.startswith(d) and name.startswith(n) for d, n in MAY_SUCCEED)


def attempt(words: list[str], *, may_pass: bool) -> list[str]:
    """Run one command in this process and return what is wrong with how it ended."""
    from isopatch.cli import main

    canary = Path(CANARY)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException as error:  # a traceback for the user
            return [f"{type(error).__name__} escaped: {error}"]
    problems = []
    if canary.exists():
        problems.append("THE PAYLOAD RAN")
        canary.rmdir()
    errors = [line for line in err.getvalue().splitlines() if line.startswith("isopatch: error:")]
    if "Traceback" in err.getvalue():
        problems.append("traceback")
    if code == 0 and not may_pass:
        problems.append("not refused")
    several = "--config" in words  # a configuration's problems are listed, all at once
    if code != 0 and (code not in (1, 2) or not errors or (len(errors) > 1 and not several)):
        problems.append(f"exit code {code}, {len(errors)} error lines: {err.getvalue()[-300:]}")
    if errors and "--debug shows where" in errors[0]:
        problems.append(f"not explained: {errors[0]}")
    if any(len(line) > 1000 for line in errors):
        problems.append(f"an error line of {max(map(len, errors))} characters")
    return problems


CARELESS = """
import sys, pickle, yaml, numpy, torch, zipfile
path = sys.argv[1]
for read in (
    lambda: pickle.load(open(path, "rb")),
    lambda: torch.load(open(path, "rb"), weights_only=False),
    lambda: yaml.unsafe_load(open(path)),
    lambda: numpy.load(path, allow_pickle=True)["labels"],
    lambda: numpy.load(path, allow_pickle=True),
):
    try: read()
    except BaseException: pass
"""


def control(work: Path, paths: list[Path]) -> int:
    """How many of the files create the canary when they are opened without care."""
    alive = 0
    for path in paths:
        folder = work / "control"
        folder.mkdir()
        subprocess.run(
            [sys.executable, "-c", CARELESS, str(path)], cwd=folder, capture_output=True, check=False
        )
        alive += (folder / CANARY).exists()
        shutil.rmtree(folder)
    return alive


def good_run(work: Path) -> Path:
    """A finished run, trained by command."""
    options = {**CONVMIXER, "--data": "digits", "--model.dim": "8", "--model.depth": "1"}
    done = run(*arguments_of(options, out="good", epochs=1, every_steps=10), cwd=work)
    if done.code != 0:
        raise RuntimeError(f"the run to start from failed: {done.stderr[-500:]}")
    return work / "good"


def sweep(
    work: Path, good: Path, *, doors_wanted: Callable[[str], bool], files_wanted: Callable[[str], bool]
) -> tuple[int, list[dict[str, Any]], dict[str, Path]]:
    """Give every file to every door; returns tries, what went wrong, and the files."""
    picture = work / "picture"
    make_pictures(picture, classes=["x"], per_class=1, side=8)
    files = hostile_files(work / "hostile", good)
    table = doors(str(good), str(picture / "x" / "000.jpg"))
    wrong, tries = [], 0
    before = Path.cwd()
    os.chdir(work)
    try:
        attempt(["predict", str(good), str(picture)], may_pass=True)  # imports what the doors need
        for name, path in files.items():
            for door, command in table.items():
                if not (doors_wanted(door) and files_wanted(name)):
                    continue
                if door == "demo --out" and path.is_dir():
                    continue  # would train for a minute into a folder of its own below it
                copy = work / "copy" / path.name  # a door may change what it is given
                shutil.rmtree(work / "copy", ignore_errors=True)
                copy.parent.mkdir()
                shutil.copytree(path, copy, symlinks=True) if path.is_dir() else shutil.copy(path, copy)
                shutil.rmtree(work / "new", ignore_errors=True)
                tries += 1
                asked = time.monotonic()
                problems = attempt(command(str(copy)), may_pass=may_succeed(door, name))
                if time.monotonic() - asked > SLOW:
                    problems.append(f"took {time.monotonic() - asked:.0f} s")
                if problems:
                    wrong.append({"door": door, "file": name, "problems": problems})
                    print(f"{door} <- {name}: {problems}", flush=True)
    finally:
        os.chdir(before)
    return tries, wrong, files


def main() -> int:
    given = parser(__doc__).parse_args()
    started = time.monotonic()
    with workspace("hostile") as work:
        good = good_run(work)
        tries, wrong, files = sweep(
            work, good, doors_wanted=lambda door: True, files_wanted=lambda name: True
        )
        payloads = [p for name, p in files.items() if p.is_file() and name not in NO_PAYLOAD]
        alive = control(work, payloads)
        command = isopatch("predict", str(files["zip-state.pth"]), "x.jpg")
        done = subprocess.run(
            command, cwd=work, capture_output=True, text=True, check=False, env=environment()
        )
        if done.returncode not in (1, 2) or "Traceback" in done.stderr or (work / CANARY).exists():
            wrong.append(
                {"door": "a process of its own", "file": "zip-state.pth", "problems": [done.stderr[-300:]]}
            )
        ran = sum("THE PAYLOAD RAN" in entry["problems"] for entry in wrong)
    return record(
        "hostile",
        claim="no payload runs through any door; refused with one line, no traceback",
        figure={
            "payloads_run": ran,
            "tries": tries,
            "files": len(files),
            "doors": len(doors("", "")),
            "badly_refused": len(wrong) - ran,
            "control_payloads_alive": alive,
            "control_of": len(payloads),
        },
        passed=not wrong and alive == len(payloads),
        n=tries,
        seed=None,
        started=started,
        out=given.out,
        files=sorted(files),
        wrong=wrong,
    )


if __name__ == "__main__":
    raise SystemExit(main())
