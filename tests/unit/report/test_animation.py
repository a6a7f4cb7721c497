"""Moving pictures."""

import numpy as np
import pytest
from PIL import Image

from facevae.report.animation import LONGEST_SIDE, STEP, STILL, save_animation, shrunk


@pytest.mark.parametrize("file_format", ["gif", "webp"])
def test_frames_follow_each_other(tmp_path, file_format):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    frames = [shrunk(Image.new("RGB", (2000, 1000), colour)) for colour in colours]
    path = tmp_path / "moving"
    save_animation(frames, str(path), file_format)
    with Image.open(path) as moving:
        assert moving.size == (LONGEST_SIDE, LONGEST_SIDE // 2)
        assert (moving.n_frames, moving.info["loop"]) == (3, 0)
        durations = []
        for index, colour in enumerate(colours):
            moving.seek(index)
            moving.load()
            durations.append(moving.info["duration"])
            found = np.asarray(moving.convert("RGB"))[100, 100].astype(int)
            assert np.abs(found - colour).max() < 20
    assert durations == [STILL, STEP, STILL]


def test_a_small_picture_stays_as_it_is():
    picture = Image.effect_noise((60, 40), 90).convert("RGB")
    assert shrunk(picture).tobytes() == picture.tobytes()
