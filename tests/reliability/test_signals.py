"""One interruption of each kind; the whole matrix is benchmarks/reliability/signals.py."""

import contextlib
import io
import signal

import pytest
from benchmarks.common import fingerprint
from benchmarks.reliability import signals


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    from isopatch.cli import main

    path = tmp_path_factory.mktemp("whole") / "run"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(signals.arguments(str(path), workers=0)) == 0
    return fingerprint(path)


def test_sigterm_in_a_save_with_workers(tmp_path, whole):
    assert signals.interrupted(tmp_path, signal.SIGTERM, "save", 2, whole)["problems"] == []


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["scan", "step", "validation"])
def test_sigint_elsewhere(tmp_path, whole, phase):
    assert signals.interrupted(tmp_path, signal.SIGINT, phase, 0, whole)["problems"] == []


@pytest.mark.slow
def test_a_second_process_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path, whole):
    assert signals.second_process(tmp_path, whole) == []
    assert signals.lock_after_kill(tmp_path, whole) == []
