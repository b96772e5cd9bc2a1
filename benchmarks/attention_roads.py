"""Attention of short sequences on the CPU: PyTorch's fused kernel against two products and a softmax.

Claim: in bf16 the products are faster, forward and backward, at every length isopatch sends that way
(`isopatch.nn.attend`); float32 is recorded beside it, where neither wins everywhere. One thread, both roads
in turn in one process.
Hardware: any CPU. Time: one minute.
Command: python -m benchmarks.attention_roads
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.common import parser, record, spread
from torch import Tensor
from torch.nn import functional as F

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

# (batch, heads, tokens, d) and where such a shape is found
SHAPES = {
    (128, 3, 17, 64): "ViT-Ti/8 at 32",
    (128, 4, 65, 32): "DeiT 128 wide, patch 4 at 32",
    (128, 3, 65, 64): "ViT-Ti/4 at 32",
    (32, 3, 197, 64): "DeiT-Ti at 224",
    (16, 6, 197, 64): "DeiT-S at 224",
    (8, 12, 577, 64): "DeiT-B at 384",
    (4, 6, 1024, 64): "DeiT-S at patch 7, without its class token",
}


def products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention written out."""
    return ((query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)).softmax(-1) @ value


def main() -> int:
    """Time every shape in both types."""
    given = parser(__doc__, n=7).parse_args()
    started = time.monotonic()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    rows = [
        _row(shape, where, dtype, given.n)
        for shape, where in SHAPES.items()
        for dtype in (torch.bfloat16, torch.float32)
    ]
    half = [row for row in rows if row["dtype"] == "bfloat16"]
    ratios = [row["ratio_training"] for row in half]
    return record(
        "attention_roads",
        claim="bf16 attention by products at least as fast as the fused kernel, training and inference",
        measured=f"bf16 training {min(ratios)}-{max(ratios)} times as fast, {len(half)} shapes; inference "
        f"{min(row['ratio_inference'] for row in half)}-{max(row['ratio_inference'] for row in half)}",
        figure={"fused_over_products": {f"{r['shape']} {r['dtype']}": r["ratio_training"] for r in rows}},
        passed=all(row["ratio_training"] >= 1 and row["ratio_inference"] >= 1 for row in half),
        n=given.n,
        seed=given.seed,
        started=started,
        out=given.out,
        threads=1,
        rows=rows,
    )


def _row(shape: tuple[int, ...], where: str, dtype: torch.dtype, n: int) -> dict[str, Any]:
    roads: dict[str, Attend] = {"fused": F.scaled_dot_product_attention, "products": products}
    query, key, value = (torch.randn(shape).to(dtype).requires_grad_() for _ in range(3))
    direction = torch.randn(shape).to(dtype)
    seconds: dict[str, list[float]] = {f"{road} {what}": [] for road in roads for what in ("train", "infer")}
    for turn in range(n + 1):
        for road, attend in roads.items():
            start = time.perf_counter()
            attend(query, key, value).backward(direction)
            trained = time.perf_counter()
            with torch.no_grad():
                attend(query, key, value)
            if turn:  # the first turn warms up
                seconds[f"{road} train"].append(trained - start)
                seconds[f"{road} infer"].append(time.perf_counter() - trained)
    middle = {key: statistics.median(values) for key, values in seconds.items()}
    return {
        "shape": "x".join(map(str, shape)),
        "where": where,
        "dtype": str(dtype).removeprefix("torch."),
        "ratio_training": round(middle["fused train"] / middle["products train"], 2),
        "ratio_inference": round(middle["fused infer"] / middle["products infer"], 2),
        "milliseconds": {key: spread([1000 * value for value in values]) for key, values in seconds.items()},
    }


if __name__ == "__main__":
    raise SystemExit(main())
