"""A run killed in a save ends with the bits of an unbroken one; one that forgets its position does not."""

import pytest
from benchmarks.common import fingerprint
from benchmarks.reliability import resume_kills
from benchmarks.reliability.small_runs import CONFIGURATIONS, train_arguments
from benchmarks.reliability.wrapped import arranged

VIT, CONVMIXER = list(CONFIGURATIONS)[:2]
EPOCHS = 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An unbroken run: what every resumed one is compared with."""
    import contextlib
    import io

    from isopatch.cli import main

    path = tmp_path_factory.mktemp("whole") / "run"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(train_arguments(VIT, out=str(path), epochs=EPOCHS, every_steps=5)) == 0
    return fingerprint(path)


def test_killed_in_a_save_and_resumed(tmp_path, whole):
    made = resume_kills.Reference(VIT, EPOCHS, 5, 3.0, whole)
    outcome = resume_kills.survive(tmp_path, "x", made, [resume_kills.Kill(0.3, in_save=True)], seed=0)
    assert outcome.identical, (outcome.differing, outcome.error)
    assert [kill.phase for kill in outcome.kills] == ["save"]


@pytest.mark.parametrize("forget", [False, True])
def test_control_the_comparison_notices_a_forgotten_position(tmp_path, whole, train, forget):
    arguments = train_arguments(VIT, out=str(tmp_path / "run"), epochs=EPOCHS, every_steps=5, resume="auto")
    assert train(arguments, "--max-minutes", "1e-6") == 75
    with arranged({"forget_position": forget}):
        assert train(arguments) == 0
    assert (fingerprint(tmp_path / "run") == whole) is not forget


def test_plans_reach_their_shares():
    for n in (3, 20):
        kills = [kill for plan in resume_kills.plan_kills(n, seed=0) for kill in plan]
        assert 3 * sum(kill.in_save for kill in kills) >= len(kills)
        assert all(1 <= len(plan) <= 3 for plan in resume_kills.plan_kills(n, seed=0))
