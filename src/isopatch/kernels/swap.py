"""Replace modules of a model by faster twins, say which, and put the plain ones back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from isopatch.errors import UsageError, nearest
from isopatch.kernels import native, triton
from isopatch.kernels.twin import DTYPES, Maker, Precision, Unfit, is_twin

Kernels = Literal["auto", "plain", "native", "triton"]

KERNELS: tuple[Kernels, ...] = ("auto", "plain", "native", "triton")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")

log = logging.getLogger("isopatch")


@dataclass(frozen=True)
class Replacement:
    """One module that a twin stands in for. path: its name in the model, such as "blocks"."""

    path: str
    twin: str


@dataclass
class Swapped:
    """What `swap` did to a model.

    kernels: "native" or "triton"; "plain" where there is no twin. precision: what the twins compute in.
    kept: modules of a known kind that stayed plain, "path: why". note: why there are no twins at all, or no
    new ones, where that was not asked for. instructions: the CPU's that native kernels use, such as
    "avx512_bf16".
    """

    kernels: str
    precision: Precision
    replaced: tuple[Replacement, ...] = ()
    kept: tuple[str, ...] = ()
    note: str | None = None
    instructions: str | None = None
    _before: list[tuple[nn.Module, str, nn.Module]] = field(default_factory=list, repr=False)

    def ran_on(self) -> dict[str, str | int | None]:
        """What decides the last bits of what the model computes, for a record of it."""
        return {
            "kernels": self.kernels,
            "instruction_set": self.instructions,
            "threads": torch.get_num_threads(),
        }

    def undo(self) -> None:
        """Put the plain modules back; weights trained meanwhile are theirs too."""
        for replacement in reversed(self._before):
            _put_back(*replacement)
        self._before.clear()

    def _undo_idle(self, replaced: list[Replacement], standing: Sequence[nn.Module]) -> list[str]:
        """Undo twins that only serve others where those are missing; return which stay plain, and why."""
        twins = [getattr(parent, name) for parent, name, _ in self._before]
        if any(_takes_over_blocks(twin) for twin in (*twins, *standing)):
            return []
        serves = [getattr(twin, "serves_twins", False) for twin in twins]
        idle = [index for index, served in enumerate(serves) if served]
        told = [f"{replaced[index].path}: a twin gains nothing beside plain blocks" for index in idle]
        for index in reversed(idle):
            _put_back(*self._before.pop(index))
            del replaced[index]
        return told

    def __str__(self) -> str:
        """One line for a log."""
        if not self.replaced:
            return f"kernels {self.kernels}{f': {self.note}' if self.note else ''}"
        paths: dict[str, list[str]] = {}
        for each in self.replaced:
            paths.setdefault(each.twin, []).append(each.path)
        twins = ", ".join(f"{_in_short(places)} ({twin})" for twin, places in paths.items())
        kept = f"; plain: {'; '.join(self.kept)}" if self.kept else ""
        return f"kernels {self.kernels}, {self.precision}: {twins}{kept}"


def _in_short(paths: Sequence[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} ... {paths[-1]} ({len(paths)} modules)"


def _takes_over_blocks(twin: nn.Module) -> bool:
    return not getattr(twin, "serves_twins", False) and not getattr(twin, "gradients_only", False)


def _put_back(parent: nn.Module, name: str, plain: nn.Module) -> None:
    twin = getattr(parent, name)
    plain.training = twin.training  # of this module alone: its parts are shared
    # Other parts may stand in the twin since the swap; a list's may be more or fewer.
    parts = twin._modules.keys() if isinstance(plain, nn.ModuleList) else plain._modules.keys()
    plain._modules = {part: twin._modules[part] for part in parts}
    setattr(parent, name, plain)


def swap(
    model: nn.Module,
    *,
    kernels: Kernels = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    gradients: bool = True,
) -> Swapped:
    """Replace what has a twin, in place. Names, parameters and checkpoints stay as they are.

    Twins that are in the model stay what they are: `undo` is how to have others.

    kernels: "native" are this package's CPU kernels, "triton" its GPU kernels; "auto" takes those of the
        device the model is on, or none where this machine cannot run them; "plain" replaces nothing.
    precision: "auto" is bf16 where the hardware multiplies it faster, else fp32. Only "triton" has fp16.
    gradients: whether some will be wanted; where not, modules whose twins do nothing else stay plain.
    Raises UsageError when the asked-for kernels cannot run here, or not in this precision, saying why.
    """
    if kernels not in KERNELS:
        raise UsageError(f"kernels '{kernels}'{nearest(kernels, KERNELS)}: there are {', '.join(KERNELS)}")
    if precision not in PRECISIONS:
        raise UsageError(f"precision '{precision}': kernels have {', '.join(PRECISIONS)}")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    library, note = _choose(kernels, device, precision)
    if library == "plain":
        return Swapped("plain", "fp32" if precision == "auto" else precision, note=note)
    offered = native if library == "native" else triton
    chosen: Precision = (
        precision if precision != "auto" else ("bf16" if offered.gains_from_bf16() else "fp32")
    )
    return _replace(model, library, chosen, offered.makers(), gradients)


def _choose(kernels: Kernels, device: torch.device, precision: str) -> tuple[str, str | None]:
    """Return the library, and why it is none where "auto" was asked for."""
    if kernels == "plain":
        return "plain", None
    wanted = ("triton" if device.type == "cuda" else "native") if kernels == "auto" else kernels
    if wanted == "native" and precision == "fp16":
        reason: str | None = "no native twin computes in fp16"
    else:
        reason = native.unavailable(device.type) if wanted == "native" else triton.unavailable(str(device))
    if reason is None:
        return wanted, None
    if kernels == "auto":
        return "plain", reason
    raise UsageError(f"kernels {kernels}: {reason}; use --kernels plain")


def _replace(
    model: nn.Module, library: str, precision: Precision, makers: Sequence[Maker], gradients: bool
) -> Swapped:
    swapped = Swapped(library, precision, instructions=native.instructions() if library == "native" else None)
    replaced: list[Replacement] = []
    kept: list[str] = []
    standing: list[tuple[str, nn.Module]] = []

    def visit(parent: nn.Module, prefix: str) -> None:
        for name, child in list(parent.named_children()):
            path = f"{prefix}{name}"
            if is_twin(child):
                standing.append((path, child))
                if getattr(child, "holds_twins", False):
                    visit(child, f"{path}.")
                continue
            found = next((made for make in makers if (made := make(child, precision)) is not None), None)
            if isinstance(found, nn.Module) and (gradients or not getattr(found, "gradients_only", False)):
                found.training = child.training  # not `train`: parts of it may be frozen
                setattr(parent, name, found)
                swapped._before.append((parent, name, child))
                replaced.append(Replacement(path, str(found.twin_name)))
                if getattr(found, "holds_twins", False):
                    visit(found, f"{path}.")
                continue
            if isinstance(found, Unfit):
                kept.append(f"{path}: {found.why}")
            visit(child, f"{path}.")

    visit(model, "")
    kept += swapped._undo_idle(replaced, [twin for _, twin in standing])
    swapped.replaced, swapped.kept = tuple(replaced), tuple(kept)
    if not replaced and standing:
        return _standing(standing, tuple(kept))
    kept += [f"{path}: {child.twin_name} from before" for path, child in standing]
    swapped.kept = tuple(kept)
    if not replaced:  # recorded as plain: a later version's twins are not what this model ran on
        why = "; ".join(kept) or "nothing in this model has a twin"
        return Swapped("plain", precision, kept=tuple(kept), note=why)
    return swapped


def _standing(twins: Sequence[tuple[str, nn.Module]], kept: tuple[str, ...]) -> Swapped:
    """What a model with twins in it already runs on."""
    library = str(twins[0][1].twin_library)
    precision = next(name for name, dtype in DTYPES.items() if dtype == twins[0][1].dtype)
    told = ", ".join(f"{path} ({twin.twin_name})" for path, twin in twins)
    instructions = native.instructions() if library == "native" else None
    note = f"the twins that are in already: {told}"
    return Swapped(library, precision, kept=kept, note=note, instructions=instructions)
