"""Optimiser construction, decay groups, and optimiser state keyed by parameter name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from isopatch.errors import IsopatchError
from isopatch.training.config import OptimizerConfig

DISTILLATION_TOKEN = "prefix.dist_token"
GROUP = "group "  # prefix of the names of tensors that belong to a group; no parameter is called so


def decay_groups(
    model: nn.Module, config: OptimizerConfig, no_decay: Iterable[str]
) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Split trainable parameters into (decayed, spared).

    With decay="architecture" biases, 1-D tensors and the architecture's own set are spared; with "all"
    (the ConvMixer CIFAR script) nothing is.
    """
    spared_names = set(no_decay)
    if config.decay_distillation_token:
        spared_names.discard(DISTILLATION_TOKEN)
    decayed: dict[str, nn.Parameter] = {}
    spared: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        spare = name in spared_names or parameter.ndim <= 1 or name.endswith(".bias")
        group = spared if spare and config.decay == "architecture" else decayed
        group[name] = parameter
    return decayed, spared


def build_optimizer(
    model: nn.Module,
    config: OptimizerConfig,
    no_decay: Iterable[str],
    lr: float,
    *,
    projector: nn.Module | None = None,
) -> NamedOptimizer:
    """Build the configured optimiser over the model's decay groups.

    projector: trained beside the model (feature distillation); its names begin with `projector.`.
    """
    decayed, spared = decay_groups(model, config, no_decay)
    if projector is not None:
        for name, parameter in projector.named_parameters():
            (decayed if parameter.ndim > 1 else spared)[f"projector.{name}"] = parameter
    groups = [
        {"params": list(decayed.values()), "weight_decay": config.weight_decay},
        {"params": list(spared.values()), "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    optimizer: torch.optim.Optimizer
    if config.name == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=lr, betas=config.betas, eps=config.eps, fused=True)
    elif config.name == "sgd":
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=config.momentum, fused=True)
    else:
        from timm.optim.lamb import Lamb  # 9 s of import: only where a recipe wants it

        optimizer = Lamb(groups, lr=lr, betas=config.betas, eps=config.eps, max_grad_norm=None)
    return NamedOptimizer(optimizer, decayed | spared)


class NamedOptimizer:
    """A torch optimiser whose state is saved and restored by parameter name.

    Positions in torch's own state dict shift when a parameter is added; names do not. Tensors are restored
    into fresh ones with the parameter's strides, so that a resumed step runs the code an unbroken one runs.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> None:
        self.optimizer = optimizer
        self._names = {id(parameter): name for name, parameter in parameters.items()}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters the optimiser updates."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of every group."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def state(self) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
        """Return (tensors named `<parameter>/<slot>` or `group <i>/<slot>`, plain options of each group)."""
        tensors = {
            f"{self._names[id(parameter)]}/{slot}": value
            for parameter, slots in self.optimizer.state.items()
            for slot, value in slots.items()
            if isinstance(value, torch.Tensor)
        }
        options = []
        for number, group in enumerate(self.optimizer.param_groups):
            options.append({k: v for k, v in group.items() if k != "params" and not torch.is_tensor(v)})
            # LAMB counts its steps in a tensor of the group.
            tensors |= {f"{GROUP}{number}/{k}": v for k, v in group.items() if torch.is_tensor(v)}
        return tensors, options

    def restore(self, tensors: dict[str, torch.Tensor], options: list[dict[str, Any]]) -> None:
        """Restore what `state` returned; raise IsopatchError when it belongs to another model."""
        by_name = {self._names[id(parameter)]: parameter for parameter in self.parameters}
        owners = {key.rsplit("/", 1)[0] for key in tensors if not key.startswith(GROUP)}
        unknown = sorted(owners - set(by_name))
        if unknown or len(options) != len(self.optimizer.param_groups):
            raise IsopatchError(f"the saved optimiser state belongs to another model (it has {unknown[:3]})")
        self.optimizer.state.clear()
        for key, saved in tensors.items():
            name, slot = key.rsplit("/", 1)
            if name.startswith(GROUP):
                self.optimizer.param_groups[int(name.removeprefix(GROUP))][slot] = saved.clone()
                continue
            parameter = by_name[name]
            like = parameter if saved.shape == parameter.shape else saved
            value = torch.empty_like(like, dtype=saved.dtype, device=parameter.device)
            value.copy_(saved)
            self.optimizer.state[parameter][slot] = value
        for group, saved_group in zip(self.optimizer.param_groups, options, strict=True):
            group.update(
                {k: tuple(v) if isinstance(v, list) else v for k, v in saved_group.items() if k in group}
            )
