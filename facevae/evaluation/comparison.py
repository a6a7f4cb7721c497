"""Models side by side on the same held-out images: a ranking, with intervals and ties.

Intervals are paired percentile bootstraps over people (images where people are not known): each
resample draws the same people for all models. They tell what other images would change, not what
another seed of a training would: a difference also has to exceed a margin to count.
Legend: n images, A attributes, M models, R resamples.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int8, Int64

from facevae.errors import UserError
from facevae.evaluation.image_table import FIGURES, ImageRows

LEVEL = 0.95
"""of the intervals"""
MARGINS = {
    "auc": 0.01,
    "psnr": 0.2,
    "ssim": 0.01,
    "perceptual_distance": 0.01,
    "kl": 1.0,
    "identity_kept": 0.01,
}
"""differences, in units of each figure, that two seeds of one recipe may have"""
LOWER_IS_BETTER = ("perceptual_distance", "kl")
OF_NETWORK = ("perceptual_distance", "identity_kept")
"""figures that are of a face network's features"""
COLUMNS = {"kl/mean": "kl", "identity_kept/reconstruction": "identity_kept"}
"""the column of a metric, where its name is another"""


class Figure(NamedTuple):
    """A metric that is a function of the images it is of, so that they can be drawn anew."""

    name: str
    kind: str
    """`auc` or a column of the table of images"""
    attribute: str
    """of an AUC; `mean`: all of them"""

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return -1 if self.kind in LOWER_IS_BETTER else 1


class Evaluated(NamedTuple):
    """The images of one model's evaluation, sorted by id."""

    label: str
    image_id: np.ndarray
    identity: np.ndarray
    scores: Float32[np.ndarray, "n A"]
    labels: Int8[np.ndarray, "n A"]
    figures: dict[str, Float32[np.ndarray, " n"]]

    @classmethod
    def of(cls, label: str, parts: Iterable[ImageRows]) -> "Evaluated":
        """All rows of a table of images."""
        rows = list(parts)
        ids = np.array([image for part in rows for image in part.image_id])
        people = np.array([person for part in rows for person in part.identity])
        order = np.argsort(ids, kind="stable")
        return cls(
            label,
            ids[order],
            people[order],
            np.concatenate([part.scores for part in rows])[order],
            np.concatenate([part.labels for part in rows])[order],
            {n: np.concatenate([part.figures[n] for part in rows])[order] for n in FIGURES},
        )

    def only(self, image_id: np.ndarray) -> "Evaluated":
        """Of these images alone, all of which it has."""
        places = np.searchsorted(self.image_id, image_id)
        return Evaluated(
            self.label,
            self.image_id[places],
            self.identity[places],
            self.scores[places],
            self.labels[places],
            {name: column[places] for name, column in self.figures.items()},
        )


class Ranked(NamedTuple):
    """A model in the ranking."""

    label: str
    rank: int
    """models of one rank are tied"""
    value: float
    low: float
    high: float
    """the interval of the value"""
    behind: float
    """how much worse than the best of its rank; the best of a rank: than that of the rank above"""
    behind_low: float
    behind_high: float
    """the interval of that difference"""


def figure_of(name: str, attributes: Sequence[str]) -> Figure:
    """The figure that a metric's name names.

    Raises:
        UserError: there is none that models can be ranked by; names those there are.
    """
    kind, _, attribute = name.partition("/")
    if kind == "auc" and (attribute == "mean" or attribute in attributes):
        return Figure(name, kind, attribute)
    columns = {n: n for n in ("psnr", "ssim", "perceptual_distance")} | COLUMNS
    if name in columns:
        return Figure(name, columns[name], "")
    raise UserError(
        f"--primary {name}: models are ranked by auc/mean, auc/<attribute>, {', '.join(columns)}"
    )


def share_images(models: Sequence[Evaluated]) -> list[Evaluated]:
    """The models on the images that all were evaluated on.

    Raises:
        UserError: there are none, or their labels differ.
    """
    common = models[0].image_id
    for model in models[1:]:
        common = np.intersect1d(common, model.image_id)
    if not len(common):
        raise UserError(
            f"{' and '.join(model.label for model in models)} have no held-out image in common: "
            "evaluate them on the same shards"
        )
    shared = [model.only(common) for model in models]
    for model in shared[1:]:
        if not np.array_equal(model.labels, shared[0].labels):
            raise UserError(
                f"{model.label} was evaluated with other labels of the same images than "
                f"{shared[0].label}: evaluate both on the same shards"
            )
    return shared


def rank_models(
    models: Sequence[Evaluated],
    figure: Figure,
    attributes: Sequence[str],
    margin: float,
    resamples: int,
    seed: int,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Ranked]:
    """The models, best first, with intervals; models of which none is surely better have one rank.

    Args:
        models: on the same images.
        figure: what they are ranked by.
        attributes: names of the A attributes.
        margin: the difference that a model must surely exceed to be better.
        resamples: R, how often people are drawn.
        seed: of the drawing.
        progress: called with the number of resamples done.

    Raises:
        UserError: a model has no value of the figure.
    """
    measures = [_measure(model, figure, attributes, models) for model in models]
    people, codes = np.unique(models[0].identity, return_inverse=True)
    once = np.ones(len(codes))
    values = np.array([measure(once) for measure in measures])
    for model, value in zip(models, values, strict=True):
        if not np.isfinite(value):
            raise UserError(f"{model.label} has no {figure.name} on the shared images")
    drawn = np.empty((resamples, len(models)))
    random = np.random.default_rng(seed)
    for row in range(resamples):
        counts = np.bincount(random.integers(0, len(people), len(people)), minlength=len(people))
        weights = counts[codes].astype(np.float64)
        drawn[row] = [measure(weights) for measure in measures]
        progress(row + 1)
    return _ranked([model.label for model in models], values, drawn, figure.sign, margin)


def weighted_auc(
    scores: Float[np.ndarray, "n A"], labels: Int8[np.ndarray, "n A"]
) -> Callable[[Float64[np.ndarray, " n"]], Float64[np.ndarray, " A"]]:
    """The AUCs of images as a function of how often each is drawn; equal scores count half.

    Sorting is done once, so that each resample costs two passes over the scores. NaN where a class
    was not drawn; scores that are NaN and missing labels are left out.
    """
    order = np.argsort(scores, axis=0, kind="stable")
    ordered = np.take_along_axis(scores, order, axis=0)
    signs = np.where(np.isnan(ordered), 0, np.take_along_axis(labels, order, axis=0))
    first, last = _ties(ordered)

    def auc(weights: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " A"]:
        drawn = weights[order]
        positive, negative = drawn * (signs > 0), drawn * (signs < 0)
        below = np.zeros((len(drawn) + 1, drawn.shape[1]))
        np.cumsum(negative, axis=0, out=below[1:])
        lower, upper = (np.take_along_axis(below, each, axis=0) for each in (first, last))
        wins = (positive * (lower + upper)).sum(axis=0) / 2
        with np.errstate(invalid="ignore"):
            return np.asarray(wins / (positive.sum(axis=0) * below[-1]))

    return auc


def _ties(
    ordered: Float[np.ndarray, "n A"],
) -> tuple[Int64[np.ndarray, "n A"], Int64[np.ndarray, "n A"]]:
    """For each of some sorted scores, how many are lower, and how many are not higher."""
    first, last = (np.empty(ordered.shape, np.int64) for _ in range(2))
    for k, column in enumerate(ordered.T):
        first[:, k] = np.searchsorted(column, column, side="left")
        last[:, k] = np.searchsorted(column, column, side="right")
    return first, last


def _measure(
    model: Evaluated, figure: Figure, attributes: Sequence[str], models: Sequence[Evaluated]
) -> Callable[[Float64[np.ndarray, " n"]], float]:
    """A model's figure as a function of how often each image is drawn."""
    if figure.kind != "auc":
        column = model.figures[figure.kind].astype(np.float64)
        known = ~np.isnan([each.figures[figure.kind] for each in models]).any(axis=0)
        values = np.where(known, column, 0.0)

        def mean(weights: Float64[np.ndarray, " n"]) -> float:
            total = weights[known].sum()
            return float(weights @ values / total) if total else float("nan")

        return mean
    # The mean is over the attributes that have a vector in all models.
    has_vector = np.all([~np.isnan(each.scores).all(axis=0) for each in models], axis=0)
    if figure.attribute != "mean":
        has_vector &= np.array([name == figure.attribute for name in attributes])
    auc = weighted_auc(model.scores[:, has_vector], model.labels[:, has_vector])

    def mean_auc(weights: Float64[np.ndarray, " n"]) -> float:
        found = auc(weights)
        known = np.isfinite(found)
        return float(found[known].mean()) if known.any() else float("nan")

    return mean_auc


def _ranked(
    labels: Sequence[str],
    values: Float64[np.ndarray, " M"],
    drawn: Float64[np.ndarray, "R M"],
    sign: int,
    margin: float,
) -> list[Ranked]:
    """The models, best first; a rank ends where a model is surely worse than its best."""
    order = np.argsort(-sign * values, kind="stable").tolist()
    ranked: list[Ranked] = []
    best, above, rank = order[0], order[0], 1
    for place, model in enumerate(order):
        if _interval(sign * (drawn[:, best] - drawn[:, model]))[0] > margin:
            above, best, rank = best, model, place + 1
        reference = above if model == best else best
        gaps = sign * (drawn[:, reference] - drawn[:, model])
        behind = float(sign * (values[reference] - values[model]))
        ranked.append(
            Ranked(
                labels[model],
                rank,
                float(values[model]),
                *_interval(drawn[:, model]),
                behind,
                *_interval(gaps),
            )
        )
    return ranked


def _interval(values: Float64[np.ndarray, " R"]) -> tuple[float, float]:
    tail = 50 * (1 - LEVEL)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)
