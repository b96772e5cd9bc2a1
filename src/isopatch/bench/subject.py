"""The model that is measured: its weights, its pictures, and what the plain fp32 model makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isopatch.bench.setting import Layout
from isopatch.models.describe import describe_spec
from isopatch.models.external.names import is_external
from isopatch.models.load import load
from isopatch.models.spec import ModelSpec, build, make_spec
from isopatch.models.table import ALIASES, MODELS
from isopatch.nn.classifier import Classifier

CHECKED = 4  # pictures that logits are compared on
_RATES = ("dropout", "drop_path")  # what makes two training steps differ that should not


@dataclass
class Subject:
    """A model in eval mode on the CPU, in fp32, with everything that is drawn at random drawn from `seed`."""

    source: str
    model: Classifier
    seed: int
    _gradients: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        spec: ModelSpec = self.model.spec
        return spec

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Name, parameters, multiply-adds, published accuracies; see `isopatch.models.describe`."""
        return describe_spec(self.spec)

    def pictures(self, batch: int) -> Tensor:
        """Return noise as pictures (batch, C, H, W)."""
        return _pictures(self.spec, batch, self.seed)

    def labels(self, batch: int) -> Tensor:
        """Return a class for each picture (batch,)."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randint(self.spec.arguments["num_classes"], (batch,), generator=generator)

    @cached_property
    def logits(self) -> Tensor:
        """What the plain model says of `pictures(CHECKED)`."""
        with torch.no_grad():
            return self.model(self.pictures(CHECKED))

    def gradients(self, batch: int) -> dict[str, Tensor]:
        """The plain model's gradient of the loss of a training step, by name; computed once for a batch."""
        if batch not in self._gradients:
            self._gradients[batch] = self._step(batch)
        return self._gradients[batch]

    def _step(self, batch: int) -> dict[str, Tensor]:
        before = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        self.model.train()
        loss = F.cross_entropy(self.model(self.pictures(batch)), self.labels(batch))
        named = dict(self.model.named_parameters())
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        self.model.eval()
        for name, buffer in self.model.named_buffers():
            buffer.copy_(before[name])
        return {name: grad for name, grad in zip(named, found, strict=True) if grad is not None}

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        """Memory layouts that can make a difference: one, where only the stem convolves."""
        convolutions = sum(isinstance(module, nn.Conv2d) for module in self.model.modules())
        return ("nchw", "channels_last") if convolutions > 1 else ("nchw",)


def open_subject(
    source: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    arguments: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Subject:
    """Return a name of `isopatch models list` (or timm:NAME) with weights drawn here, or a checkpoint.

    A name goes before a folder that is called the same; `./vit` is the folder. Dropout and drop path are off.
    Raises what `make_spec` and `load` raise.
    """
    given = dict(arguments or {})
    if image_size is not None:
        given["image_size"] = image_size
    named = source in MODELS or source in ALIASES or (is_external(source) and not Path(source).exists())
    if not named and not Path(source).exists() and "/" not in source and ":" not in source:
        make_spec(source, {})  # says which name is nearest
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if named:
            model = _without_dropout(build(make_spec(source, given)))
            settle(model, seed)
        else:
            model = _without_dropout(load(source, arguments=given))
    return Subject(source, model.eval(), seed)


def _without_dropout(model: Classifier) -> Classifier:
    """The same model with its rates of dropout at 0, so that every step of every contender is the same."""
    spec: ModelSpec = model.spec
    off = {key: 0.0 for key in _RATES if spec.arguments.get(key)}
    if not off:
        return model
    calm = build(replace(spec, arguments={**spec.arguments, **off}))
    calm.load_state_dict(model.state_dict())
    return calm


def settle(model: Classifier, seed: int) -> None:
    """Make fresh weights behave as trained ones do in what speed and comparisons depend on.

    Fresh BatchNorm statistics let a deep ConvMixer's activations shrink to denormal numbers, which CPUs
    multiply slowly, and a classifier of zeros, or a branch scaled by 1e-6, would hide every error before it.
    Statistics are measured on noise; zero matrices become small, small scales 0.1.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            values = parameter.detach()
            if values.dim() >= 2 and not values.any():
                nn.init.normal_(parameter, std=0.02)
            elif values.dim() == 1 and name != "bias" and values.abs().max() < 0.1:
                nn.init.constant_(parameter, 0.1)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average of what is seen
    model.train()
    with torch.no_grad():
        model(_pictures(model.spec, 8, seed + 1))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def _pictures(spec: ModelSpec, batch: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, spec.arguments["in_channels"], spec.input.height, spec.input.width)
    return torch.randn(shape, generator=generator)
