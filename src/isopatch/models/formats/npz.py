"""Google's `.npz` checkpoints: ViT and hybrid ViT (vision_transformer, big_vision), MLP-Mixer.

Flax keeps dense kernels as (in, out), convolutions as (rows, cols, in, out), attention split by heads:
query, key and value (C, heads, d), the output projection (heads, d, C). big_vision's positions have no entry
for the class token; zeros are put there, which is the same function. Its scanned models stack all blocks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isopatch.errors import IsopatchError, UsageError
from isopatch.models.formats.keymap import Rules, State, rename, reverse

ROOTS = ("opt/target/", "target/", "params/")

_BIG_VISION = "pos_embedding"  # its table stands at the root, and has no entry for the class token
_BLOCK = "Transformer/encoderblock_{i}"
# The first of several names for one tensor is vision_transformer's, the one that is written.
_VIT: Rules = (
    ("embedding/*", "stem.proj.*"),
    ("cls", "prefix.cls_token"),
    ("Transformer/posembed_input/pos_embedding", "position.table"),
    (_BIG_VISION, "position.table"),
    (f"{_BLOCK}/LayerNorm_0/*", "blocks.{i}.token.norm.*"),
    (f"{_BLOCK}/LayerNorm_2/*", "blocks.{i}.channel.norm.*"),
    (f"{_BLOCK}/LayerNorm_1/*", "blocks.{i}.channel.norm.*"),
    *(
        (f"{_BLOCK}/MlpBlock_{number}/Dense_{layer}/*", f"blocks.{{i}}.channel.mixer.fc{layer + 1}.*")
        for number in (3, 0)
        for layer in (0, 1)
    ),
    ("Transformer/encoder_norm/*", "norm.*"),
    ("pre_logits/*", "heads.cls.pre_logits.*"),
    ("head/*", "heads.cls.linear.*"),
)
_UNIT = "stage_{i}/unit_{j}"
_HYBRID: Rules = (
    ("conv_root/*", "stem.root.conv.*"),
    ("gn_root/*", "stem.root.norm.*"),
    *((f"{_UNIT}/conv{n}/*", f"stem.stages.{{i}}.{{j}}.conv{n}.*") for n in (1, 2, 3)),
    *((f"{_UNIT}/gn{n}/*", f"stem.stages.{{i}}.{{j}}.norm{n}.*") for n in (1, 2, 3)),
    (f"{_UNIT}/conv_proj/*", "stem.stages.{i}.{j}.downsample.conv.*"),
    (f"{_UNIT}/gn_proj/*", "stem.stages.{i}.{j}.downsample.norm.*"),
    *_VIT,
)
_MIXER: Rules = (
    ("stem/*", "stem.proj.*"),
    ("MixerBlock_{i}/LayerNorm_0/*", "blocks.{i}.token.norm.*"),
    ("MixerBlock_{i}/token_mixing/Dense_0/*", "blocks.{i}.token.mixer.mlp.fc1.*"),
    ("MixerBlock_{i}/token_mixing/Dense_1/*", "blocks.{i}.token.mixer.mlp.fc2.*"),
    ("MixerBlock_{i}/LayerNorm_1/*", "blocks.{i}.channel.norm.*"),
    ("MixerBlock_{i}/channel_mixing/Dense_0/*", "blocks.{i}.channel.mixer.fc1.*"),
    ("MixerBlock_{i}/channel_mixing/Dense_1/*", "blocks.{i}.channel.mixer.fc2.*"),
    ("pre_head_layer_norm/*", "norm.*"),
    ("head/*", "heads.cls.linear.*"),
)
_RULES = {"vit": _VIT, "deit": _VIT, "hybrid": _HYBRID, "mlp_mixer": _MIXER}
_ATTENTION = re.compile(
    r"(?P<block>Transformer/encoderblock_\d+)/MultiHeadDotProductAttention_\d/(?P<part>query|key|value|out)/"
    r"(?P<leaf>kernel|bias)"
)


def read_npz(path: Path) -> State:
    """Read the arrays of a `.npz` file under their own names, objects refused.

    bfloat16 arrays, which numpy stores as two raw bytes, become bfloat16 tensors. Raises IsopatchError naming
    the file when it is damaged or holds Python objects.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # numpy and zipfile report damage through many types: one line for all
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        why = (
            "it is no npz file, or holds Python objects, and loading them can run code"
            if "allow_pickle" in text
            else text[:160]
        )
        raise IsopatchError(f"{path}: refused or damaged ({why}); ask for a file of plain arrays") from None
    return {name: _tensor(array, f"{path}: {name}") for name, array in arrays.items()}


def is_flax(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are paths, as Flax writes them."""
    return any("/" in key for key in state)


def to_isopatch(state: Mapping[str, Tensor], architecture: str) -> State:
    """Rename and reshape Flax tensors to ours; what no rule knows stays and shows up as unexpected."""
    plain: State = {}
    attention: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _unstacked(rooted(state)).items():
        found = _ATTENTION.fullmatch(key)
        if found:
            block = found["block"].replace("Transformer/encoderblock_", "blocks.")
            attention.setdefault(f"{block}.token.mixer", {})[f"{found['part']}.{found['leaf']}"] = tensor
        else:
            name, value = _from_flax(key, tensor)
            plain[name] = value
    result = rename(plain, _rules(architecture))
    for name, parts in attention.items():
        result.update(_attention(name, parts))
    table = result.get("position.table")
    if table is not None and "prefix.cls_token" in result and _BIG_VISION in rooted(state):
        result["position.table"] = torch.cat((torch.zeros_like(table[:, :1]), table), dim=1)
    return result


def heads_in(state: Mapping[str, Tensor]) -> int | None:
    """Return the number of attention heads of Flax tensors, None where there are none."""
    queries = [t for key, t in state.items() if key.endswith("/query/kernel") and t.dim() in (3, 4)]
    return int(queries[0].shape[-2]) if queries else None


def from_isopatch(state: Mapping[str, Tensor], architecture: str, *, num_heads: int | None) -> State:
    """Rename and reshape our tensors to vision_transformer's names; num_heads splits the attention.

    Raises IsopatchError naming the first tensor that has no place there (layer scales, a distillation token).
    """
    result: State = {}
    plain: State = {}
    for key, tensor in state.items():
        found = re.fullmatch(r"blocks\.(\d+)\.token\.mixer\.(qkv|proj)\.(weight|bias)", key)
        if found:
            assert num_heads is not None
            where = f"Transformer/encoderblock_{found[1]}/MultiHeadDotProductAttention_1"
            result.update(_split_attention(where, found[2], found[3], tensor, num_heads))
        else:
            plain[key] = tensor
    for name, tensor in rename(plain, reverse(_rules(architecture))).items():
        if name in state:
            raise IsopatchError(f"{name} has no place in Google's format; choose another format")
        result.update([_to_flax(name, tensor)])
    return result


def refuse_unknown(architecture: str, arguments: Mapping[str, Any]) -> None:
    """Raise UsageError naming the first part of a model that vision_transformer's code does not have."""
    if architecture not in _RULES:
        raise UsageError(f"Google's format has no {architecture}; it has {', '.join(_RULES)}")
    if arguments.get("activation", "gelu") == "relu":
        raise UsageError("Google's code runs gelu, this model relu, which has no place there")
    without_token = not arguments.get("class_token", True)
    wanted = {
        "position": "learned",
        "class_position": True,
        "pool": "norm-mean" if without_token else "class",
        "layer_scale": None,
        "patch_norm": False,
        "qkv_bias": True,
        "distilled": False,
    }
    for key, value in wanted.items():
        if arguments.get(key, value) != value:
            raise UsageError(f"Google's format has {key} {value} only, this model has {arguments[key]}")


def _rules(architecture: str) -> Rules:
    if architecture not in _RULES:
        raise IsopatchError(f"Google's format has no {architecture}; it knows {', '.join(_RULES)}")
    return _RULES[architecture]


def _from_flax(key: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Leaf names and axes as torch has them; stages and units counted from 0."""
    folder, _, leaf = key.rpartition("/")
    folder = re.sub(r"block(\d+)/unit(\d+)", lambda m: f"stage_{int(m[1]) - 1}/unit_{int(m[2]) - 1}", folder)
    if leaf == "kernel":
        tensor = (tensor.permute(3, 2, 0, 1) if tensor.dim() == 4 else tensor.T).contiguous()
    elif leaf in ("scale", "bias") and tensor.dim() == 4:  # BiT keeps (1, 1, 1, C)
        tensor = tensor.reshape(-1)
    name = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
    return (f"{folder}/{name}" if folder else name), tensor


def _to_flax(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """The way back: a weight with one axis is a norm's scale."""
    folder, _, leaf = name.rpartition("/")
    folder = re.sub(r"stage_(\d+)/unit_(\d+)", lambda m: f"block{int(m[1]) + 1}/unit{int(m[2]) + 1}", folder)
    if leaf == "weight":
        leaf = "scale" if tensor.dim() == 1 else "kernel"
        tensor = (
            tensor.permute(2, 3, 1, 0) if tensor.dim() == 4 else tensor.T if tensor.dim() == 2 else tensor
        )
    return (f"{folder}/{leaf}" if folder else leaf), tensor.contiguous()


def _attention(name: str, parts: Mapping[str, Tensor]) -> State:
    expected = {f"{part}.{leaf}" for part in ("query", "key", "value", "out") for leaf in ("kernel", "bias")}
    if set(parts) != expected:
        return {f"{name}.{key}": tensor for key, tensor in parts.items()}  # told by the strict comparison
    kernels = [parts[f"{part}.kernel"].flatten(1).T for part in ("query", "key", "value")]
    biases = [parts[f"{part}.bias"].flatten() for part in ("query", "key", "value")]
    return {
        f"{name}.qkv.weight": torch.cat(kernels).contiguous(),
        f"{name}.qkv.bias": torch.cat(biases),
        f"{name}.proj.weight": parts["out.kernel"].flatten(0, 1).T.contiguous(),
        f"{name}.proj.bias": parts["out.bias"],
    }


def _split_attention(where: str, layer: str, leaf: str, tensor: Tensor, num_heads: int) -> State:
    if layer == "proj":
        if leaf == "bias":
            return {f"{where}/out/bias": tensor}
        return {f"{where}/out/kernel": tensor.T.reshape(num_heads, -1, tensor.shape[0]).contiguous()}
    parts = {}
    for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
        if leaf == "weight":
            parts[f"{where}/{part}/kernel"] = rows.T.reshape(rows.shape[1], num_heads, -1).contiguous()
        else:
            parts[f"{where}/{part}/bias"] = rows.reshape(num_heads, -1).contiguous()
    return parts


def rooted(state: Mapping[str, Tensor]) -> State:
    """Return the weights without the path to them, and without what lies beside them (optimiser, steps)."""
    for root in ROOTS:
        if any(key.startswith(root) for key in state):
            return {key.removeprefix(root): tensor for key, tensor in state.items() if key.startswith(root)}
    return dict(state)


def _unstacked(state: Mapping[str, Tensor]) -> State:
    """Scanned models keep all blocks in one tensor: give each its own."""
    result: State = {}
    for key, tensor in state.items():
        head, separator, rest = key.partition("Transformer/encoderblock/")
        if not separator or head:
            result[key] = tensor
            continue
        for index, own in enumerate(tensor):
            result[f"Transformer/encoderblock_{index}/{rest}"] = own
    return result


def _tensor(array: np.ndarray, where: str) -> Tensor:
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    if array.dtype.kind not in "fiub":
        raise IsopatchError(f"{where}: holds {array.dtype}, not numbers")
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
