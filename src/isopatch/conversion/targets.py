"""The formats isopatch writes: what each can hold, how it is written, how it is read back.

format        where                         holds
isopatch      a folder                      everything
timm          a folder                      weights, architecture, input settings, class names
timm          .safetensors, .pth, .bin      weights
deit          .pth                          weights
npz           .npz                          weights
transformers  a folder                      weights, architecture, input settings, class names
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from isopatch.errors import UsageError, nearest
from isopatch.files import fsync_folder, to_json, write_new
from isopatch.models.adapt import trained_grid
from isopatch.models.formats import deit, npz, timm, timm_config, transformers, transformers_config
from isopatch.models.formats.files import WEIGHTS_SUFFIXES
from isopatch.models.formats.keymap import State
from isopatch.models.load import Opened, open_weights
from isopatch.models.save import save_model
from isopatch.models.spec import ModelSpec
from isopatch.nn.classifier import Classifier
from isopatch.nn.norms import LAYER_NORM_EPS

Format = Literal["isopatch", "timm", "deit", "npz", "transformers"]
FORMATS: tuple[Format, ...] = get_args(Format)

SUFFIXES: dict[Format, tuple[str, ...]] = {
    "isopatch": (),
    "timm": (".safetensors", ".pth", ".bin"),
    "deit": (".pth",),
    "npz": (".npz",),
    "transformers": (),
}
FOLDERS: tuple[Format, ...] = ("isopatch", "timm", "transformers")
OTHER_FILES = (".onnx", ".h5", ".tflite", ".msgpack")  # suffixes of files that no format here is
# What such a folder holds, and so what may be replaced.
FOLDER_FILES = frozenset({"config.json", "model.safetensors", "preprocessor_config.json"})


def as_format(to: str) -> Format:
    """Return a format by name; an unknown one raises UsageError."""
    for known in FORMATS:
        if known == to:
            return known
    raise UsageError(f"format '{to}'{nearest(to, FORMATS)}: choose one of {', '.join(FORMATS)}")


def is_folder(to: Format, path: Path) -> bool:
    """Whether a format is written as a folder at `path`; raises UsageError where the suffix does not fit."""
    if path.suffix in SUFFIXES[to]:
        return False
    if to in FOLDERS and path.suffix.lower() not in (*WEIGHTS_SUFFIXES, *OTHER_FILES):
        return True
    kinds = [f"a file ending in {', '.join(SUFFIXES[to])}"] if SUFFIXES[to] else []
    kinds = [*(["a folder"] if to in FOLDERS else []), *kinds]
    raise UsageError(f"{path}: the format {to} is {' or '.join(kinds)}; give such a name")


def refuse_what_is_lost(to: Format, spec: ModelSpec, path: Path) -> None:
    """Raise UsageError naming the first part of a model that a format, or the code of it, lacks."""
    architecture, arguments = spec.architecture, spec.arguments
    if to == "timm" and is_folder(to, path):
        timm_config.builder(spec)
    elif to == "timm":
        timm_config.refuse_unknown(architecture, arguments, alone=True)
    elif to == "npz":
        npz.refuse_unknown(architecture, arguments)
    elif to == "transformers":
        transformers_config.refuse_unknown(architecture, arguments)
    elif to == "deit":
        if architecture not in deit.ARCHITECTURES:
            raise UsageError(f"DeiT's code has no {architecture}; it has {', '.join(deit.ARCHITECTURES)}")
        if architecture == "vit":
            transformers_config.refuse_unlike_deit(arguments, "DeiT's code")
        if arguments.get("activation") == "relu":
            raise UsageError("DeiT's code runs gelu, this model relu, which has no place there")


def fixed_settings(to: Format, spec: ModelSpec) -> dict[str, Any]:
    """Return settings that the code reading a format has built in, where the model's own differ."""
    runs: dict[str, Any] = {}
    if to in ("timm", "deit", "npz"):
        runs["norm_eps"] = LAYER_NORM_EPS
    if to in ("deit", "npz"):
        runs["activation"] = "gelu" if to == "deit" else "gelu_tanh"
    own = {"activation": "gelu", **spec.arguments}
    return {key: value for key, value in runs.items() if key in own and own[key] != value}


def state_for(to: Format, model: Classifier) -> State:
    """Return a model's tensors under a format's names, in its shapes."""
    spec: ModelSpec = model.spec
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    if to == "timm":
        after = spec.arguments.get("pool") == "mean-norm"
        return timm.from_isopatch(state, spec.architecture, norm_after_pool=after)
    if to == "deit":
        return deit.from_isopatch(state, spec.architecture)
    if to == "npz":
        return npz.from_isopatch(state, spec.architecture, num_heads=spec.arguments.get("num_heads"))
    if to == "transformers":
        return transformers.from_isopatch(state, distilled=bool(spec.arguments.get("distilled")))
    return state


def write(to: Format, model: Classifier, path: Path, state: Mapping[str, Tensor]) -> list[str]:
    """Write `state` (see `state_for`) at `path` and flush it to the disk; return the names of the files.

    The caller owns the atomicity: write beside, then rename.
    """
    if to == "isopatch":
        save_model(path, model)
        return sorted(file.name for file in path.iterdir())
    # Copies: a part of a joined tensor would bring the whole into the file.
    tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    if not is_folder(to, path):
        content = {"model": tensors} if to == "deit" else tensors
        write_new(path, _packed(path.suffix, content, tensors))
        return [path.name]
    documents: dict[str, Any] = {}
    if to == "timm":
        documents["config.json"] = timm_config.describe(model.spec)
    else:
        documents["config.json"] = transformers_config.describe(model.spec)
        documents["preprocessor_config.json"] = transformers_config.describe_input(model.spec.input)
    path.mkdir()
    write_new(path / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    for name, document in documents.items():
        if document is not None:
            write_new(path / name, to_json(document))
    fsync_folder(path)
    return sorted(file.name for file in path.iterdir())


def read_back(to: Format, path: Path, model: Classifier) -> Opened:
    """Open what was written with our own reader; a file of weights alone is told what it holds."""
    spec: ModelSpec = model.spec
    if is_folder(to, path):
        return open_weights(path)
    arguments = {key: value for key, value in spec.arguments.items() if key != "num_classes"}
    return open_weights(path, spec.name, arguments=arguments, grid=trained_grid(model))


def _packed(suffix: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    if suffix == ".safetensors":
        packed: bytes = save(dict(tensors), metadata={"format": "pt"})
        return packed
    buffer = io.BytesIO()
    if suffix == ".npz":
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
        np.savez(buffer, **arrays)
    else:
        torch.save(dict(content), buffer)
    return buffer.getvalue()
