"""`align`: photographs to faces, found and cut out."""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice

from PIL import Image

from facevae.commands.paths import check_paths, paths_of, with_absolute_paths
from facevae.commands.run_step import Metrics, Step, Work, run_step
from facevae.config import AlignConfig
from facevae.data.aligned_files import SUMMARY, parts_digest, photographs_of
from facevae.data.detector_actors import DetectorPlan, plan_detectors
from facevae.data.make_aligned import (
    WRITTEN,
    AlignmentResult,
    PartPlan,
    describe_alignment,
    make_aligned,
    plan_parts,
)
from facevae.data.sources.photographs import Photographs
from facevae.ray_cluster.connect import connect
from facevae.ray_cluster.nodes import cluster_nodes
from facevae.report.grids import save_or_warn
from facevae.report.sheets import THUMBNAIL, named_sheet
from facevae.runs import storage
from facevae.tracking import Run

LOST_FACES = "lost_faces.png"
MOST_LOST = 64
"""photographs on the sheet of those without a face"""


def align_photographs(config: AlignConfig) -> Metrics:
    """Find and cut out the faces of photographs, or go on with it, or find it done.

    Leaves `parts/part-*.parquet` with the faces, `alignment.parquet` with a row for each photograph
    or face, `aligned.json`, and `lost_faces.png` where a photograph has no face that was found.

    Returns:
        `photographs`, `photographs/<status>`, `faces`, `found` (the share of the photographs that
        were searched in which there is a face) and `images_per_second`.

    Raises:
        UserError: no photographs, a folder of something else, another driver at work on it, or a
            photograph without a face where `alignment.no_face` is `fail`.
    """
    config = with_absolute_paths(config)
    source = Photographs(config.images)
    plans = plan_parts(source.listing(), config.parts.images)
    step = Step(
        command="align",
        output=config.output,
        tracking=config.tracking,
        claim="source.json",
        identity=describe_alignment(config, source, plans),
        product=SUMMARY,
        why_missing="no photograph was searched by this command",
        written={"": r"aligned\.json|alignment\.parquet|lost_faces\.png|result\.json", **WRITTEN},
    )
    return run_step(step, partial(_prepare, config, source, plans, step.identity))


def _prepare(
    config: AlignConfig,
    source: Photographs,
    plans: list[PartPlan],
    identity: Mapping[str, object],
    _: Mapping[str, object],
) -> Work:
    connect()
    nodes = cluster_nodes()
    check_paths(paths_of(config), len(nodes))
    plan = plan_detectors(config.parts, nodes)
    run = partial(_align, config, source, plans, plan)
    return Work(config.model_dump(mode="json"), identity, run)


def _align(
    config: AlignConfig, source: Photographs, plans: list[PartPlan], plan: DetectorPlan, run: Run
) -> Metrics:
    started = time.perf_counter()
    result = make_aligned(config, source, plans, plan)
    metrics = _metrics(result, time.perf_counter() - started)
    run.dataset("aligned", parts_digest(result.parts), "written")
    run.metrics(0, metrics)
    if result.photographs["no_face"]:
        lost = photographs_of(config.output, result.parts, "no_face")
        title = (
            f"no face found: {result.photographs['no_face']:,} of {int(metrics['photographs']):,}"
        )
        draw = partial(lost_faces, source.load, lost, title)
        sheet = save_or_warn(draw, storage.join(config.output, LOST_FACES))
        if sheet is not None:
            run.picture(LOST_FACES, sheet)
    return metrics


def _metrics(result: AlignmentResult, seconds: float) -> Metrics:
    counts = result.photographs
    searched = counts["ok"] + counts["no_face"]
    return {
        "photographs": float(sum(counts.values())),
        **{f"photographs/{status}": float(count) for status, count in counts.items()},
        "faces": float(result.faces),
        "found": counts["ok"] / searched if searched else float("nan"),
        "images_per_second": result.aligned_now / seconds if result.aligned_now else float("nan"),
    }


def lost_faces(load: Callable[[str], Image.Image], lost: Iterable[str], title: str) -> Image.Image:
    """The sheet of the first photographs without a face, small and with their names."""
    named = {}
    for name in islice(lost, MOST_LOST):
        named[name] = load(name)
        named[name].thumbnail((THUMBNAIL, THUMBNAIL), reducing_gap=3.0)
    return named_sheet(named, title)
