"""The measuring loop: contenders in turn, rounds interleaved in an order drawn from a seed."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

TURN_SECONDS = 0.5  # of one contender in one round, at least; one call where that takes longer
WARM_UP_BELOW = 1.0  # seconds: a call as long as this gains nothing from one before it
COLD = 2  # calls
KEEP_ABOVE = 0.5  # of the fastest setting of the same group


@dataclass
class Entrant:
    """Something that takes its turn.

    call: does `work` (pictures, or operations). group: settings of one group compete, and after the first
    round only those with at least KEEP_ABOVE of their best go on; None always does. rates: work per second of
    each round, NaN where it no longer took part.
    """

    call: Callable[[], None]
    work: float
    threads: int
    group: str | None = None
    rates: list[float] = field(default_factory=list)

    def turn(self, at_least: float, *, cold: bool = False) -> None:
        """Call once to warm up, then for a while, and note the rate. A call that is long counts at once.

        cold: the memory it works in is new to the process. Then COLD calls do not count: of a training step's
        blocks the second call does not find all where the first one had them.
        """
        torch.set_num_threads(self.threads)
        for _ in range(COLD if cold else 0):
            self.call()
        start = time.perf_counter()
        self.call()
        seconds = time.perf_counter() - start
        calls = 1
        if seconds < WARM_UP_BELOW:
            calls, seconds, start = 0, 0.0, time.perf_counter()
        while calls == 0 or seconds < at_least:
            self.call()
            calls += 1
            seconds = time.perf_counter() - start
        self.rates.append(self.work * calls / seconds)


def take_turns(
    entrants: Sequence[Entrant],
    *,
    rounds: int,
    seed: int,
    turn_seconds: float = TURN_SECONDS,
    before: Callable[[], bool] = lambda: False,
    between: Callable[[int], None] = lambda _: None,
) -> None:
    """Let every entrant have one turn in each round.

    before: called ahead of each turn; says whether this one starts cold. between: is told how many rounds are
    done.
    """
    order = random.Random(seed)
    running = list(entrants)
    for number in range(rounds):
        order.shuffle(running)
        for entrant in running:
            entrant.turn(turn_seconds, cold=before())
        for entrant in entrants:
            if len(entrant.rates) <= number:
                entrant.rates.append(float("nan"))
        if number == 0:
            running = [entrant for entrant in running if _goes_on(entrant, entrants)]
        between(number + 1)


def _goes_on(entrant: Entrant, entrants: Sequence[Entrant]) -> bool:
    if entrant.group is None:
        return True
    best = max(other.rates[0] for other in entrants if other.group == entrant.group)
    return entrant.rates[0] >= KEEP_ABOVE * best


def call_times(
    call: Callable[[], None], *, threads: int, seconds: float, limit: float = 20.0, most: int = 200
) -> list[float]:
    """Return how long single calls take: a hundred and for `seconds`, but ten at least and `most` at most.

    A percentile near 1 needs a hundred; calls that take `limit` seconds before that are fewer.
    """
    torch.set_num_threads(threads)
    call()
    times: list[float] = []
    while len(times) < 10 or (len(times) < most and sum(times) < (limit if len(times) < 100 else seconds)):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the smallest and the largest value, and the sample standard deviation from two values on."""
    found = {"min": min(values), "max": max(values)}
    if len(values) > 1:
        found["std"] = statistics.stdev(values)
    return found
