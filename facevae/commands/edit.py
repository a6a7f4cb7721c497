"""`edit`: stored faces and vectors to pictures of edited faces."""

import hashlib
from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from facevae.commands.edit_inputs import EditInputs, read_inputs
from facevae.commands.edit_photo import edit_photo
from facevae.commands.paths import check_paths, with_absolute_paths
from facevae.commands.run_step import Metrics, Step, Work, run_step
from facevae.config import EditConfig
from facevae.editing.edits import Edited, directions_of, edit_stored
from facevae.editing.latent_edit import decode, edit_fidelity
from facevae.editing.photo_editor import GRID, LABELLED_GRID, remove_earlier
from facevae.report.grids import save_png
from facevae.report.spectrum import high_frequencies, mesh
from facevae.report.strength_grids import labelled_strength_grid, strength_grid
from facevae.runs import storage
from facevae.runs.progress import log
from facevae.tracking import Run


def edit_faces(config: EditConfig) -> Metrics:
    """Decode faces at every strength; writes `edit.png`, `edit_labelled.png` and `result.json`.

    With `--image`, those of a photo or of a folder of photos: see `edit_photo` and `edit_folder`.

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
    if config.image is not None:
        return edit_photo(config, config.image)
    inputs = read_inputs(config)
    edited = edit_stored(inputs.vectors_uri, inputs.vectors, config.editing)
    settings = config.model_dump(mode="json")
    step = Step(
        command="edit",
        output=output,
        tracking=config.tracking,
        claim="edit.json",
        identity={
            "editing": settings["editing"],
            "image": None,
            **inputs.digests,
            "latents": hashlib.sha256(edited.latents.tobytes()).hexdigest(),
        },
        product=LABELLED_GRID,
        written={"": r"edit(_labelled)?\.png|card\.json|result\.json"},
        is_reusable=True,
    )
    edit = partial(_edit, config, output, inputs, edited)
    work = Work(settings, step.identity, edit, inputs.model_run)
    metrics = run_step(step, lambda _: work)
    log("faces: " + " ".join(edited.names))
    return metrics


def _edit(
    config: EditConfig,
    output: str,
    inputs: EditInputs,
    edited: Edited,
    run: Run,
) -> Metrics:
    editing, names, columns = config.editing, edited.names, edited.columns
    vae = inputs.vae
    run.tags(inputs.tags())
    remove_earlier(output)
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
        directions = directions_of(inputs.vectors, editing)
        metrics |= edit_fidelity(vae, decoded, inputs.vectors, editing, directions)
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
