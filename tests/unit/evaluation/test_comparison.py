"""Models of known quality are ranked rightly; what cannot be told apart is a tie."""

from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from facevae.errors import UserError
from facevae.evaluation.comparison import (
    Evaluated,
    figure_of,
    rank_models,
    share_images,
    weighted_auc,
)
from facevae.evaluation.image_table import FIGURES, ImageRows

NAMES = ("Smiling", "Hat", "Young")


def model(
    label: str, gap: float, seed: int, *, images=1_500, per_person=1, first=0, psnr=20.0
) -> Evaluated:
    """Scores that are `gap` higher on faces with an attribute; the last attribute has none.

    What is hard about an image is so for all models: their scores share a part.
    """
    world = np.random.default_rng(0)
    labels = world.choice(np.array([-1, 1], np.int8), (images, 3))
    hard = np.repeat(world.normal(size=(images // per_person, 3)), per_person, axis=0)
    own = np.random.default_rng(seed).normal(size=(images, 3))
    scores = (gap * (labels > 0) + 0.8 * hard + 0.6 * own).astype(np.float32)
    scores[:, 2] = np.nan
    figures = {name: np.full(images, np.nan, np.float32) for name in FIGURES}
    figures["psnr"][::3] = psnr + hard[::3, 0]
    figures["perceptual_distance"][::3] = 1 / psnr
    ids = [f"{first + i:06d}.jpg" for i in range(images)]
    people = [str(i // per_person) for i in range(images)]
    rows = ImageRows(ids, people, ["test"] * images, scores, labels, figures)
    return Evaluated.of(label, [rows])


def rank(models, name="auc/mean", margin=0.01, resamples=200):
    return rank_models(models, figure_of(name, NAMES), NAMES, margin, resamples, 0)


def test_untrained_short_long_and_a_second_seed():
    models = [
        model("short", 1.0, 1), model("long", 2.0, 2), model("untrained", 0.0, 3),
        model("long too", 2.0, 4),
    ]  # fmt: skip
    ranked = rank(models)
    assert [each.rank for each in ranked] == [1, 1, 3, 4]
    assert {each.label for each in ranked[:2]} == {"long", "long too"}
    assert [each.label for each in ranked[2:]] == ["short", "untrained"]
    for better, worse in pairwise(ranked[1:]):
        assert better.low > worse.high  # the intervals separate them
        assert worse.behind_low > 0.01
    assert ranked[1].behind_low < 0.01
    for each in ranked:
        assert each.low < each.value < each.high


def test_values_are_those_of_scikit_learn():
    one = model("one", 1.0, 1)
    expected = [roc_auc_score(one.labels[:, k], one.scores[:, k]) for k in (0, 1)]
    other = model("other", 1.0, 2)
    found = {each.label: each.value for each in rank([one, other])}
    assert found["one"] == pytest.approx(np.mean(expected))
    found = {each.label: each.value for each in rank([one, other], "auc/Hat")}
    assert found["one"] == pytest.approx(expected[1])


def test_a_weighted_auc_is_that_of_repeated_images():
    random = np.random.default_rng(0)
    scores = random.integers(0, 9, (60, 2)).astype(np.float32)  # many ties
    labels = random.integers(-1, 2, (60, 2), np.int8)
    counts = random.integers(0, 4, 60)
    found = weighted_auc(scores, labels)(counts.astype(float))
    many, repeated = np.repeat(scores, counts, axis=0), np.repeat(labels, counts, axis=0)
    for k in range(2):
        known = repeated[:, k] != 0
        assert found[k] == pytest.approx(roc_auc_score(repeated[known, k], many[known, k]))


def test_pairing_tells_apart_what_lone_intervals_do_not():
    models = [model("a", 1.0, 1, psnr=20.0), model("b", 1.0, 2, psnr=20.1)]
    ranked = rank(models, "psnr", margin=0.05)
    assert ranked[1].high > ranked[0].low  # images differ by more than the models
    assert [(each.label, each.rank) for each in ranked] == [("b", 1), ("a", 2)]
    assert ranked[1].behind == pytest.approx(0.1, abs=1e-4)
    # And a margin makes them one.
    assert [each.rank for each in rank(models, "psnr", margin=0.2)] == [1, 1]


def test_a_distance_is_better_when_it_is_lower():
    models = [model("near", 1.0, 1, psnr=40.0), model("far", 1.0, 1, psnr=20.0)]
    ranked = rank(models, "perceptual_distance", margin=0.001)
    assert [(each.label, each.rank) for each in ranked] == [("near", 1), ("far", 2)]


def test_people_with_many_images_widen_the_intervals():
    """20 images of a person that are alike in what is hard say little more than one."""
    lone, grouped = (
        rank([model(name, 1.0, 1, per_person=count) for name in "ab"], "psnr")[0]
        for count in (1, 20)
    )
    assert grouped.high - grouped.low > 1.8 * (lone.high - lone.low)


def test_models_are_compared_on_the_images_that_all_have():
    one, other = model("one", 1.0, 1), model("other", 1.0, 2, first=1_000)
    with pytest.raises(UserError, match="other labels of the same images"):
        share_images([one, other])  # their image 1,000 is not the same
    other = other._replace(labels=one.labels)
    same = share_images([one, one.only(one.image_id[500:700])])
    assert [len(each.image_id) for each in same] == [200, 200]
    with pytest.raises(UserError, match="one and far have no held-out image in common"):
        share_images([one, model("far", 1.0, 2, first=9_000)])


@pytest.mark.parametrize("name", ["frechet", "auc/Beard", "auc", "kl", "edit_success/mean"])
def test_what_models_cannot_be_ranked_by(name):
    with pytest.raises(UserError, match=r"--primary .*: models are ranked by auc/mean"):
        figure_of(name, NAMES)


def test_a_figure_that_a_model_has_not():
    with pytest.raises(UserError, match="a has no kl/mean"):
        rank([model("a", 1.0, 1), model("b", 1.0, 2)], "kl/mean")
