"""Inference beside timm eager, torch.compile, OpenVINO and ONNX Runtime: same weights, one process, in turn.

Claim: the floors below, as ratios of medians of rounds, every contender at its best setting (layout, fp32 or
bf16, 1 or 2 threads, compiled with frozen weights and max-autotune, latency and throughput hints).
Control: a contender whose logits deviate from the plain model in fp32 is not timed (`tests/bench`).
Hardware: 2 quiet CPU cores. Time: 5 to 15 minutes a row, most of it torch.compile; the 1536/20 rows longer.
Command: python -m benchmarks.speed_inference [ROW ...]
"""

from __future__ import annotations

from benchmarks.speed import Row, main

ROWS = (
    Row("convmixer-768-32", "convmixer_768_32", "infer", 8, 1.7, 3.0),
    Row("convmixer-768-32-batch-1", "convmixer_768_32", "infer", 1, None, None),
    Row("convmixer-1536-20", "convmixer_1536_20", "infer", 8, 2.5, 4.0),
    Row("convmixer-1536-20-batch-1", "convmixer_1536_20", "infer", 1, None, None),
    Row("deit-ti", "deit_tiny_patch16_224", "infer", 8, 1.0, 2.0, timm_bf16=1.3),
    Row("deit-s", "deit_small_patch16_224", "infer", 8, 1.0, 2.0, timm_bf16=1.3),
)

if __name__ == "__main__":
    raise SystemExit(main(__doc__, ROWS))
