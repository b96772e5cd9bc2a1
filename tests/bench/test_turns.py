"""The measuring loop: everybody in every round, in a drawn order; hopeless settings leave after the first."""

from __future__ import annotations

import math

import pytest
import torch

from isopatch.bench import turns
from isopatch.bench.turns import COLD, Entrant, call_times, percentile, spread, take_turns


class Fake:
    """A contender that takes `seconds` by the clock that it moves itself."""

    now = 0.0

    def __init__(self, name: str, seconds: float, log: list[str]) -> None:
        self.name, self.seconds, self.log = name, seconds, log

    def __call__(self) -> None:
        self.log.append(self.name)
        Fake.now += self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns.time, "perf_counter", lambda: Fake.now)


@pytest.mark.usefixtures("clock")
def test_rates_are_work_over_time_and_each_round_has_everybody() -> None:
    log: list[str] = []
    entrants = [Entrant(Fake(name, 1.0, log), work=8, threads=1, group=name) for name in "abcd"]
    take_turns(entrants, rounds=6, seed=0, turn_seconds=0.0)
    assert all(entrant.rates == [8.0] * 6 for entrant in entrants)
    rounds = [log[start : start + 4] for start in range(0, 24, 4)]
    assert all(sorted(names) == list("abcd") for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1  # shuffled, not always the same order


@pytest.mark.usefixtures("clock")
def test_the_order_depends_on_the_seed_alone() -> None:
    def order(seed: int) -> list[str]:
        log: list[str] = []
        entrants = [Entrant(Fake(name, 2.0, log), 1, 1) for name in "abcdef"]
        take_turns(entrants, rounds=3, seed=seed, turn_seconds=0.0)
        return log

    assert order(1) == order(1) != order(2)


@pytest.mark.usefixtures("clock")
def test_a_setting_far_behind_its_own_best_leaves_after_the_first_round() -> None:
    log: list[str] = []
    fast, slow = (
        Entrant(Fake(name, s, log), 1, 1, group="timm") for name, s in (("fast", 1.0), ("slow", 3.0))
    )
    alone = Entrant(Fake("alone", 9.0, log), 1, 1, group="onnxruntime")  # its only setting: it stays
    matrix = Entrant(Fake("matrix", 9.0, log), 1, 1)
    take_turns([fast, slow, alone, matrix], rounds=3, seed=0, turn_seconds=0.0)
    assert math.isnan(slow.rates[1]) and math.isnan(slow.rates[2]) and slow.rates[0] == pytest.approx(1 / 3)
    assert not any(math.isnan(rate) for entrant in (fast, alone, matrix) for rate in entrant.rates)


@pytest.mark.usefixtures("clock")
def test_a_turn_lasts_as_long_as_it_is_told_after_a_warm_up_that_does_not_count() -> None:
    log: list[str] = []
    entrant = Entrant(Fake("a", 0.25, log), work=2, threads=1)
    entrant.turn(1.0)
    assert len(log) == 1 + 4 and entrant.rates == [8.0]
    slow = Entrant(Fake("slow", 3.0, log), work=3, threads=1)
    slow.turn(1.0)
    assert log.count("slow") == 1 and slow.rates == [1.0]  # a long call is not spent on warming up
    slow.turn(1.0, cold=True)
    assert log.count("slow") == 1 + COLD + 1 and slow.rates == [1.0, 1.0]  # unless it has pages to fault in


@pytest.mark.usefixtures("clock")
def test_a_turn_is_cold_where_memory_was_released_before_it() -> None:
    log: list[str] = []
    cold = iter([True, False])
    take_turns(
        [Entrant(Fake("slow", 3.0, log), 1, 1)], rounds=2, seed=0, turn_seconds=0.0, before=lambda: next(cold)
    )
    assert len(log) == COLD + 1 + 1


def test_threads_are_set_for_each_turn() -> None:
    seen: list[int] = []
    entrants = [Entrant(lambda: seen.append(torch.get_num_threads()), 1, threads) for threads in (1, 2)]
    take_turns(entrants, rounds=1, seed=0, turn_seconds=0.0)
    assert sorted(set(seen)) == [1, 2]


def test_percentiles_are_of_the_values_themselves() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99)) == (50.0, 99.0)
    assert percentile([3.0], 0.99) == 3.0
    assert percentile([1.0, 2.0], 0.99) == 2.0


def test_latencies_are_ten_at_least() -> None:
    assert len(call_times(lambda: None, threads=1, seconds=0.0, limit=0.0)) == 10
    assert len(call_times(lambda: None, threads=1, seconds=0.0)) == 100
    assert len(call_times(lambda: None, threads=1, seconds=60.0, most=25)) == 25


def test_spread() -> None:
    assert spread([2.0]) == {"min": 2.0, "max": 2.0}
    assert spread([1.0, 3.0])["std"] == pytest.approx(2**0.5)
