"""The board between driver and workers."""

from facevae.training.board import ProgressBoard


def test_lines_are_read_once_and_metrics_stay():
    board = ProgressBoard()
    board.tell("one")
    board.show(3, {"train/loss": 1.0})
    board.show(4, {"validation/loss": 2.0})
    assert board.read() == (4, {"train/loss": 1.0, "validation/loss": 2.0}, ["one"])
    assert board.read()[2] == []


def test_a_stop_tells_whether_a_worker_hears_it():
    board = ProgressBoard()
    assert not board.stop()
    assert board.wishes() == (True, 0)
    assert board.stop()
    board.save()
    assert board.wishes() == (True, 1)
    assert board.last_step() is None
    board.stopped(7)
    assert board.last_step() == 7


def test_failures_are_counted_by_rank_and_reason_until_the_next_step():
    board = ProgressBoard()
    assert [board.fail(0, "a"), board.fail(1, "a"), board.fail(0, "b")] == [1, 1, 1]
    assert board.fail(0, "a") == 2
    board.show(1, {})
    assert board.fail(0, "a") == 1
