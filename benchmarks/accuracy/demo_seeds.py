"""The demo with three seeds.

Claim: the lowest of the seeds is ConvMixer >= 98.5 %, ViT >= 95 % on the fixed test split of the digits, each
demo under 90 seconds on 2 cores.
The settings were chosen on validation cuts of the training split (demo_choice). An earlier choice was made
while looking at this test split with seeds 0 to 2 (its first form had missed the floor there with 93.6 %), so
the figure is taken with seeds that no choice has seen: 10, 11 and 12.
Hardware: 2 CPU cores. Time: about 3 minutes.
Command: python -m benchmarks.accuracy.demo_seeds --seed 10 [--n 3]
"""

from __future__ import annotations

import json
import sys
import time

from benchmarks.common import Child, isopatch, parser, record, spread, workspace

FLOORS = {"convmixer": 0.985, "vit": 0.95}
LIMIT = 90.0


def main() -> int:
    """Run the demo with every seed and record the accuracies."""
    arguments = parser(__doc__, n=3).parse_args()
    started = time.monotonic()
    demos, seconds = [], []
    with workspace("demo") as folder:
        for seed in range(arguments.seed, arguments.seed + arguments.n):
            command = isopatch("demo", "--seed", str(seed), "--out", str(folder / "demo"), "--json")
            done = Child(command, cwd=folder, threads=2).wait(600)
            if done.code:
                raise SystemExit(f"the demo ended with code {done.code}: {done.stderr[-2000:]}")
            demos.append(json.loads(done.stdout)["accuracies"])
            seconds.append(done.seconds)
            print(f"seed {seed}: {demos[-1]} in {done.seconds:.0f} s")
    lowest = {name: round(min(demo[name] for demo in demos), 4) for name in demos[0]}
    return record(
        "demo",
        claim="`isopatch demo`, lowest of 3 seeds: ConvMixer >= 98.5 %, ViT >= 95 %, under 90 s on 2 cores",
        measured=f"{', '.join(f'{name} {top1:.2%}' for name, top1 in lowest.items())}; {max(seconds):.0f} s",
        figure={**lowest, "seconds": round(max(seconds), 1)},
        passed=all(lowest[name] >= floor for name, floor in FLOORS.items()) and max(seconds) < LIMIT,
        n=arguments.n,
        seed=arguments.seed,
        started=started,
        out=arguments.out,
        demos=demos,
        seconds_each=spread(seconds),
    )


if __name__ == "__main__":
    sys.exit(main())
