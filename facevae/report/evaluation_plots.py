"""Charts of an evaluation: PIL images from plain values, in the form of `plots`.

Legend: A attributes, T attributes that are edited, Z latent size.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from facevae.report.plots import (
    _COLOURS,
    _FAINT,
    _INK,
    DOTS_PER_INCH,
    MAX_INCHES,
    MAX_NAMED,
    UNNAMED_INCHES,
    _figure,
    _heatmap_inches,
    _label,
    _note,
    _rendered,
)

MAX_DIMENSIONS = int(MAX_INCHES * DOTS_PER_INCH) // 4
"""the most latent dimensions with a bar of their own"""
MAX_STRIPS = 30
MAX_WRITTEN = 24
"""a leakage matrix of at most so many columns has its numbers written in it"""


def score_bars(
    names: Sequence[str],
    auc: Float[np.ndarray, " A"],
    accuracy: Float[np.ndarray, " A"],
    majority: Float[np.ndarray, " A"],
    judge: Float[np.ndarray, " A"] | None = None,
) -> Image.Image:
    """AUC per attribute, best on top, and accuracy beside the majority's.

    Of more than `MAX_NAMED` attributes the best and the worst are shown; those without an AUC are
    left out.

    Args:
        names: of the attributes.
        auc: of the scores.
        accuracy: of the scores.
        majority: of answering what most images have.
        judge: the judge's AUC on real images, if there is a judge.
    """
    known = np.flatnonzero(np.isfinite(auc))
    if not len(known):
        return _note("No attribute has a score.")
    order = known[np.argsort(-auc[known], kind="stable")]
    title = f"{len(order):,} attributes"
    if len(order) > MAX_NAMED:
        half = MAX_NAMED // 2
        title = f"{half} best and {half} worst of {title}"
        order = np.concatenate([order[:half], order[-half:]])
    rows = np.arange(len(order))
    figure = _figure(10.4, 1.5 + 0.24 * max(len(order), 3))
    left, right = figure.subplots(1, 2, sharey=True)
    colours = [_COLOURS[0] if value >= 0.5 else _COLOURS[1] for value in auc[order]]
    left.barh(rows, auc[order] - 0.5, left=0.5, height=0.72, color=colours)
    for row, value in zip(rows, auc[order], strict=True):
        inside = value > 0.6  # beyond the bar is where the judge's mark is
        left.text(
            0.506 if inside else max(value, 0.5) + 0.006,
            row,
            f"{value:.3f}",
            va="center",
            fontsize=8,
            color="white" if inside else _INK,
        )
    if judge is not None:
        left.scatter(
            judge[order], rows, marker="|", s=60, color=_INK, zorder=3, label="judge, real images"
        )
        figure.legend(frameon=False, loc="outside lower left", fontsize=8)
    left.axvline(0.5, color=_INK, linewidth=1)
    left.set_xlim(min(0.48, float(auc[order].min()) - 0.02), 1.06)
    left.set_xlabel("AUC on held-out images; the line at 0.5 is chance")
    gain = accuracy[order] >= majority[order]
    right.hlines(rows, majority[order], accuracy[order], color=_FAINT, linewidth=3)
    right.scatter(majority[order], rows, marker="|", s=60, color=_INK, label="majority")
    right.scatter(
        accuracy[order], rows, s=18, zorder=3, label="accuracy",
        color=[_COLOURS[0] if better else _COLOURS[1] for better in gain],
    )  # fmt: skip
    right.set_xlim(right=1.02)
    right.set_xlabel("accuracy (dot) and that of the majority's answer (line)")
    left.set_yticks(rows, [_label(names[int(k)]) for k in order], parse_math=False)
    left.set_ylim(len(order) - 0.4, -0.6)
    left.set_title(title, loc="left", fontsize=10)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="x", color=_FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
    return _rendered(figure)


def kl_bars(kl: Float[np.ndarray, " Z"], active: int) -> Image.Image:
    """Mean KL divergence of each latent dimension, largest first.

    Args:
        kl: in nats.
        active: how many dimensions are active.
    """
    if not np.isfinite(kl).all():
        return _note("The KL divergence is no number.")
    ordered = np.sort(kl)[::-1]
    shown = ordered[np.linspace(0, len(kl) - 1, min(len(kl), MAX_DIMENSIONS)).astype(int)]
    figure = _figure(9.0, 3.4)
    axes = figure.add_subplot()
    places = np.linspace(1, len(kl), len(shown))
    colours = np.where(places <= active, _COLOURS[0], "#8c959f")
    axes.bar(places, shown, width=0.8 * len(kl) / len(shown), color=colours)
    axes.set_xlabel("latent dimensions, by KL divergence")
    axes.set_ylabel("nats")
    axes.set_title(
        f"{kl.sum():.4g} nats per image; {active:,} of {len(kl):,} dimensions are active",
        loc="left",
        fontsize=10,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    return _rendered(figure)


def leakage_heatmap(
    moved: Float[np.ndarray, "T A"], rows: Sequence[str], columns: Sequence[str]
) -> Image.Image:
    """How far each edit (a row) moves each attribute, in gaps; colours centred on 0.

    More than `MAX_NAMED` rows or columns have no names.

    Args:
        moved: 1 for the target of a perfect edit, 0 for all others.
        rows: the edited attributes.
        columns: the attributes that are looked at.
    """
    if not moved.size:
        return _note("No edit was judged.")
    down = [_label(name) for name in rows] if len(rows) <= MAX_NAMED else []
    across = [_label(name) for name in columns] if len(columns) <= MAX_NAMED else []
    width = _heatmap_inches(across) if across else UNNAMED_INCHES
    height = _heatmap_inches(down) if down else UNNAMED_INCHES
    figure = _figure(width + 1.6, height + 0.8)
    axes = figure.add_subplot()
    picture = axes.imshow(moved, cmap="RdBu_r", vmin=-1.5, vmax=1.5, aspect="auto")
    axes.set_xticks(range(len(across)), across, rotation=90, parse_math=False)
    axes.set_yticks(range(len(down)), down, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("moves this attribute")
    axes.set_ylabel("editing this attribute")
    axes.set_title("How far one gap moves each attribute, in its own gaps", pad=12, fontsize=10)
    if len(columns) <= MAX_WRITTEN and len(rows) <= MAX_WRITTEN:
        for (row, column), value in np.ndenumerate(moved):
            if np.isfinite(value):
                text = f"{round(float(value), 1) + 0.0:.1f}"  # never -0.0
                axes.text(
                    column, row, text, ha="center", va="center", fontsize=7,
                    color="white" if abs(value) > 0.9 else _INK,
                )  # fmt: skip
    bar = figure.colorbar(picture, ax=axes, shrink=0.6, aspect=24, extend="both")
    bar.outline.set_visible(False)
    return _rendered(figure)


def interval_bars(
    models: Sequence[tuple[str, int, float, float, float]], figure: str
) -> Image.Image:
    """Models as points with their intervals, best on top; models of one rank have one colour.

    Of more than `MAX_NAMED` the best are shown.

    Args:
        models: label, rank, value and the bounds of its interval, best first.
        figure: what they are ranked by.
    """
    shown = models[:MAX_NAMED]
    canvas = _figure(8.0, 1.3 + 0.36 * max(len(shown), 3))
    axes = canvas.add_subplot()
    ranks = {rank: place for place, rank in enumerate(dict.fromkeys(each[1] for each in shown))}
    for row, (_, rank, value, low, high) in enumerate(shown):
        colour = _COLOURS[ranks[rank] % len(_COLOURS)]
        axes.plot([low, high], [row, row], color=colour, linewidth=4, alpha=0.35)
        axes.plot(value, row, "o", color=colour, ms=6)
        axes.annotate(f"{value:.4g}", (high, row), (6, 0), textcoords="offset points",
                      va="center", fontsize=8)  # fmt: skip
    labels = [f"{_label(label)}  ({rank})" for label, rank, *_ in shown]
    axes.set_yticks(range(len(shown)), labels, parse_math=False)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"{figure}, with 95 % intervals; ranks in brackets, one colour is a tie")
    return _rendered(canvas)


def strips(rows: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]) -> Image.Image:
    """Rows of the same faces above each other, each with its name.

    Of more than `MAX_STRIPS` the first are shown.
    """
    shown = dict(list(rows.items())[:MAX_STRIPS])
    height, width = next(iter(shown.values())).shape[:2]
    figure = _figure(16.0, 0.3 + len(shown) * 14.0 * height / width)
    for place, axes in enumerate(np.atleast_1d(figure.subplots(len(shown), 1))):
        label, picture = list(shown.items())[place]
        axes.imshow(picture)
        axes.set_ylabel(_label(label), rotation=0, ha="right", va="center", parse_math=False)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    return _rendered(figure)
