"""Contenders as PyTorch modules: ours, plain or with twins, and timm's with the same weights."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from isopatch.bench.setting import Setting, Task
from isopatch.bench.subject import Subject
from isopatch.errors import UsageError
from isopatch.kernels import swap
from isopatch.kernels.swap import Kernels
from isopatch.models.formats import timm as timm_format
from isopatch.models.formats.timm_build import timm_model

ToOurNames = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class NothingToReplace(UsageError):
    """The kernels run here, but nothing in this model has a twin."""


def timm_module(subject: Subject) -> tuple[nn.Module, ToOurNames]:
    """Return timm's model with the subject's weights, and what brings its tensors' names into ours.

    Raises UsageError where timm has no such model.
    """
    spec = subject.spec
    if spec.architecture == "timm":  # our wrapper runs timm's own forward pass
        return copy.deepcopy(subject.model), lambda named: named
    module = timm_model(spec).eval()
    state = {name: tensor.detach() for name, tensor in subject.model.state_dict().items()}
    after = spec.arguments.get("pool") == "mean-norm"
    module.load_state_dict(
        timm_format.from_isopatch(state, spec.architecture, norm_after_pool=after), strict=True
    )
    return module, lambda named: timm_format.to_isopatch(named, spec.architecture)


def graph_module(subject: Subject) -> tuple[nn.Module, str]:
    """Return the module that a runtime gets its graph from, and whose it is: timm's where timm has one."""
    try:
        module, _ = timm_module(subject)
    except UsageError:
        return copy.deepcopy(subject.model), "graph of isopatch's plain model"
    return module, "graph of timm's model"


def module_of(setting: Setting, task: Task, subject: Subject) -> tuple[nn.Module, ToOurNames, str | None]:
    """Return the module of a PyTorch contender in its precision and layout, on its device, and a note.

    In bf16 training everything keeps fp32 weights and runs under autocast, as users train; in inference
    plain modules are converted, which is faster, and twins run under autocast, as `isopatch predict` does.
    Raises NothingToReplace, and UsageError where timm has no such model or the kernels cannot run here.
    """
    note = None
    names: ToOurNames
    if setting.ours:
        module: nn.Module = copy.deepcopy(subject.model)
        names = _as_they_are
    else:
        module, names = timm_module(subject)
    module = module.to(task.device)
    if setting.layout == "channels_last":
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if setting.ours and setting.kernels != "plain":
        swapped = swap(
            module,
            kernels=cast(Kernels, setting.kernels),
            precision=setting.precision,
            gradients=task.mode == "train",
        )
        if not swapped.replaced:
            raise NothingToReplace(swapped.note or "nothing in this model has a twin")
        note = str(swapped)
    if converts(setting, task):
        module = module.to(torch.bfloat16)
    return module, names, note


def _as_they_are(named: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return named


def converts(setting: Setting, task: Task) -> bool:
    """Whether weights and pictures themselves are bf16."""
    twins = setting.ours and setting.kernels != "plain"
    return setting.precision == "bf16" and task.mode == "infer" and not twins


def autocast(setting: Setting, task: Task) -> contextlib.AbstractContextManager[Any]:
    """Autocast where weights stay fp32 and the products do not."""
    if setting.precision == "fp32" or converts(setting, task):
        return contextlib.nullcontext()
    return torch.autocast(task.device, dtype=torch.bfloat16)


def placed(pictures: Tensor, setting: Setting, task: Task) -> Tensor:
    """Return pictures where and how a PyTorch contender takes them."""
    pictures = pictures.to(task.device)
    if setting.layout == "channels_last":
        pictures = pictures.contiguous(memory_format=torch.channels_last)
    return pictures.to(torch.bfloat16) if converts(setting, task) else pictures


def finish(task: Task) -> None:
    """Wait for the GPU."""
    if task.device == "cuda":
        torch.cuda.synchronize()
