"""`edit`: stored faces and vectors to pictures of edited faces."""

import hashlib
from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from facevae.attributes.hdf5 import read_vectors, vectors_file
from facevae.attributes.vectors import AttributeVectors
from facevae.commands.paths import check_paths, with_absolute_paths
from facevae.commands.run_step import Metrics, Step, Work, run_step
from facevae.config import EditConfig
from facevae.editing.edits import Edited, directions_of, edit_stored
from facevae.editing.latent_edit import decode, edit_fidelity
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
        Counts; for strengths `kept/<attribute>`: the share of the asked-for change along the
        direction that is found again when the edited faces are encoded (1: all of it), and how
        scores change (`edit_fidelity`); `stopped`: the share of the moves that damping stopped;
        `mesh/strength_<s>` and `high_frequencies/strength_<s>` of the lowest and the highest column
        (report/spectrum.py).

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
    edited = edit_stored(uri, vectors, config.editing)
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
            "latents": hashlib.sha256(edited.latents.tobytes()).hexdigest(),
        },
        product=LABELLED_GRID,
        written={"": r"edit(_labelled)?\.png|result\.json"},
        is_reusable=True,
    )
    edit = partial(_edit, config, output, vae, vectors, edited, tags)
    work = Work(settings, step.identity, edit, trained_by(config.model, card))
    metrics = run_step(step, lambda _: work)
    log("faces: " + " ".join(edited.names))
    return metrics


def _edit(
    config: EditConfig,
    output: str,
    vae: VAE,
    vectors: AttributeVectors,
    edited: Edited,
    tags: dict[str, str],
    run: Run,
) -> Metrics:
    editing, names, columns = config.editing, edited.names, edited.columns
    run.tags(tags)
    decoded = decode(vae, edited.latents)
    grid = strength_grid(decoded, edited.rows_side_by_side)
    if editing.kind == "random":
        labelled = Image.fromarray(grid)  # these have neither names nor strengths
    else:
        labelled = labelled_strength_grid(decoded, columns, names, edited.rows_side_by_side)
    save_png(grid, storage.join(output, GRID))
    save_png(labelled, storage.join(output, LABELLED_GRID))
    run.image("edit", 0, grid)
    run.picture(LABELLED_GRID, labelled)
    run.json("faces.json", names)
    metrics = {
        "faces": float(len(names)),
        "strengths": float(len(columns)),
        **_artefacts(decoded, columns),
    }
    if edited.stopped.any():
        metrics["stopped"] = float(edited.stopped.mean())
        log(
            f"{int(edited.stopped.sum())} of {edited.stopped.size} moves were stopped where they "
            "would leave the data; --editing.damp false lets them go on"
        )
    if editing.kind == "attribute" and editing.level is None:
        directions = directions_of(vectors, editing)
        metrics |= edit_fidelity(vae, decoded, vectors, editing, directions)
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
