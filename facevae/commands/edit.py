"""`edit`: stored faces and vectors to pictures of edited faces."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import UInt8

from facevae.attributes.hdf5 import read_vectors, vectors_file
from facevae.attributes.vectors import AttributeVectors, LatentBatch
from facevae.commands.paths import check_paths, with_absolute_paths
from facevae.commands.run_step import Metrics, Step, Work, run_step
from facevae.config import EditConfig
from facevae.editing.latent_edit import choose_faces, decode_strengths, edit_fidelity
from facevae.models import VAE
from facevae.models.checkpoint import load_model
from facevae.report.grids import save_png
from facevae.report.spectrum import high_frequencies, mesh
from facevae.report.strength_grids import labelled_strength_grid, strength_grid
from facevae.runs import storage
from facevae.runs.progress import log
from facevae.tracking import (
    TRAINING_RUN_TAG,
    VECTORS_RUN_TAG,
    Run,
    model_folder,
    read_run_id,
    trained_by,
)

GRID, LABELLED_GRID = "edit.png", "edit_labelled.png"


def edit_faces(config: EditConfig) -> Metrics:
    """Decode faces at every strength; writes `edit.png`, `edit_labelled.png` and `result.json`.

    Returns:
        Counts, and `kept/<attribute>`: the share of the asked-for change along the vector that is
        found again when the edited faces are encoded (1: all of it); `mesh/strength_<s>` and
        `high_frequencies/strength_<s>` of the lowest and the highest strength (report/spectrum.py).

    Raises:
        UserError: no such model, vectors, attribute or face; or vectors of another model.
    """
    config = with_absolute_paths(config)
    output = config.output
    check_paths({"--output": output}, machines=1)
    uri = vectors_file(config.vectors)
    vectors = read_vectors(uri)
    with model_folder(config.model, config.tracking, output) as path:
        vae, card = load_model(path)
    vectors.check_model(card.digest)
    for name in config.editing.attribute:
        vectors.vector(name)
    faces = choose_faces(uri, config.editing)
    vectors_run = read_run_id(storage.parent(uri))
    tags = {
        TRAINING_RUN_TAG: card.run_id,
        VECTORS_RUN_TAG: vectors_run.run_id if vectors_run else "",
    }
    settings = config.model_dump(mode="json")
    step = Step(
        command="edit",
        output=output,
        tracking=config.tracking,
        claim="edit.json",
        identity={
            "editing": settings["editing"],
            "model_digest": card.digest,
            "shards_digest": vectors.shards_digest,
            "labels_digest": vectors.labels_digest,
        },
        product=LABELLED_GRID,
        written={"": r"edit(_labelled)?\.png|result\.json"},
        is_reusable=True,
    )
    edit = partial(_edit, config, output, vae, vectors, faces, tags)
    work = Work(settings, step.identity, edit, trained_by(config.model, card))
    metrics = run_step(step, lambda _: work)
    log("faces: " + " ".join(faces.image_id))
    return metrics


def _edit(
    config: EditConfig,
    output: str,
    vae: VAE,
    vectors: AttributeVectors,
    faces: LatentBatch,
    tags: dict[str, str],
    run: Run,
) -> Metrics:
    editing = config.editing
    run.tags(tags)
    direction = np.sum([vectors.vector(name) for name in editing.attribute], axis=0)
    decoded = decode_strengths(vae, faces.latents, direction, editing.strengths)
    grid = strength_grid(decoded, editing.columns)
    labelled = labelled_strength_grid(decoded, editing.strengths, faces.image_id, editing.columns)
    save_png(grid, storage.join(output, GRID))
    save_png(labelled, storage.join(output, LABELLED_GRID))
    run.image("edit", 0, grid)
    run.picture(LABELLED_GRID, labelled)
    run.json("faces.json", faces.image_id)
    metrics = {
        "faces": float(len(faces.image_id)),
        "strengths": float(len(editing.strengths)),
        **edit_fidelity(vae, decoded, vectors, editing),
        **_artefacts(decoded, editing.strengths),
    }
    run.metrics(0, metrics)
    return metrics


def _artefacts(
    decoded: UInt8[np.ndarray, "F K S S 3"], strengths: Sequence[float]
) -> dict[str, float]:
    """What the faces at the lowest and the highest strength have that is in no face."""
    ends = {int(np.argmin(strengths)), int(np.argmax(strengths))}
    return {
        f"{name}/strength_{strengths[end]:g}": measure(decoded[:, end])
        for name, measure in (("mesh", mesh), ("high_frequencies", high_frequencies))
        for end in sorted(ends)
    }
