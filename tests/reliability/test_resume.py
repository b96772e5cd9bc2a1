"""A run killed in a save ends with the bits of an unbroken one; one that forgets its position does not."""

import contextlib
import functools
import io

import pytest
from benchmarks.common import fingerprint
from benchmarks.reliability import resume_kills
from benchmarks.reliability.small_runs import CONFIGURATIONS, train_arguments
from benchmarks.reliability.wrapped import arranged

from isopatch.cli import main

VIT, CONVMIXER = list(CONFIGURATIONS)[:2]
EPOCHS = 3


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Fingerprint of a configuration's unbroken run: what every resumed one is compared with."""

    @functools.cache
    def train_once(name):
        path = tmp_path_factory.mktemp("whole") / "run"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert main(train_arguments(name, out=str(path), epochs=EPOCHS, every_steps=5)) == 0
        return fingerprint(path)

    return train_once


def test_killed_in_a_save_with_workers_and_resumed(tmp_path, unbroken):
    made = resume_kills.Reference(CONVMIXER, EPOCHS, 5, 3.0, unbroken(CONVMIXER))
    outcome = resume_kills.survive(tmp_path, "x", made, [resume_kills.Kill(0.3, in_save=True)], seed=0)
    assert outcome.identical, (outcome.differing, outcome.error)
    (kill,) = outcome.kills
    assert kill.phase in ("save", "after the save's rename")  # which may come between the look and the signal


@pytest.mark.parametrize("forget", [False, True])
def test_control_the_comparison_notices_a_forgotten_position(tmp_path, unbroken, train, forget):
    arguments = train_arguments(VIT, out=str(tmp_path / "run"), epochs=EPOCHS, every_steps=5, resume="auto")
    assert train(arguments, "--max-minutes", "1e-6") == 75
    with arranged({"forget_position": forget}):
        assert train(arguments) == 0
    assert (fingerprint(tmp_path / "run") == unbroken(VIT)) is not forget


def test_a_resumed_run_leaves_no_rubbish(tmp_path, train):
    run = tmp_path / "run"
    arguments = train_arguments(VIT, out=str(run), epochs=1, every_steps=5, resume="auto")
    assert train(arguments, "--max-minutes", "1e-6") == 75
    for name in (".best-0000001-1", "checkpoints/.step-0000002.tmp-1"):  # what kills in the middle leave
        (run / name).mkdir()
        (run / name / "model.safetensors").write_bytes(b"x")
    assert train(arguments) == 0
    assert (run / "best" / "model.safetensors").is_file()
    best = (run / "best").readlink().name
    assert {p.name for p in run.glob(".*")} == {".lock", best}
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"last", "step-0000015", "step-0000020"}


def test_plans_reach_their_shares():
    for n in (3, 20):
        kills = [kill for plan in resume_kills.plan_kills(n, seed=0) for kill in plan]
        assert 3 * sum(kill.in_save for kill in kills) >= len(kills)
        assert all(1 <= len(plan) <= 3 for plan in resume_kills.plan_kills(n, seed=0))
