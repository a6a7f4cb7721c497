"""`edit`: stored faces and vectors to pictures of edited faces."""

import numpy as np

from facevae import pictures, storage
from facevae.attributes.hdf5 import VECTORS, read_vectors
from facevae.checkpoint import load_model
from facevae.config import EditConfig
from facevae.editing.edit import choose_faces, decode_strengths, kept_change
from facevae.editing.grid import labelled_strength_grid, strength_grid
from facevae.progress import say
from facevae.ray_job import submission_id
from facevae.tracking import (
    TRAINING_RUN_TAG,
    VECTORS_RUN_TAG,
    model_folder,
    read_run_id,
    start_run,
    trained_by,
)
from facevae.verbs.places import check_places


def edit_faces(config: EditConfig) -> dict[str, float]:
    """Draw faces at every strength; writes `edit.png`, `edit_labelled.png` and `result.json`.

    Returns:
        Counts, and `kept/<attribute>`: the share of the asked-for change along the vector that is
        found again when the edited faces are encoded (1: all of it).

    Raises:
        UserError: no such model, vectors, attribute or face; or vectors of another model.
    """
    output = storage.absolute(config.output)
    check_places({"--output": output}, machines=1)
    uri = _vectors_file(storage.absolute(config.vectors))
    vectors = read_vectors(uri)
    with model_folder(config.model, config.tracking, output) as path:
        vae, card = load_model(path)
    vectors.check_model(card.digest)
    editing = config.editing
    direction = np.sum([vectors.vector(name) for name in editing.attribute], axis=0)
    faces = choose_faces(uri, editing)
    storage.make_folder(output)
    if read_run_id(output) is None:
        storage.refuse_foreign(output, r"edit(_labelled)?\.png|result\.json")
    settings = config.model_dump(mode="json")
    training_run = trained_by(config.model, card)
    with start_run(
        config.tracking,
        "edit",
        output,
        settings,
        model_run=training_run,
        submission_id=submission_id(),
        work=storage.value_digest(
            [settings["editing"], card.digest, vectors.shards_digest, vectors.labels_digest]
        ),
    ) as run:
        vectors_run = read_run_id(str(uri).rpartition("/")[0])
        run.tags(
            {
                TRAINING_RUN_TAG: card.run_id,
                VECTORS_RUN_TAG: vectors_run.run_id if vectors_run else "",
            }
        )
        decoded = decode_strengths(vae, faces.latents, direction, editing.strengths)
        grid = strength_grid(decoded, editing.columns)
        pictures.save_png(grid, storage.join(output, "edit.png"))
        labelled = labelled_strength_grid(
            decoded, editing.strengths, faces.image_id, editing.columns
        )
        pictures.save_png(labelled, storage.join(output, "edit_labelled.png"))
        run.image("edit", 0, grid)
        run.picture("edit_labelled.png", labelled)
        run.json("faces.json", faces.image_id)
        metrics = {
            "faces": float(len(faces.image_id)),
            "strengths": float(len(editing.strengths)),
            **kept_change(vae, decoded, vectors, editing),
        }
        run.metrics(0, metrics)
    storage.write_json(storage.join(output, "result.json"), metrics)
    say("faces: " + " ".join(faces.image_id))
    return metrics


def _vectors_file(uri: str) -> str:
    inside = storage.join(uri, VECTORS)
    return inside if storage.exists(inside) else uri
