"""`compare`: evaluated models to a ranking on the same held-out images."""

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from facevae.commands.evaluate import DETAILS, RECONSTRUCTIONS
from facevae.commands.paths import check_paths, with_absolute_paths
from facevae.commands.run_step import RESULT, Metrics, Step, Work, run_step
from facevae.config import CompareConfig
from facevae.errors import UserError
from facevae.evaluation.comparison import (
    MARGINS,
    OF_NETWORK,
    Evaluated,
    Figure,
    Ranked,
    figure_of,
    rank_models,
    share_images,
)
from facevae.evaluation.image_table import IMAGES, read_images
from facevae.report import evaluation_plots
from facevae.report.grids import read_png, save_or_warn
from facevae.runs import storage
from facevae.runs.progress import log, progress
from facevae.tracking import Run

TABLE, COMPARISON = "comparison.csv", "comparison.json"
PICTURES = ("comparison.png", "strips.png")
BY_NETWORK = (
    *("perceptual_distance", "frechet", "frechet_floor"),
    *("edit_success/mean", "leakage/mean", "identity_kept/mean"),
)
SUMMARY = (
    *("auc/mean", "average_precision/mean", "balanced_accuracy/mean"),
    *("psnr", "ssim", "kl/mean", "active_units", *BY_NETWORK),
)
"""metrics of the evaluations that stand beside each other in the table"""


class Evaluation(NamedTuple):
    """A finished evaluation."""

    label: str
    folder: str
    details: Mapping[str, Any]
    """its `evaluation.json`"""

    @property
    def network(self) -> str:
        """The weights of the face network that looked at its pixels."""
        return str(self.details["network"]["digest"])


def compare_models(config: CompareConfig) -> Metrics:
    """Rank models by one figure; writes `comparison.json`, `.csv`, `.png` and `strips.png`.

    Returns:
        `rank/<run>`, `<figure>/<run>` with the bounds of its interval, `low/<run>` and
        `high/<run>`, and `images`.

    Raises:
        UserError: an evaluation that is not finished, models without a common held-out image or
            measured by different networks, or a figure that they cannot be ranked by.
    """
    config = with_absolute_paths(config)
    check_paths({"--output": config.output}, machines=1)
    runs = _evaluations(config.runs)
    figure = figure_of(config.primary, runs[0].details["attributes"])
    _check_alike(runs, figure)
    settings = config.model_dump(mode="json")
    step = Step(
        command="compare",
        output=config.output,
        tracking=config.tracking,
        claim="comparison_of.json",
        identity={
            "evaluations": [_identity(run) for run in runs],
            **{name: settings[name] for name in ("primary", "margin", "resamples", "seed")},
        },
        product=COMPARISON,
        written={"": r"comparison\.(json|csv|png)|strips\.png|result\.json"},
        is_reusable=True,
    )
    work = Work(settings, step.identity, partial(_compare, config, runs, figure))
    metrics = run_step(step, lambda _: work)
    log(str(storage.read_json(storage.join(config.output, COMPARISON))["text"]))
    return metrics


def _evaluations(names: Sequence[str]) -> list[Evaluation]:
    """The evaluations that folders hold, each with a label of its own."""
    folders = [_folder(storage.absolute(name)) for name in names]
    if len(set(folders)) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise UserError(f"{twice} is named twice: a model is not compared with itself")
    parts = 1
    while len(labels := {"/".join(f.split("/")[-parts:]) for f in folders}) < len(folders):
        parts += 1
    found = []
    for folder in folders:
        details = storage.read_json(storage.join(folder, DETAILS))
        found.append(Evaluation("/".join(folder.split("/")[-parts:]), folder, details))
    assert len(labels) == len(found)
    for other in found[1:]:
        if other.details["attributes"] != found[0].details["attributes"]:
            raise UserError(
                f"{other.label} was evaluated with other attributes than {found[0].label}: "
                "evaluate both on the same shards"
            )
    return found


def _folder(name: str) -> str:
    """The output folder of a finished evaluation that a path names, or that lies in it."""
    for folder in (name, storage.join(name, "evaluate")):
        if storage.exists(storage.join(folder, DETAILS)):
            if not storage.exists(storage.join(folder, RESULT)):
                break
            return folder
    raise UserError(
        f"no finished evaluation in {name}: give the output folder of `facevae evaluate`, and let "
        "that finish first"
    )


def _identity(run: Evaluation) -> dict[str, Any]:
    """What a comparison has of a model: all that was measured of its images, and of their sums."""
    return {
        "folder": run.folder,
        "details": storage.value_digest(run.details),
        "images": hashlib.sha256(storage.read_bytes(storage.join(run.folder, IMAGES))).hexdigest(),
    }


def _check_alike(runs: Sequence[Evaluation], figure: Figure) -> None:
    """Check that the figure of all models is one figure."""
    first = runs[0]
    for run in runs[1:]:
        if run.details["people_known"] != first.details["people_known"]:
            known, other = sorted((run, first), key=lambda each: not each.details["people_known"])
            raise UserError(
                f"{known.label} was evaluated with --identities and {other.label} without: "
                "evaluate both with the same table, or both without"
            )
        if figure.kind in OF_NETWORK and run.network != first.network:
            raise UserError(
                f"{figure.name} of {run.label} is of another face network than that of "
                f"{first.label}: name one for both with --evaluation.judge"
            )
        sizes = run.details["image_size"], first.details["image_size"]
        if figure.kind in ("psnr", "ssim") and sizes[0] != sizes[1]:
            log(f"warning: {figure.name} of {sizes[0]} pixels beside that of {sizes[1]}")


def _compare(
    config: CompareConfig, runs: Sequence[Evaluation], figure: Figure, run: Run
) -> Metrics:
    models = [Evaluated.of(r.label, read_images(storage.join(r.folder, IMAGES))) for r in runs]
    models = share_images(models)
    margin = MARGINS[figure.kind] if config.margin is None else config.margin
    with progress("compare", config.resamples, "resamples") as bar:
        ranked = rank_models(
            models,
            figure,
            runs[0].details["attributes"],
            margin,
            config.resamples,
            config.seed,
            bar,
        )
    images, people = len(models[0].image_id), len(np.unique(models[0].identity))
    drawn = f"{people:,} people" if all(r.details["people_known"] for r in runs) else "images"
    told = _text(ranked, figure, margin, images, drawn)
    columns = _columns(runs)
    rows = [{**each._asdict(), **columns[each.label]} for each in ranked]
    details = {"figure": figure.name, "margin": margin, "images": images, "people": people,
               "models": rows, "text": told}  # fmt: skip
    storage.write_json(storage.join(config.output, COMPARISON), storage.without_nan(details))
    run.json(COMPARISON, details)
    _write_table(storage.join(config.output, TABLE), rows, run)
    metrics = {"images": float(images)}
    for each in ranked:
        metrics |= {
            f"rank/{each.label}": float(each.rank),
            f"{figure.name}/{each.label}": each.value,
            f"low/{each.label}": each.low,
            f"high/{each.label}": each.high,
        }
    run.metrics(0, metrics)
    _draw(config.output, runs, ranked, figure, run)
    return metrics


def _columns(runs: Sequence[Evaluation]) -> dict[str, dict[str, float | None]]:
    """The metrics of each run's table row; those of a face network only where it saw all."""
    is_one = len({run.network for run in runs}) == 1
    if not is_one:
        log(f"{', '.join(BY_NETWORK)} are left out: they are of different face networks")
    names = [n for n in SUMMARY if is_one or n not in BY_NETWORK]
    return {r.label: {n: r.details["metrics"].get(n) for n in names} for r in runs}


def _text(ranked: Sequence[Ranked], figure: Figure, margin: float, images: int, drawn: str) -> str:
    """The ranking for a person to read."""
    width = max(len(each.label) for each in ranked)
    lines = [
        f"{figure.name}, {'higher' if figure.sign > 0 else 'lower'} is better; {images:,} images; "
        f"95 % intervals over {drawn}; a difference up to {margin:g} is a tie"
    ]
    for each in ranked:
        tied = [o.label for o in ranked if o.rank == each.rank and o is not each]
        note = f"  tied with {', '.join(tied)}" if tied else ""
        lines.append(
            f"{each.rank:>3}  {each.label:<{width}}  {each.value:.4f}  "
            f"[{each.low:.4f}, {each.high:.4f}]{note}"
        )
    return "\n".join(lines)


def _write_table(uri: str, rows: Sequence[Mapping[str, Any]], run: Run) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with storage.atomic_file(uri) as path:
        path.write_text(text.getvalue(), encoding="utf-8")
    with storage.local_copy(storage.parent(uri)) as folder:
        run.file(folder / TABLE)


def _draw(
    output: str,
    runs: Sequence[Evaluation],
    ranked: Sequence[Ranked],
    figure: Figure,
    run: Run,
) -> None:
    """Write and log the pictures."""
    bars = [(each.label, each.rank, each.value, each.low, each.high) for each in ranked]
    charts = {"comparison.png": partial(evaluation_plots.interval_bars, bars, figure.name)}
    if strips := _strips(runs, [each.label for each in ranked]):
        charts["strips.png"] = partial(evaluation_plots.strips, strips)
    for name in PICTURES:  # what another comparison here had may have no place in this one
        storage.remove_file(storage.join(output, name))
    for name, draw in charts.items():
        if picture := save_or_warn(draw, storage.join(output, name)):
            run.picture(name, picture)


def _strips(
    runs: Sequence[Evaluation], order: Sequence[str]
) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
    """The same faces of each model, and themselves; empty if they were not the same."""
    if len({run.details["shards_digest"] for run in runs}) > 1:
        return {}
    by_label = {run.label: read_png(storage.join(run.folder, RECONSTRUCTIONS)) for run in runs}
    pictures = {label: by_label[label] for label in order}
    found: dict[str, UInt8[np.ndarray, "H W 3"]] = {}
    for label, picture in pictures.items():
        if picture is not None:
            middle = len(picture) // 2
            found.setdefault("faces", picture[:middle])
            found[label] = picture[middle:]
    return found
