"""The table of images comes back as it was written, and damage is one line."""

import numpy as np
import pytest

from facevae.errors import UserError
from facevae.evaluation.image_table import FIGURES, ImageRows, read_images, write_images


def rows(count: int, split: str) -> ImageRows:
    random = np.random.default_rng(count)
    figures = {name: random.normal(size=count).astype(np.float32) for name in FIGURES}
    figures["psnr"][::2] = np.nan
    ids = [f"{split}/{i}.jpg" for i in range(count)]
    scores = random.normal(size=(count, 3)).astype(np.float32)
    scores[:, 1] = np.nan
    labels = random.integers(-1, 2, (count, 3), np.int8)
    return ImageRows(
        ids, [str(i // 2) for i in range(count)], [split] * count, scores, labels, figures
    )


def test_what_is_read_is_what_was_written(tmp_path):
    parts = [rows(5, "val"), rows(300, "test")]
    uri = str(tmp_path / "images.parquet")
    write_images(uri, parts, 3)
    for part, found in zip(parts, read_images(uri), strict=True):
        assert part[:3] == found[:3]
        np.testing.assert_array_equal(part.scores, found.scores)
        np.testing.assert_array_equal(part.labels, found.labels)
        for name in FIGURES:
            np.testing.assert_array_equal(part.figures[name], found.figures[name])


@pytest.mark.parametrize("damage", ["cut", "text", "changed", "none"])
def test_damage_is_one_line(tmp_path, damage):
    path = tmp_path / "images.parquet"
    if damage != "none":
        write_images(str(path), [rows(50, "val")], 3)
        content = path.read_bytes()
        middle = len(content) // 3
        path.write_bytes({
            "cut": content[:-20],
            "text": b"images",
            "changed": content[:middle] + b"\xff" * 40 + content[middle + 40 :],
        }[damage])  # fmt: skip
    with pytest.raises(UserError, match=r"images\.parquet") as refused:
        list(read_images(str(path)))
    assert "\n" not in str(refused.value)
