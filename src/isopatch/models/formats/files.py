"""Reading weights files without running anything in them: safetensors, npz, torch.load(weights_only=True)."""

from __future__ import annotations

import argparse
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from isopatch.errors import IsopatchError, UsageError
from isopatch.models.formats.keymap import State
from isopatch.models.formats.npz import read_npz, rooted
from isopatch.models.formats.official import strip_wrappers, unwrap, without_strays

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".th", ".tar", ".ckpt")
WEIGHTS_SUFFIXES = (".safetensors", ".npz", *TORCH_SUFFIXES)


def read_state(path: Path, *, ema: bool = False) -> tuple[State, list[str]]:
    """Return (tensors by name, notes on what was ignored) of a weights file.

    ema: the moving average of the weights where a torch file holds both (training checkpoints of DeiT, timm).
    Raises IsopatchError naming the file when it is damaged, holds anything but tensors and plain values, or
    no tensors at all; UsageError for a suffix that is no weights file, and for an average that is not there.
    """
    if path.suffix in TORCH_SUFFIXES:
        return unwrap(read_torch(path), where=str(path), ema=ema)
    if path.suffix not in WEIGHTS_SUFFIXES:
        known = ", ".join(WEIGHTS_SUFFIXES)
        raise UsageError(f"{path}: not a weights file isopatch reads ({known})")
    if ema:
        raise UsageError(f"{path}: holds no moving average of the weights beside them")
    if path.suffix == ".npz":
        arrays = read_npz(path)
        weights = rooted(arrays)
        left = len(arrays) - len(weights)
        return weights, [f"ignored {left} arrays beside the weights"] if left else []
    state, notes = without_strays(read_safetensors(path))
    return strip_wrappers(state), notes


def read_safetensors(path: Path) -> State:
    """Read a safetensors file; a damaged one raises IsopatchError naming it."""
    try:
        state: State = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise IsopatchError(f"{path}: damaged or not a safetensors file ({_first_line(error)})") from None
    return state


def read_torch(path: Path) -> Any:
    """Read a torch file; only tensors, plain containers and argparse.Namespace are let in.

    Namespace is in DeiT's files beside the weights; it is a bag of attributes, and its contents are ignored.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|global) ([\w.]+)", str(error))
        what = f"the Python object {found.group(1)}" if found else "something other than tensors"
        raise IsopatchError(
            f"{path}: refused, because it holds {what}, and loading Python objects can run code; "
            f"ask for a safetensors file, or for one with a plain state dict"
        ) from None
    except Exception as error:  # torch reports damage through many types: one line for all of them
        raise IsopatchError(f"{path}: damaged or not a torch file ({_first_line(error)})") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
