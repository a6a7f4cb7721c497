"""What a training worker tells: a picture that is damaged holds nothing up."""

from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

from facevae.pictures import save_png
from facevae.training.worker import _Listener

GRID = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)


@pytest.fixture
def listener(tmp_path) -> _Listener:
    made = object.__new__(_Listener)
    made._config, made._board = SimpleNamespace(output=str(tmp_path)), Mock()
    return made


def test_a_stored_grid_is_sent(listener):
    save_png(GRID, listener._grid(10))
    np.testing.assert_array_equal(listener._stored_grid(10)(), GRID)
    assert listener._stored_grid(20)() is None
    listener._board.tell.remote.assert_not_called()


@pytest.mark.parametrize("length", [0, 4, 200, 2000])
def test_a_damaged_grid_is_left_out_with_a_word(listener, tmp_path, length):
    save_png(GRID, listener._grid(10))
    file = tmp_path / "grids" / "step_000010.png"
    file.write_bytes(file.read_bytes()[:length])
    assert listener._stored_grid(10)() is None
    (line,) = listener._board.tell.remote.call_args.args
    assert line.startswith("warning: the grid of step 10 is damaged (")
