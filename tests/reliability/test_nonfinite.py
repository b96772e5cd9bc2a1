"""A bad number stops the run before the update, whatever it is in."""

import pytest
from benchmarks.reliability import nonfinite

RUNS = list(nonfinite.RUNS)
CASES = [
    nonfinite.Case("pixel", "NaN", RUNS[2]),  # in the third of four micro-batches
    nonfinite.Case("pixel", "infinity", RUNS[0]),  # spread by mixup
    nonfinite.Case("weight", "infinity", RUNS[1]),
    nonfinite.Case("gradient", "NaN", RUNS[2]),  # clipping must not hide which one
    nonfinite.Case("buffer", "NaN", RUNS[1]),
    nonfinite.Case("learning rate", "1e30", RUNS[0]),
    nonfinite.Case("nothing", "nothing", RUNS[1]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_stopped_before_the_update(case, tmp_path):
    assert nonfinite.check(case, tmp_path) == []


def test_control_an_unguarded_step_is_noticed(tmp_path, monkeypatch):
    from isopatch.training import guard

    monkeypatch.setattr(guard, "check_gradients", lambda *arguments: None)
    problems = nonfinite.check(nonfinite.Case("gradient", "NaN", RUNS[1]), tmp_path)
    assert "the parameters changed" in problems
