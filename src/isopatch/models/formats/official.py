"""The authors' own files: DeiT's `.pth` and ConvMixer's `.pth.tar`, and what training scripts leave in them.

DeiT keeps its weights under `model`, beside an `argparse.Namespace`; ConvMixer's releases and timm's training
checkpoints under `state_dict`. DataParallel and torch.compile put prefixes before every name, FLOP counters
leave tensors of their own. CIFAR ResNets are akamaster's. ConvMixer's `convmixer.py` is one Sequential: its
names are positions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from isopatch.errors import IsopatchError
from isopatch.models.formats.keymap import Rules, State

CONTAINERS = ("model", "state_dict")
WRAPPERS = ("module.", "_orig_mod.")
STRAY = ("total_ops", "total_params")  # left behind by the thop counter

_STEM = {"0": "stem.0", "2": "stem.2"}


def unwrap(content: Any, *, where: str) -> tuple[State, list[str]]:
    """Return (the state dict of a loaded file, notes on what was ignored).

    Raises IsopatchError naming the file when there are no tensors by name in it.
    """
    notes = []
    for key in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            others = sorted(str(other) for other in content if other != key)
            if others:
                notes.append(f"ignored {', '.join(others)} beside the weights under '{key}'")
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        raise IsopatchError(f"{where}: no weights by name in it (it holds {type(content).__name__})")
    foreign = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if foreign:
        raise IsopatchError(f"{where}: '{foreign[0]}' is no tensor; expected a state dict")
    state = {key: value for key, value in content.items() if key.rpartition(".")[2] not in STRAY}
    if len(state) < len(content):
        notes.append(f"ignored {len(content) - len(state)} counts of a FLOP counter ({', '.join(STRAY)})")
    return strip_wrappers(state), notes


def strip_wrappers(state: State) -> State:
    """Remove `module.` and `_orig_mod.` where every name carries them, as often as they were put on."""
    while state:
        shared = next((w for w in WRAPPERS if all(key.startswith(w) for key in state)), None)
        if shared is None:
            break
        state = {key.removeprefix(shared): tensor for key, tensor in state.items()}
    return state


CIFAR_RESNET: Rules = (
    ("conv1.*", "stem.conv.*"),
    ("bn1.*", "stem.norm.*"),
    *(
        (f"layer{stage}.{{i}}.{theirs}{n}.*", f"stages.{stage - 1}.{{i}}.{ours}{n}.*")
        for stage in (1, 2, 3)
        for theirs, ours in (("conv", "conv"), ("bn", "norm"))
        for n in (1, 2)
    ),
    ("linear.*", "heads.cls.linear.*"),
)


def is_sequential_convmixer(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of the authors' `convmixer.py`: positions in a Sequential."""
    return "0.weight" in state and "3.0.fn.0.weight" in state


def sequential_to_timm(state: Mapping[str, Tensor]) -> State:
    """Rename the authors' positions to timm's names: 0, 2 the stem, 3 on the blocks, the last the head."""
    numbers = [int(key.split(".")[0]) for key in state if key.split(".")[0].isdigit()]
    head = max(numbers)
    renamed: State = {}
    for key, tensor in state.items():
        first, _, rest = key.partition(".")
        if first in _STEM:
            renamed[f"{_STEM[first]}.{rest}"] = tensor
        elif first.isdigit() and int(first) == head:
            renamed[f"head.{rest}"] = tensor
        elif first.isdigit() and re.match(r"\d+\.", rest):
            renamed[f"blocks.{int(first) - 3}.{rest}"] = tensor
        else:
            renamed[key] = tensor
    return renamed
