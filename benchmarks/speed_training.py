"""One training step (forward, loss, backward, AdamW) beside timm eager and torch.compile, in one process.

Claim: the floors below, as ratios of medians of rounds, every contender at its best setting (layout, fp32 or
bf16 autocast, 1 or 2 threads).
Control: a contender whose gradients deviate from the plain model's in fp32 is not timed (`tests/bench`).
Hardware: 2 quiet CPU cores. Time: 5 to 15 minutes a row.
Command: python -m benchmarks.speed_training [ROW ...]
"""

from __future__ import annotations

from benchmarks.speed import Row, main

ROWS = (
    Row("convmixer-256-8-k5-p2", "convmixer_256_8_ks5_p2", "train", 128, 6.0, 15.0, image_size=32),
    Row("convmixer-256-8-k9-p1", "convmixer_256_8_ks9_p1", "train", 128, 12.0, 30.0, image_size=32),
    Row(
        "vit-ti-4",
        "vit_tiny_patch16_224",
        "train",
        128,
        1.2,
        3.0,
        image_size=32,
        arguments={"patch_size": 4, "num_classes": 10},
    ),
)

if __name__ == "__main__":
    raise SystemExit(main(__doc__, ROWS))
