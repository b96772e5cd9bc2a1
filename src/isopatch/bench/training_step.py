"""Training steps through PyTorch: forward, loss, backward, AdamW; eager or compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from isopatch.bench.forward import quiet_compiler
from isopatch.bench.modules import autocast, finish, module_of, placed
from isopatch.bench.runner import Runner
from isopatch.bench.setting import Setting, Task
from isopatch.bench.subject import Subject


def training_runner(setting: Setting, task: Task, subject: Subject) -> Runner:
    """Build a training step of a batch; raises what `module_of` raises.

    The optimiser is PyTorch's fused AdamW for everybody; its learning rate is so small that a run of any
    length times the same weights.
    """
    module, names, note = module_of(setting, task, subject)
    module.train()
    run: Callable[[Tensor], Tensor] = module
    if setting.contender == "timm-compile":
        run = torch.compile(module, fullgraph=True, dynamic=False)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-7, weight_decay=0.05, fused=True)
    x = placed(subject.pictures(task.batch), setting, task)
    labels = subject.labels(task.batch).to(task.device)

    def backward() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(setting, task):
            loss = F.cross_entropy(run(x), labels)
        loss.backward()  # type: ignore[no-untyped-call]

    def call() -> None:
        backward()
        optimizer.step()
        finish(task)

    def gradients() -> Mapping[str, Tensor]:
        backward()
        named = module.named_parameters()
        return names({name: p.grad.detach() for name, p in named if p.grad is not None})

    if setting.contender == "timm-compile":
        with quiet_compiler():
            backward()
    return Runner(setting, call, task.batch, gradients=gradients, note=note)
