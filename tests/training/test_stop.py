"""Signals and the time limit."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from isopatch.training.stop import StopRequest

CODES = {signal.SIGTERM: 143, signal.SIGUSR1: 75, signal.SIGINT: 130}


@pytest.mark.parametrize(("number", "code"), CODES.items())
def test_before_the_loop_a_signal_ends_the_process_later_it_sets_the_flag(number, code):
    stop = StopRequest()
    with stop.listening():
        with pytest.raises(SystemExit) as ended:
            os.kill(os.getpid(), number)
        assert ended.value.code == code
    stop = StopRequest()
    with stop.listening():
        stop.defer()
        assert not stop
        os.kill(os.getpid(), number)
        assert stop and stop() and stop.exit_code == code and stop.reason == number.name


def test_the_former_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest().listening():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_time_limit():
    assert not StopRequest(max_minutes=60)
    late = StopRequest(max_minutes=0)
    assert late and late.exit_code == 75 and late.reason == "the time limit"


def test_a_second_sigint_leaves_at_once():
    code = """
    import os, signal
    from isopatch.training.stop import StopRequest
    stop = StopRequest()
    with stop.listening():
        stop.defer()
        os.kill(os.getpid(), signal.SIGINT)
        print("still here", flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        print("never", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "still here\n")
