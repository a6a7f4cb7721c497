"""Charts of results: PIL images from plain values; nothing is shown on a screen.

They use matplotlib's Figure with the Agg canvas, never pyplot, so no state is shared between
threads and no display is needed. Matplotlib and scipy are imported with the first picture: commands
start sooner, and pictures come last. However much there is to show, a picture has a largest size;
what it leaves out, its text says.

Legend: A attributes, Z latent size.
"""

import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _FAINT = "#24292f", "#d8dee4"
LOGARITHMIC_SPAN = 3
MARKED_POINTS = 30
"""fewer points than this are marked on a curve, and a single one is seen at all"""
MAX_NAMED = 100
"""the most rows with a name beside them: some 3,300 pixels of a heat map"""
UNNAMED_INCHES = 14.0
"""the side of a heat map without names"""
MAX_CELLS = 1000
"""the most vectors that a heat map compares: below, a cell would be less than a pixel"""
MAX_OPTIMAL = 500
"""the most leaves put in their best order, which takes cubic time: half a second for these"""
MAX_LABEL = 30
"""characters of a name in a picture"""
MAX_INCHES, DOTS_PER_INCH = 30.0, 120
_LOGARITHMIC_TICKS = [base * 10.0**power for power in range(-4, 5) for base in (1, 2, 5)]
_COLOURS = ("#1f6feb", "#d4582a", "#2da44e", "#8250df")


def cosine_similarity(vectors: Float[np.ndarray, "A Z"]) -> Float[np.ndarray, "A A"]:
    """The cosine of the angle between each two vectors: f64, symmetric, diagonal exactly 1."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit = vectors / lengths
    cosines = np.clip(unit @ unit.T, -1, 1)
    np.fill_diagonal(cosines, 1)
    return np.asarray(cosines)


def similarity_heatmap(
    vectors: Float[np.ndarray, "A Z"], names: Sequence[str], cluster: bool = True
) -> Image.Image:
    """Cosine similarities of the vectors, names on both axes, colours centred on 0.

    Vectors that are not finite, or zero, are left out. `cluster` puts similar attributes side by
    side (average linkage, optimal leaf order); otherwise they stay as given. More than `MAX_NAMED`
    have no names, and of more than `MAX_CELLS` an evenly spaced choice is shown.
    """
    usable = np.flatnonzero(np.isfinite(vectors).all(axis=1) & np.any(vectors != 0, axis=1))
    if not usable.size:
        return _note("No attribute has a vector.")
    count = f"{len(usable):,}"
    if len(usable) > MAX_CELLS:
        count = f"{MAX_CELLS:,} of {count}"
        usable = usable[np.linspace(0, len(usable) - 1, MAX_CELLS).astype(int)]
    similarity = cosine_similarity(vectors[usable])
    if cluster and len(usable) > 2:
        order = _clustered_order(similarity)
        similarity, usable = similarity[np.ix_(order, order)], usable[order]
    labels = [_label(names[int(place)]) for place in usable] if len(usable) <= MAX_NAMED else []
    side = _heatmap_inches(labels)
    figure = _figure(side + 0.6, side)
    axes = figure.add_subplot()
    picture = axes.imshow(similarity, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90, parse_math=False)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.tick_params(length=0)
    if labels:
        axes.set_xticks(np.arange(len(labels) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(labels) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=0.8)
        axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"Cosine similarity of {count} attribute vectors", pad=12)
    bar = figure.colorbar(picture, ax=axes, shrink=0.5, aspect=24, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.outline.set_visible(False)
    return _rendered(figure)


def _heatmap_inches(labels: Sequence[str]) -> float:
    """The side of a heat map with these names, or of one without any."""
    if not labels:
        return UNNAMED_INCHES
    longest = max(map(len, labels))
    return 3.2 + 0.235 * max(len(labels), 6) + 0.12 * max(longest - 16, 0)


def loss_curves(
    history: Sequence[Mapping[str, float | int]],
    keys: Sequence[str] | None = None,
    step: str = "step",
) -> Image.Image:
    """Loss terms over the training step, a panel per term.

    Keys such as `train/kl` and `val/kl` share the panel `kl`. A record may lack keys; values that
    are not finite leave a gap. The scale is logarithmic where positive values span a factor of 3.

    Args:
        history: a record per logged step, each with its step number under `step`.
        keys: the terms to draw, in this order; none: every key but `step`.
        step: key of the step number.
    """
    keys = keys or list(dict.fromkeys(key for record in history for key in record))
    panels: dict[str, list[str]] = {}
    for key in keys:
        if key != step:
            panels.setdefault(key.rpartition("/")[2], []).append(key)
    if not panels:
        return _note("No losses yet.")
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure(4.6 * columns, 3.4 * rows)
    for place, (term, members) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        for key, colour in zip(members, cycle(_COLOURS), strict=False):
            points = np.array([(r[step], r[key]) for r in history if key in r])
            if not len(points):
                continue
            marker = "o" if len(points) < MARKED_POINTS else None
            label = key.rpartition("/")[0] or key
            axes.plot(*points.T, color=colour, linewidth=1.6, marker=marker, ms=3, label=label)
        values = np.array([r[key] for r in history for key in members if key in r])
        values = values[np.isfinite(values)]
        if values.size and values.max() > LOGARITHMIC_SPAN * values.min() > 0:
            axes.set_yscale("log")
        axes.set_title(term.replace("_", " "))
        axes.set_xlabel(step)
        axes.grid(color=_FAINT, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        if len(axes.lines) > 1:
            axes.legend(frameon=False)
    return _rendered(figure)


def auc_bars(auc: Mapping[str, float | int]) -> Image.Image:
    """Areas under the ROC curve as bars from chance (0.5), best on top.

    Values that are not finite come last, marked n/a. Of more than `MAX_NAMED` attributes, the best
    and the worst of those with a value are shown.
    """
    if not auc:
        return _note("No attribute has a score.")
    ordered = sorted(auc.items(), key=lambda item: (not np.isfinite(item[1]), -item[1], item[0]))
    left_out = ""
    if len(ordered) > MAX_NAMED:
        ordered, left_out = _best_and_worst(ordered)
        if not ordered:
            return _note(left_out)
    values = np.array([value for _, value in ordered])
    finite = np.isfinite(values)
    figure = _figure(7.2, 1.3 + 0.24 * max(len(ordered), 3))
    axes = figure.add_subplot()
    lengths = np.where(finite, values - 0.5, 0)
    colours = [_COLOURS[0] if length >= 0 else _COLOURS[1] for length in lengths]
    axes.barh(range(len(ordered)), lengths, left=0.5, height=0.72, color=colours)
    for row, (_, value) in enumerate(ordered):
        text, beyond = (f"{value:.3f}", max(value, 0.5)) if finite[row] else ("n/a", 0.5)
        axes.text(beyond + 0.006, row, text, va="center", fontsize=8)
    axes.axvline(0.5, color=_INK, linewidth=1)
    axes.set_yticks(range(len(ordered)), [_label(name) for name, _ in ordered], parse_math=False)
    axes.set_title(left_out)
    axes.set_ylim(len(ordered) - 0.4, -0.6)
    axes.set_xlim(min(0.48, *(values[finite] - 0.02), 0.48), 1.05)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("AUC on held-out images; the line at 0.5 is chance")
    axes.grid(axis="x", color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    return _rendered(figure)


def confidence_bars(
    names: Sequence[str],
    errors: Mapping[str, Float[np.ndarray, " A"]],
    variance_inflation: Float[np.ndarray, " A"],
) -> Image.Image:
    """How sure directions are: relative standard errors by method, and variance inflation beside.

    The surest of the last method on top; attributes without an error come last, marked n/a. Of more
    than `MAX_NAMED`, the surest are shown. Both axes are logarithmic.

    Args:
        names: the attributes.
        errors: by method, the length of each direction's standard errors over its own length.
        variance_inflation: of each attribute's label.
    """
    last = list(errors.values())[-1] if errors else np.empty(0)
    order = np.argsort(np.where(np.isfinite(last), last, np.inf), kind="stable")[:MAX_NAMED]
    if not np.isfinite(last).any():
        return _note("No direction has a standard error.")
    figure = _figure(9.6, 1.3 + 0.24 * max(len(order), 3))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[2, 1])
    rows = np.arange(len(order))
    for (method, values), colour in zip(errors.items(), cycle(_COLOURS), strict=False):
        left.plot(values[order], rows, "o", ms=5, color=colour, label=method)
    for row in rows[~np.isfinite(last[order])]:
        left.text(0.01, row, "n/a", va="center", fontsize=8, transform=left.get_yaxis_transform())
    finite = np.where(np.isfinite(variance_inflation), variance_inflation, np.nan)[order]
    right.barh(rows, np.nan_to_num(finite - 1), left=1, height=0.72, color=_COLOURS[0])
    for row, value in zip(rows, variance_inflation[order], strict=True):
        text = "n/a" if np.isnan(value) else f"{value:.3g}"
        beyond = value if np.isfinite(value) else 1.0
        right.annotate(text, (beyond, row), (4, 0), textcoords="offset points", va="center",
                       fontsize=8)  # fmt: skip
    left.set_yticks(rows, [_label(names[int(place)]) for place in order], parse_math=False)
    left.set_ylim(len(order) - 0.4, -0.6)
    left.set_xscale("log")
    right.set_xscale("log")
    right.set_xlim(0.95, 2.2 * max(float(np.nanmax([*finite, 1.0])), 5))
    left.set_xlabel("standard error / length of the direction (jackknife)")
    right.set_xlabel("variance inflation (1: uncorrelated)")
    left.legend(frameon=False, loc="upper right")
    for axes in (left, right):
        low, high = axes.get_xlim()
        ticks = [t for t in _LOGARITHMIC_TICKS if low <= t <= high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="x", color=_FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
    return _rendered(figure)


def _best_and_worst(
    ordered: list[tuple[str, float | int]],
) -> tuple[list[tuple[str, float | int]], str]:
    """As many attributes as have room, of those with a value, and what the picture says of it."""
    scored = [item for item in ordered if np.isfinite(item[1])]
    missing = len(ordered) - len(scored)
    note = f" (without a value: {missing:,})" if missing else ""
    if not scored:
        return [], f"None of {len(ordered):,} attributes has a value."
    if len(scored) <= MAX_NAMED:
        return scored, f"{len(scored):,} attributes{note}"
    half = MAX_NAMED // 2
    shown = scored[:half] + scored[-half:]
    return shown, f"{half} best and {half} worst of {len(scored):,} attributes{note}"


def rate_bars(panels: Mapping[str, Mapping[str, Sequence[float | int]]]) -> Image.Image:
    """Rates as bars with their range, a panel per case.

    Args:
        panels: by case, by name: median, lowest and highest, in images per second.
    """
    if not panels:
        return _note("No rates were measured.")
    heights = [len(bars) + 1.4 for bars in panels.values()]
    figure = _figure(7.6, 0.5 + 0.3 * sum(heights))
    grid = figure.add_gridspec(len(panels), 1, height_ratios=heights)
    for place, (case, bars) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[place])
        values = np.array([list(each)[:3] for each in bars.values()])
        middle, low, high = values.T
        colours = [_COLOURS[0] if name.startswith("ours") else "#8c959f" for name in bars]
        error = np.stack([middle - low, high - middle])
        axes.barh(range(len(bars)), middle, xerr=error, color=colours, ecolor=_INK, height=0.7)
        for row, (value, beyond) in enumerate(zip(middle, high, strict=True)):
            axes.annotate(f"{value:,.0f}", (beyond, row), (4, 0), textcoords="offset points",
                          va="center", fontsize=8)  # fmt: skip
        axes.set_yticks(range(len(bars)), list(bars))
        axes.invert_yaxis()
        axes.set_xlim(0, 1.15 * high.max())
        axes.set_title(f"{case}, images/s", loc="left", fontsize=10)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
    return _rendered(figure)


def _clustered_order(similarity: Float[np.ndarray, "A A"]) -> list[int]:
    """Positions in the leaf order of an average-linkage tree over the distances 1 - cosine."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    distances = squareform(1 - similarity, checks=False)
    tree = linkage(distances, "average", optimal_ordering=len(similarity) <= MAX_OPTIMAL)
    return [int(leaf) for leaf in leaves_list(tree)]


def _label(name: str) -> str:
    """A name as a picture shows it: on one line; of a long one both ends."""
    text = " ".join(name.replace("_", " ").split())
    half = MAX_LABEL // 2
    return text if len(text) <= MAX_LABEL else f"{text[:half]}…{text[1 - half :]}"


def _figure(width: float, height: float) -> "Figure":
    """An empty figure of a size in inches, at most `MAX_INCHES` a side."""
    from matplotlib.figure import Figure

    size = min(width, MAX_INCHES), min(height, MAX_INCHES)
    return Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")


def _note(text: str) -> Image.Image:
    """A small picture that says why there is nothing to see."""
    figure = _figure(4.0, 1.0)
    figure.text(0.5, 0.5, text, ha="center", va="center", color=_INK)
    return _rendered(figure)


def _rendered(figure: "Figure") -> Image.Image:
    """The figure as an RGB picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A box stands for a character that the font lacks; a user can do nothing about it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
