"""Forward passes through PyTorch: eager, and compiled as fast as torch.compile makes them."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from isopatch.bench.modules import autocast, finish, module_of, placed
from isopatch.bench.runner import Runner, in_batches
from isopatch.bench.setting import Setting, Task
from isopatch.bench.subject import Subject


def forward_runner(setting: Setting, task: Task, subject: Subject) -> Runner:
    """Build an eager or compiled forward pass of a batch; raises what `module_of` raises."""
    module, _, note = module_of(setting, task, subject)
    module.eval().requires_grad_(False)
    x = placed(subject.pictures(task.batch), setting, task)
    run: Callable[[Tensor], Tensor] = module
    if setting.contender == "timm-compile":
        run = compiled(module, x, task)

    def forward(pictures: Tensor) -> Tensor:
        # torch.compile freezes weights where gradients are off; inference mode would be another graph.
        with torch.no_grad(), autocast(setting, task):
            return run(pictures)

    def call() -> None:
        forward(x)
        finish(task)

    def logits(pictures: Tensor) -> Tensor:
        return in_batches(lambda part: forward(placed(part, setting, task)), pictures, task.batch)

    return Runner(setting, call, task.batch, logits=logits, note=note)


def compiled(module: nn.Module, x: Tensor, task: Task) -> Callable[[Tensor], Tensor]:
    """Compile for one shape: weights frozen, kernels chosen by measurement; on a GPU with CUDA graphs too."""
    import torch._inductor.config as inductor

    options: dict[str, Any] = {"freezing": True, "max_autotune": True}
    if task.device == "cuda":
        options["triton.cudagraphs"] = True
    with inductor.patch(options), torch.no_grad(), quiet_compiler():
        run: Callable[[Tensor], Tensor] = torch.compile(module, fullgraph=True, dynamic=False)
        run(x)
    return run


@contextlib.contextmanager
def quiet_compiler() -> Iterator[None]:
    """Silence what the compiler says about its own parts, and let it hold every contender's code at once."""
    import torch._dynamo.config as dynamo

    torch_log = logging.getLogger("torch")
    level = torch_log.level
    torch_log.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stderr(io.StringIO()),  # its table of measured choices
            dynamo.patch(recompile_limit=1000, accumulated_recompile_limit=1000),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch_log.setLevel(level)
