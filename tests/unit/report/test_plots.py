"""Mathematics of the heat map, charts that show what they are given."""

import numpy as np
import pytest

from facevae.report.plots import auc_bars, cosine_similarity, loss_curves, similarity_heatmap


def _ink(picture):
    """The fraction of pixels that are not white."""
    return (np.asarray(picture) < 250).any(axis=2).mean()


def test_cosine_similarity_is_symmetric_with_ones_on_the_diagonal():
    vectors = np.random.default_rng(0).normal(size=(30, 10)).astype(np.float32)
    found = cosine_similarity(vectors)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_array_equal(found.diagonal(), 1)
    assert np.abs(found).max() <= 1
    expected = vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1])
    assert found[0, 1] == pytest.approx(expected, abs=1e-6)
    opposite = cosine_similarity(np.array([[1.0, 0], [-2, 0], [0, 3]]))
    np.testing.assert_array_equal(opposite, [[1, -1, 0], [-1, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize("cluster", [True, False])
def test_the_heat_map_is_of_the_usable_vectors_only(cluster):
    vectors = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    names = list("abcdef")
    vectors[1], vectors[4] = np.nan, 0
    kept = [0, 2, 3, 5]
    found = similarity_heatmap(vectors, names, cluster)
    expected = similarity_heatmap(vectors[kept], [names[i] for i in kept], cluster)
    assert found.tobytes() == expected.tobytes()


def test_clustering_puts_like_vectors_side_by_side():
    """a is near c, b near d: the map is that of the order a, c, b, d, or one of its turns."""
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, 8))
    vectors = np.stack([first, second, first, second]) + 0.05 * random.normal(size=(4, 8))
    clustered = similarity_heatmap(vectors, list("abcd"))
    pairs = ["ac", "ca"], ["bd", "db"]
    orders = [x + y for x in pairs[0] for y in pairs[1]] + [
        y + x for x in pairs[0] for y in pairs[1]
    ]
    drawn = [
        similarity_heatmap(vectors[["abcd".index(n) for n in order]], list(order), cluster=False)
        for order in orders
    ]
    assert clustered.tobytes() in [picture.tobytes() for picture in drawn]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_heat_maps_of_few_vectors_are_drawn(count):
    assert _ink(similarity_heatmap(np.eye(3)[:count], list("abc")[:count])) > 0.01


def test_loss_curves_draw_a_panel_per_term_and_leave_gaps():
    history = [{"step": s, "train/kl": 3.0 + s, "loss": 1e5 / (s + 1)} for s in range(10)]
    history += [{"step": 5, "val/kl": 4.0}, {"step": 6, "loss": float("nan")}]
    two, one = loss_curves(history), loss_curves(history, keys=["loss"])
    assert two.width == 2 * one.width
    assert _ink(loss_curves(history, keys=["train/kl", "val/kl"])) > _ink(
        loss_curves(history, keys=["train/kl"])
    )
    assert _ink(loss_curves([])) > 0


def test_auc_bars_grow_with_the_values():
    low, high = auc_bars({"a": 0.6, "b": 0.55}), auc_bars({"a": 0.9, "b": 0.95})
    assert _ink(high) > 1.5 * _ink(low)
    assert auc_bars({"b": 0.95, "a": 0.9}).tobytes() == high.tobytes()
    assert _ink(auc_bars({"a": 0.4, "b": float("nan")})) > 0
    assert _ink(auc_bars({})) > 0
