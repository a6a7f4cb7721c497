"""Charts of an evaluation have a largest size, and a note where there is nothing to see."""

import numpy as np
import pytest

from facevae.report import evaluation_plots
from facevae.report.plots import DOTS_PER_INCH, MAX_INCHES

LARGEST = int(MAX_INCHES * DOTS_PER_INCH)


def names(count: int) -> list[str]:
    return [f"attribute_{i}_$x^" for i in range(count)]


def has_colours(picture) -> bool:
    return len(picture.convert("RGB").getcolors(1 << 24)) > 20


@pytest.mark.parametrize("count", [1, 40, 3_000])
@pytest.mark.parametrize("has_judge", [True, False])
def test_score_bars(count, has_judge):
    values = np.linspace(0.3, 1, count)
    judge = np.where(np.arange(count) % 2, 0.9, np.nan) if has_judge else None
    picture = evaluation_plots.score_bars(names(count), values, values, 1 - values / 2, judge)
    assert max(picture.size) <= LARGEST
    assert has_colours(picture)


def test_bars_without_a_score_say_so():
    nothing = np.full(3, np.nan)
    picture = evaluation_plots.score_bars(names(3), nothing, nothing, nothing)
    assert picture.size[1] < 200


@pytest.mark.parametrize("size", [1, 100, 20_000])
def test_kl_bars(size):
    picture = evaluation_plots.kl_bars(np.random.default_rng(0).gamma(1, 1, size), size // 2)
    assert max(picture.size) <= LARGEST
    assert has_colours(picture)
    assert evaluation_plots.kl_bars(np.full(size, np.nan), 0).size[1] < 200


@pytest.mark.parametrize("shape", [(1, 1), (5, 8), (40, 40), (3, 400), (600, 600)])
def test_leakage_heatmap(shape):
    moved = np.random.default_rng(0).normal(size=shape)
    moved[0, 0] = np.nan
    picture = evaluation_plots.leakage_heatmap(moved, names(shape[0]), names(shape[1]))
    assert max(picture.size) <= LARGEST
    assert has_colours(picture)


def test_no_edit_is_a_note():
    assert evaluation_plots.leakage_heatmap(np.empty((0, 0)), [], []).size[1] < 200


@pytest.mark.parametrize("count", [1, 4, 300])
def test_intervals_and_strips(count):
    models = [(f"runs/model_{i}", i // 2 + 1, 0.9, 0.88, 0.91) for i in range(count)]
    picture = evaluation_plots.interval_bars(models, "auc/mean")
    assert max(picture.size) <= LARGEST
    faces = np.random.default_rng(0).integers(0, 256, (67, 300, 3), np.uint8)
    picture = evaluation_plots.strips({name: faces for name, *_ in models})
    assert max(picture.size) <= LARGEST
    assert has_colours(picture)
