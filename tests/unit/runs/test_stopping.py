"""SIGTERM ends a block with exit code 143 after its work has been made safe."""

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from facevae.runs.stopping import stopping


def terminated(make_safe: Callable[[], None], times: int) -> None:
    with stopping(make_safe):
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
        time.sleep(20)


def test_the_work_is_made_safe_before_the_end():
    before = signal.getsignal(signal.SIGTERM)
    done = []
    with pytest.raises(SystemExit) as ended:
        terminated(lambda: done.append(time.monotonic()), times=1)
    assert ended.value.code == 143
    assert len(done) == 1
    assert time.monotonic() - done[0] < 5
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_second_signal_does_not_wait():
    forever = threading.Event()
    with pytest.raises(SystemExit) as ended:
        terminated(lambda: forever.wait() and None, times=2)
    assert ended.value.code == 143
    forever.set()


def test_without_a_signal_nothing_happens():
    called = []
    with stopping(lambda: called.append(1)):
        pass
    assert called == []
