"""What a training worker tells: a picture that is damaged holds nothing up."""

from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

from facevae.report.grids import save_png
from facevae.training.worker import _WorkerCallbacks

GRID = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)


@pytest.fixture
def callbacks(tmp_path) -> _WorkerCallbacks:
    made = object.__new__(_WorkerCallbacks)
    made._config, made._coordinator = SimpleNamespace(output=str(tmp_path)), Mock()
    return made


def test_a_stored_grid_is_sent(callbacks):
    save_png(GRID, callbacks._grid(10))
    np.testing.assert_array_equal(callbacks._stored_grid(10), GRID)
    assert callbacks._stored_grid(20) is None
    callbacks._coordinator.log.remote.assert_not_called()


@pytest.mark.parametrize("length", [0, 4, 200, 2000])
def test_a_damaged_grid_is_left_out_with_a_word(callbacks, tmp_path, length):
    save_png(GRID, callbacks._grid(10))
    file = tmp_path / "grids" / "step_000010.png"
    file.write_bytes(file.read_bytes()[:length])
    assert callbacks._stored_grid(10) is None
    (line,) = callbacks._coordinator.log.remote.call_args.args
    assert line.startswith("warning: the grid of step 10 is damaged (")
