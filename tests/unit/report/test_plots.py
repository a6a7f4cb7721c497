"""Mathematics of the heat map, charts that show what they are given and stay small."""

import numpy as np
import pytest

from facevae.report import plots
from facevae.report.plots import (
    auc_bars,
    confidence_bars,
    cosine_similarity,
    loss_curves,
    similarity_heatmap,
)

MAX_SIDE = 30 * 120
ODD = ("a$b$c", "$\\foo{$", "\u7b11", "\U0001f642", "a\nb", "x" * 300, "", "Age>50%", "^_{", "\\")


@pytest.fixture
def titles(monkeypatch):
    """The titles of the figures that are drawn."""
    seen = []
    rendered = plots._rendered

    def remember(figure):
        seen.extend(axes.get_title() for axes in figure.axes if axes.get_title())
        return rendered(figure)

    monkeypatch.setattr(plots, "_rendered", remember)
    return seen


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


def _rows(monkeypatch, *arguments):
    """The names beside the rows of the confidence picture, and the texts in it."""
    found = {}
    rendered = plots._rendered

    def remember(figure):
        left, right = figure.axes
        found["names"] = [label.get_text() for label in left.get_yticklabels()]
        found["texts"] = [text.get_text() for axes in (left, right) for text in axes.texts]
        return rendered(figure)

    monkeypatch.setattr(plots, "_rendered", remember)
    picture = confidence_bars(*arguments)
    assert _ink(picture) > 0.01
    assert max(picture.size) <= MAX_SIDE
    return found


def test_the_surest_directions_come_first_and_what_is_not_known_is_said(monkeypatch):
    errors = {
        "mean": np.array([0.1, 0.2, 0.3, 0.4]),
        "partial": np.array([0.5, np.nan, 0.1, 0.2]),
    }
    inflation = np.array([1.0, np.inf, 4.25, np.nan])
    found = _rows(monkeypatch, ("a", "b", "c", "d"), errors, inflation)
    assert found["names"] == ["c", "d", "a", "b"]
    assert found["texts"] == ["n/a", "4.25", "n/a", "1", "inf"]


def test_of_many_directions_the_surest_are_drawn(monkeypatch):
    count = 3 * plots.MAX_NAMED
    values = np.linspace(1, 0.1, count)
    names = [f"a{number}" for number in range(count)]
    found = _rows(monkeypatch, names, {"partial": values}, np.ones(count))
    assert found["names"] == names[: -plots.MAX_NAMED - 1 : -1]


def test_without_errors_the_picture_says_so():
    nothing = np.full(2, np.nan)
    assert confidence_bars(("a", "b"), {"partial": nothing}, nothing).size < (600, 200)
    assert confidence_bars((), {}, np.empty(0)).size < (600, 200)


@pytest.mark.parametrize(
    ("count", "title"), [(100, "of 100"), (101, "of 101"), (1001, "of 1,000 of 1,001")]
)
def test_a_heat_map_of_many_vectors_has_a_largest_size(titles, count, title):
    vectors = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
    picture = similarity_heatmap(vectors, [f"attribute number {i}" for i in range(count)])
    assert max(picture.size) <= MAX_SIDE
    assert titles == [f"Cosine similarity {title} attribute vectors"]


def test_above_a_count_names_do_not_change_a_heat_map():
    vectors = np.random.default_rng(0).normal(size=(101, 8)).astype(np.float32)
    first = similarity_heatmap(vectors, [str(i) for i in range(101)])
    assert first.tobytes() == similarity_heatmap(vectors, ["x" * 300] * 101).tobytes()


@pytest.mark.parametrize(
    ("scored", "missing", "title"),
    [
        (100, 0, ""),
        (101, 0, "50 best and 50 worst of 101 attributes"),
        (2500, 30, "50 best and 50 worst of 2,500 attributes (without a value: 30)"),
        (3, 200, "3 attributes (without a value: 200)"),
    ],
)
def test_of_many_bars_the_best_and_the_worst_are_drawn(titles, scored, missing, title):
    auc = {f"a{i}": 0.5 + i / 2 / scored for i in range(scored)}
    picture = auc_bars(auc | {f"n{i}": float("nan") for i in range(missing)})
    assert max(picture.size) <= MAX_SIDE
    assert titles == ([title] if title else [])


def test_the_bars_that_are_drawn_are_those_at_both_ends():
    auc = {f"a{i:03}": 0.5 + i / 1000 for i in range(300)}
    ends = {name: auc[name] for i, name in enumerate(auc) if not 50 <= i < 250}
    middle_moved = {name: value if name in ends else 0.6 for name, value in auc.items()}
    assert auc_bars(auc).tobytes() == auc_bars(middle_moved).tobytes()


def test_many_attributes_without_a_value_are_said_in_words():
    assert _ink(auc_bars({f"a{i}": float("nan") for i in range(200)})) > 0


def test_names_of_any_kind_are_drawn_as_they_are(recwarn):
    """Neither as formulas nor with a warning for each character that the font lacks."""
    vectors = np.random.default_rng(0).normal(size=(len(ODD), 8)).astype(np.float32)
    assert max(similarity_heatmap(vectors, ODD).size) <= MAX_SIDE
    assert _ink(auc_bars(dict.fromkeys(ODD, 0.9))) > 0
    assert [str(each.message) for each in recwarn] == []


def test_no_picture_outgrows_the_largest_size():
    history = [{"step": 1, **{f"term{i}": 1.0 for i in range(60)}}]
    assert max(loss_curves(history).size) <= MAX_SIDE
