"""What 100 million images ask for: totals that do not grow, and no list of rows anywhere.

Five million rows of drawn latents, of which no more than a shard is ever there.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROWS, ROWS_PER_SHARD = 5_000_000, 50_000
DRIVER = Path(__file__).parents[2] / "drivers" / "many_images.py"


def _run(rows: int, folder) -> tuple[int, np.ndarray, int]:
    """Images counted, the first vector, and the process's most memory in KiB."""
    words = [sys.executable, DRIVER, str(rows), str(ROWS_PER_SHARD), str(folder / "v.h5")]
    count, *vector, memory = subprocess.run(
        words, check=True, capture_output=True, text=True
    ).stdout.split()
    return int(count), np.array(vector, float), int(memory)


def test_memory_stays_while_images_grow(tmp_path):
    _, _, few = _run(ROWS // 20, tmp_path)
    count, vector, many = _run(ROWS, tmp_path)
    assert count == ROWS
    np.testing.assert_allclose(vector, 2.0, atol=0.003)  # as planted
    assert many < few + 30_000, f"{few / 1e3:.0f} MB grew to {many / 1e3:.0f} MB"
