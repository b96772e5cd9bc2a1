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

LIFT = 2.0  # standard deviations
CHECKED = 4  # pictures that logits are compared on
_RATES = ("dropout", "drop_path")  # what makes two training steps differ that should not


@dataclass
class Subject:
    """A model in eval mode on the CPU, in fp32; what is drawn at random is drawn from `seed`.

    source: as it was asked for. fresh: a name with weights made here, not a checkpoint.
    """

    source: str
    fresh: bool
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

    @property
    def accuracy(self) -> list[dict[str, Any]]:
        """Published accuracies of the name, where nothing of the model was changed."""
        if not self.fresh or not self.facts["accuracy"]:
            return []
        held, own = self.spec.arguments, make_spec(self.source, {}).arguments
        same = all(held[key] == own[key] for key in held if key not in _RATES)
        return list(self.facts["accuracy"]) if same else []

    def pictures(self, batch: int) -> Tensor:
        """Return coloured shapes and noise as pictures (batch, C, H, W)."""
        return _pictures(self.spec, batch, self.seed)

    def labels(self, batch: int) -> Tensor:
        """Return a class for each picture (batch,)."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randint(self.spec.arguments["num_classes"], (batch,), generator=generator)

    @cached_property
    def logits(self) -> Tensor:
        """What the plain model says of `pictures(CHECKED)`."""
        with torch.no_grad():
            logits: Tensor = self.model(self.pictures(CHECKED))
        return logits

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
    return Subject(source, named, model.eval(), seed)


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
    multiply slowly: they are measured here, on such pictures. A classifier of zeros, or a branch scaled by
    1e-6, would hide every error before it: zero matrices become small, small scales 0.1. And BatchNorm over
    activations of centred random numbers multiplies any difference by 1.2 in every layer, so that 32 blocks
    turn bf16's rounding into noise (measured: logits 76 % off): activations get inputs that are mostly
    positive, two standard deviations above zero, where that factor is 1.01. All values are numbers that bf16
    has: what a contender deviates by is its arithmetic, not the rounding of weights that nobody trained.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            values = parameter.detach()
            if values.dim() >= 2 and not values.any():
                nn.init.normal_(parameter, std=0.02)
            elif values.dim() == 1 and name != "bias" and values.abs().max() < 0.1:
                nn.init.constant_(parameter, 0.1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(_rounded(parameter))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if norms:
        _settle_norms(model, norms, seed)


def _settle_norms(model: Classifier, norms: list[nn.BatchNorm2d], seed: int) -> None:
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average of what is seen
        if any(convolution.bias is None for convolution in convolutions):  # the norm precedes the activation
            nn.init.constant_(norm.bias, LIFT)
    # A convolution with a bias hands it to the activation itself, as in ConvMixer.
    lifted = [convolution.register_forward_hook(_lift) for convolution in convolutions]
    model.train()
    with torch.no_grad():
        model(_pictures(model.spec, 8, seed + 1))
    for hook in lifted:
        hook.remove()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(_rounded(norm.running_mean))
        norm.running_var.copy_(_rounded(norm.running_var))
    model.eval()


def _rounded(values: Tensor) -> Tensor:
    return values.to(torch.bfloat16).to(values.dtype)


def _lift(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    """Raise a convolution's bias by two standard deviations of its output, and this output with it."""
    assert isinstance(module, nn.Conv2d)
    if module.bias is None:
        return None
    before = module.bias.clone()
    module.bias.copy_(_rounded(before + LIFT * output.std()))
    return output + (module.bias - before)[:, None, None]


def _pictures(spec: ModelSpec, batch: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    channels, size = spec.arguments["in_channels"], (spec.input.height, spec.input.width)
    # Noise alone would average to nothing in a head that pools: pictures have colours and shapes.
    shapes = torch.randn(batch, channels, 3, 3, generator=generator)
    smooth = F.interpolate(shapes, size=size, mode="bilinear", align_corners=True)
    return smooth + 0.5 * torch.randn(batch, channels, *size, generator=generator)
