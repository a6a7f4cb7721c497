"""The coordinator between driver and workers."""

import time

from facevae.training.coordinator import LISTENING_SECONDS, Coordinator


def test_lines_are_read_once_and_metrics_stay():
    coordinator = Coordinator()
    coordinator.log("one")
    coordinator.show(3, {"train/loss": 1.0})
    coordinator.show(4, {"validation/loss": 2.0})
    assert coordinator.read() == (4, {"train/loss": 1.0, "validation/loss": 2.0}, ["one"])
    assert coordinator.read()[2] == []


def test_a_stop_tells_whether_there_is_a_checkpoint_to_wait_for(monkeypatch):
    coordinator = Coordinator()
    assert not coordinator.stop()
    assert coordinator.requests(True) == (True, 0)
    assert coordinator.stop()
    coordinator.save()
    assert coordinator.requests(False) == (True, 1)
    assert not coordinator.stop()
    coordinator.requests(True)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + LISTENING_SECONDS)
    assert not coordinator.stop()
    assert coordinator.last_step() is None
    coordinator.stopped(7)
    assert coordinator.last_step() == 7


def test_failures_are_counted_by_rank_and_reason_until_the_next_step():
    coordinator = Coordinator()
    assert [coordinator.fail(0, "a"), coordinator.fail(1, "a"), coordinator.fail(0, "b")] == [
        1,
        1,
        1,
    ]
    assert coordinator.fail(0, "a") == 2
    coordinator.show(1, {})
    assert coordinator.fail(0, "a") == 1
