"""ConvMixer on a GPU: the Triton kernels against timm's best, images per second, inference and training.

Claim: ConvMixer-1536/20 and 768/32, inference and training, at least 2 times timm's best of eager and
torch.compile (max-autotune), contiguous and channels_last, bf16 and fp16 (aim 4 times). ConvMixer-256/8 k9 p1
at 32 x 32, training, is reported beside them. All contenders of a case stand in one process and take turns;
medians, with spread. Ours is checked against its own plain model first. A batch that does not fit is halved
for all; a contender that fails is recorded with its error and takes no part.
Hardware: one CUDA GPU of compute capability 8.0 or newer; without one it says "not measured". It has not been
run on a GPU yet. Time: about an hour, nearly all of it torch.compile; `--no-compile` 10 minutes.
Command: python -m benchmarks.speed_gpu
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from benchmarks.common import parser, record, spread
from torch import Tensor, nn
from torch.nn import functional as F

FLOOR, AIM = 2.0, 4.0
WARM_UP = 3
CONTENDER_SECONDS = 0.3  # least time of one turn: several steps where one is short
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
MOST_DIFFERENCE = 0.05  # of the largest logit: far above what bf16 rounds away, far below a wrong kernel's


@dataclass(frozen=True)
class Case:
    name: str
    train: bool
    batch: int
    dim: int
    depth: int
    kernel_size: int
    patch_size: int
    image_size: int
    activation: str = "gelu"
    num_classes: int = 1000
    floor: bool = True


CASES = (
    Case("1536/20", False, 128, 1536, 20, 9, 7, 224),
    Case("1536/20", True, 64, 1536, 20, 9, 7, 224),
    Case("768/32", False, 256, 768, 32, 7, 7, 224, "relu"),
    Case("768/32", True, 128, 768, 32, 7, 7, 224, "relu"),
    Case("256/8 k9 p1", True, 512, 256, 8, 9, 1, 32, num_classes=10, floor=False),
)

DRY = tuple(
    replace(case, batch=2, dim=8, depth=1, kernel_size=3, patch_size=2, image_size=4, num_classes=3)
    for case in CASES[:2]
)


def main() -> int:
    """Run every case."""
    options = parser(__doc__, n=7)
    options.add_argument(
        "--dry", action="store_true", help="tiny shapes on the CPU, kernels in the interpreter"
    )
    options.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    options.add_argument("--only", default="", help="cases whose name contains this")
    given = options.parse_args()
    if not given.dry and not torch.cuda.is_available():
        print("speed_gpu: not measured: no CUDA GPU")
        return 0
    if given.dry:
        os.environ["TRITON_INTERPRET"] = "1"
    started = time.monotonic()
    torch.manual_seed(given.seed)
    device = torch.device("cpu" if given.dry else "cuda")
    chosen = [case for case in (DRY if given.dry else CASES) if given.only in case.name]
    rows = [_fitting(case, given.n, device, compiles=not given.no_compile) for case in chosen]
    judged = [row["ratio"] for row in rows if row["floor"]]
    return record(
        "speed_gpu_dry" if given.dry else "speed_gpu",
        claim=f"ConvMixer on a GPU at least {FLOOR:g} times timm's best (aim {AIM:g})",
        measured="; ".join(
            f"{row['case']} {row['what']} {row['ratio']} times {row['best_peer']}" for row in rows
        ),
        figure={f"{row['case']} {row['what']}": row["ratio"] for row in rows},
        passed=given.dry or all(ratio is not None and ratio >= FLOOR for ratio in judged),
        n=given.n,
        seed=given.seed,
        started=started,
        out=given.out,
        gpu=None if given.dry else torch.cuda.get_device_name(),
        floor=FLOOR,
        aim=AIM,
        rows=rows,
    )


def _fitting(case: Case, n: int, device: torch.device, *, compiles: bool) -> dict[str, Any]:
    """Measure a case with the largest batch, halved as often as needed, that every contender has room for."""
    while True:
        try:
            return _case(case, n, device, compiles=compiles)
        except torch.cuda.OutOfMemoryError:
            if case.batch == 1:
                raise
        torch.cuda.empty_cache()
        case = replace(case, batch=case.batch // 2)


def _case(case: Case, n: int, device: torch.device, *, compiles: bool) -> dict[str, Any]:
    images = torch.randn(case.batch, 3, case.image_size, case.image_size, device=device)
    labels = torch.randint(case.num_classes, (case.batch,), device=device)
    makers = _contenders(case, images, labels, compiles=compiles)
    if compiles:
        torch.compiler.reset()  # dynamo gives up after compiling one function for eight models
    runs: dict[str, Callable[[], object]] = {}
    failed: dict[str, str] = {}
    inner: dict[str, int] = {}
    for name, make in makers.items():
        try:
            run = make()
            for _ in range(WARM_UP):
                run()
            seconds = _seconds(run, 1, device)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # whatever torch.compile raises: the others go on
            if name.startswith("isopatch"):
                raise
            make.model = nn.Identity()
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[:1]}"
            continue
        runs[name] = run
        inner[name] = (
            max(1, min(100, int(CONTENDER_SECONDS / max(seconds, 1e-6)))) if device.type == "cuda" else 1
        )
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(n):
        for name, run in runs.items():
            speeds[name].append(case.batch * inner[name] / _seconds(run, inner[name], device))
    middle = {name: statistics.median(values) for name, values in speeds.items()}
    ours = max(value for name, value in middle.items() if name.startswith("isopatch"))
    peers = {name: value for name, value in middle.items() if name.startswith("timm")}
    best = max(peers, key=peers.__getitem__, default=None)
    return {
        "case": case.name,
        "what": "training" if case.train else "inference",
        "floor": case.floor,
        "batch": case.batch,
        "ratio": round(ours / peers[best], 2) if best else None,
        "best_peer": best,
        "images_per_second": {name: spread(values) for name, values in speeds.items()},
        "failed": failed,
        "forms": _chosen_forms(makers["isopatch bf16"]),
    }


def _seconds(run: Callable[[], object], times: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class _Contender:
    """A model and how it is run; built when first called, so that one that does not fit ends alone."""

    def __init__(
        self, build: Callable[[], nn.Module], case: Case, images: Tensor, labels: Tensor, half: str
    ) -> None:
        self.build, self.case, self.images, self.labels = build, case, images, labels
        self.half = HALF[half]
        self.model: nn.Module = nn.Identity()

    def __call__(self) -> Callable[[], object]:
        self.model = self.build()
        if not self.case.train:
            return self.infer
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=self.images.is_cuda)
        return self.train

    def infer(self) -> Tensor:
        with torch.inference_mode(), torch.autocast(self.images.device.type, dtype=self.half):
            result: Tensor = self.model(self.images)
        return result

    def train(self) -> None:
        """One step; fp16's loss is scaled by a constant, without the scaler's bookkeeping."""
        scale = 1024.0 if self.half == torch.float16 else 1.0
        with torch.autocast(self.images.device.type, dtype=self.half):
            loss = F.cross_entropy(self.model(self.images).float(), self.labels)
        (loss * scale).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _contenders(case: Case, images: Tensor, labels: Tensor, *, compiles: bool) -> dict[str, _Contender]:
    """Ours in both half types; timm in both, both layouts, eager and compiled."""
    made: dict[str, _Contender] = {}
    last = images.to(memory_format=torch.channels_last)
    for half in HALF:
        made[f"isopatch {half}"] = _Contender(
            functools.partial(_ours, case, images, half), case, last, labels, half
        )
    modes = ("eager", "compile") if compiles else ("eager",)
    for half in HALF:
        for layout in (torch.contiguous_format, torch.channels_last):
            for mode in modes:
                given = last if layout == torch.channels_last else images
                if not case.train:
                    given = given.to(HALF[half])  # weights too: no casts to pay for
                build = functools.partial(_timm, case, given, layout, mode)
                name = f"timm {mode} {str(layout).removeprefix('torch.')} {half}"
                made[name] = _Contender(build, case, given, labels, half)
    return made


def _timm(case: Case, images: Tensor, layout: torch.memory_format, mode: str) -> nn.Module:
    from timm.models.convmixer import ConvMixer

    model: nn.Module = ConvMixer(
        case.dim,
        case.depth,
        kernel_size=case.kernel_size,
        patch_size=case.patch_size,
        num_classes=case.num_classes,
        act_layer=nn.ReLU if case.activation == "relu" else nn.GELU,
    )
    model = model.to(images.device, images.dtype, memory_format=layout).train(case.train)
    if mode == "eager":
        return model
    if images.is_cuda:
        return torch.compile(model, mode="max-autotune")  # type: ignore[return-value]
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def _ours(case: Case, images: Tensor, half: str) -> nn.Module:
    """Build ours, check it against its plain self in float32, and put the twin in."""
    from isopatch.kernels import swap
    from isopatch.kernels.triton.blocks import TritonConvMixer
    from isopatch.models.convmixer import convmixer

    model = convmixer(
        dim=case.dim,
        depth=case.depth,
        kernel_size=case.kernel_size,
        patch_size=case.patch_size,
        image_size=case.image_size,
        num_classes=case.num_classes,
        activation="relu" if case.activation == "relu" else "gelu",
    ).to(images.device)
    some = images[:2]
    with torch.no_grad():
        model.train()
        model(some)  # running statistics that belong to the weights
        wanted = model.eval()(some)
    swap(model, kernels="triton", precision="bf16")
    assert isinstance(model.blocks, TritonConvMixer)
    model.blocks.dtype = HALF[half]
    with torch.no_grad():
        difference = float((model(some).float() - wanted).abs().max() / wanted.abs().max())
    if not difference < MOST_DIFFERENCE:
        sys.exit(
            f"speed_gpu: {case.name}: twin and plain model differ by {difference:.3g} of the largest logit"
        )
    return model.train(case.train)


def _chosen_forms(contender: _Contender) -> dict[str, dict[str, str]]:
    from isopatch.kernels.triton.choose import recorded

    return recorded(contender.model)


if __name__ == "__main__":
    raise SystemExit(main())
