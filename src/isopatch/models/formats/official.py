"""The authors' own files: DeiT's `.pth` and ConvMixer's `.pth.tar`, and what training scripts leave in them.

DeiT keeps its weights under `model`, beside an `argparse.Namespace`; ConvMixer's releases and timm's
training checkpoints under `state_dict`; a moving average may lie beside them. DataParallel and torch.compile
put prefixes before every name, FLOP counters leave tensors of their own. CIFAR ResNets are akamaster's.
ConvMixer's `convmixer.py` is one Sequential: its names are positions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from isopatch.errors import IsopatchError, UsageError
from isopatch.models.formats.keymap import Rules, State

CONTAINERS = ("model", "state_dict")
AVERAGES = ("model_ema", "state_dict_ema")  # DeiT's and timm's moving averages, beside the weights
WRAPPERS = ("module.", "_orig_mod.")
# Left behind by the thop counter; the number of updates of torch's AveragedModel.
STRAY = ("total_ops", "total_params", "n_averaged")

_STEM = {"0": "stem.0", "2": "stem.2"}


def unwrap(content: Any, *, where: str, ema: bool = False) -> tuple[State, list[str]]:
    """Return (the state dict of a loaded file, notes on what was taken and what was ignored).

    ema: take the moving average of the weights, which a file may hold beside them.
    Raises IsopatchError naming the file when there are no tensors by name in it, UsageError when it holds no
    average and one was asked for, or the other way round.
    """
    notes = []
    held = [key for key in (*CONTAINERS, *AVERAGES) if _is_mapping(content, key)]
    averages = [key for key in held if key in AVERAGES]
    if ema and not averages:
        raise UsageError(
            f"{where}: holds no moving average of the weights (looked for {', '.join(AVERAGES)})"
        )
    if held == averages and held and not ema:
        raise UsageError(f"{where}: holds only a moving average ('{held[0]}'): ask for it (ema)")
    if held:
        key = averages[0] if ema else held[0]
        others = sorted(str(other) for other in content if other != key)
        if averages and not ema:
            notes.append(
                f"took the weights under '{key}', not their moving average under '{averages[0]}' (ema does)"
            )
        if ema:
            notes.append(f"took the moving average of the weights under '{key}'")
        if others:
            notes.append(f"ignored {', '.join(others)} beside the weights under '{key}'")
        content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        raise IsopatchError(f"{where}: no weights by name in it (it holds {type(content).__name__})")
    foreign = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if foreign:
        raise IsopatchError(f"{where}: '{foreign[0]}' is no tensor; expected a state dict")
    state, more = without_strays(dict(content))
    return strip_wrappers(state), notes + more


def without_strays(state: State) -> tuple[State, list[str]]:
    """Return (the state without what tools count beside the weights, a note on it)."""
    kept = {key: value for key, value in state.items() if key.rpartition(".")[2] not in STRAY}
    if len(kept) == len(state):
        return kept, []
    return kept, [f"ignored {len(state) - len(kept)} counts beside the weights ({', '.join(STRAY)})"]


def _is_mapping(content: Any, key: str) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get(key), Mapping)


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
