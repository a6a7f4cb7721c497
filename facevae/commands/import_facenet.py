"""`import-facenet`: a checkpoint of the original, and its vectors, to a model and vectors."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from facevae.attributes.hdf5 import (
    VECTORS,
    read_batches,
    read_rows,
    read_vectors,
    vectors_file,
    write_hdf5,
)
from facevae.attributes.vectors import AttributeVectors
from facevae.commands.paths import check_paths, with_absolute_paths
from facevae.commands.run_step import Metrics, Step, Work, run_step
from facevae.config import ImportFacenetConfig, ModelConfig
from facevae.errors import UserError
from facevae.models import VAE
from facevae.models.checkpoint import (
    CARD,
    MODEL_FILES,
    ModelCard,
    export_model,
    load_model,
    save_model,
)
from facevae.models.facenet_checkpoint import (
    CheckpointReader,
    FacenetCheckpoint,
    local_checkpoint,
)
from facevae.models.facenet_names import find_model, state_of, variable_shapes
from facevae.pixels import to_pixels
from facevae.report.grids import image_grid, save_png
from facevae.runs import storage
from facevae.runs.progress import log
from facevae.tracking import MODEL_NAME, Run, log_model

FACES = "faces.png"
SHOWN, COLUMNS, EXAMPLES = 32, 8, 2
TRAINED_ON = {"framing": "box", "margin": 44, "size": 182, "crop": [11, 11, 171, 171]}
"""how the original cuts faces out of photographs: align_dataset_mtcnn.py, and the middle of that"""


class Vectors(NamedTuple):
    """The original's vectors: their file, and what is in it."""

    uri: str
    digest: str
    """SHA-256 of the file"""
    vectors: AttributeVectors
    images: int


class Original(NamedTuple):
    """What is imported."""

    checkpoint: FacenetCheckpoint
    model: ModelConfig
    state: dict[str, torch.Tensor]
    ignored: int
    """variables of the checkpoint that are not the VAE's"""
    vectors: Vectors | None


def import_facenet(config: ImportFacenetConfig) -> Metrics:
    """Make a model, and vectors bound to it, of the original's checkpoint and HDF5 file.

    Writes `model/`, `attribute_vectors.h5`, `faces.png` (the first stored faces, or random ones
    where there are no vectors) and `result.json`; the model is logged as a trained one is.

    Returns:
        Counts: variables of the VAE, others in the checkpoint, images and vectors.

    Raises:
        UserError: no such checkpoint or vectors, of another model, or damaged; or TensorFlow is not
            installed. Nothing is written then.
    """
    config = with_absolute_paths(config)
    check_paths({"--output": config.output}, machines=1)
    vectors = None if config.vectors is None else _read_vectors(config.vectors)
    with local_checkpoint(config.checkpoint) as checkpoint:
        identity = {
            "checkpoint_digest": checkpoint.digest(),
            "vectors_digest": vectors and vectors.digest,
        }
        step = Step(
            command="import-facenet",
            output=config.output,
            tracking=config.tracking,
            claim="import.json",
            identity=identity | ({} if config.model is None else {"model": config.model}),
            product=f"{MODEL_NAME}/{CARD}",
            written={
                "": rf"{re.escape(VECTORS)}|{re.escape(FACES)}|result\.json",
                MODEL_NAME: "|".join(map(re.escape, MODEL_FILES)),
            },
        )
        return run_step(step, partial(_prepare, config, checkpoint, vectors, identity))


def _read_vectors(given: str) -> Vectors:
    """The vectors of a file, every image of which can be read."""
    uri = vectors_file(given)
    vectors = read_vectors(uri)
    images = sum(len(batch.image_id) for batch in read_batches(uri))
    with storage.local_copy(uri) as path:
        return Vectors(uri, storage.file_digest(path), vectors, images)


def _prepare(
    config: ImportFacenetConfig,
    checkpoint: FacenetCheckpoint,
    vectors: Vectors | None,
    identity: dict[str, Any],
    claimed: Mapping[str, Any],
) -> Work:
    log(f"import-facenet: TensorFlow starts, to read {checkpoint.uri}")
    reader = CheckpointReader(checkpoint)
    model = find_model(reader.shapes, config.model, checkpoint.uri)
    names = variable_shapes(model)
    size = model.latent_size if vectors is None else vectors.vectors.vectors.shape[1]
    if vectors is not None and size != model.latent_size:
        raise UserError(
            f"{vectors.uri} has vectors of size {size}, and the latents of {checkpoint.uri} have "
            f"size {model.latent_size}: give the vectors that were computed with this checkpoint"
        )
    state = state_of(reader.read(names), model, checkpoint.uri)
    ignored = len(reader.shapes) - len(names)
    original = Original(checkpoint, model, state, ignored, vectors)
    return Work(
        config.model_dump(mode="json") | {"model": model.model_dump(mode="json")},
        identity | {"model": model.name},
        partial(_import, config, original),
    )


def _import(config: ImportFacenetConfig, original: Original, run: Run) -> Metrics:
    checkpoint, vectors = original.checkpoint, original.vectors
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / MODEL_NAME
        folder.mkdir()
        card = ModelCard(original.model, checkpoint.step, "", run.id.run_id, alignment=TRAINED_ON)
        card = save_model(folder, original.state, card)
        if vectors is not None:
            bound = replace(vectors.vectors, model_digest=card.digest)
            target = storage.join(config.output, VECTORS)
            write_hdf5(target, bound, read_batches(vectors.uri), vectors.images, log=run.file)
        vae = load_model(folder).vae
        faces = _faces(vae, vectors)
        grid = Image.fromarray(image_grid(faces, COLUMNS))
        save_png(grid, storage.join(config.output, FACES))
        run.picture(FACES, grid)
        run.tags({"facevae.model_digest": card.digest, "facevae.checkpoint": checkpoint.name})
        log_model(run, folder, faces[:EXAMPLES], config.tracking.register_as)
        with storage.atomic_folder(storage.join(config.output, MODEL_NAME)) as target_folder:
            export_model(folder, target_folder)
    metrics = {
        "variables": float(len(variable_shapes(original.model))),
        "ignored_variables": float(original.ignored),
        "images": float(vectors.images if vectors else 0),
        "vectors": float(vectors.vectors.valid.sum() if vectors else 0),
    }
    run.metrics(0, metrics)
    return metrics


@torch.inference_mode()
def _faces(vae: VAE, vectors: Vectors | None) -> UInt8[np.ndarray, "n S S 3"]:
    """The first stored faces, decoded; without vectors such of latents from the prior."""
    if vectors is None or vectors.images == 0:
        latents = np.random.default_rng(0).normal(size=(SHOWN, vae.latent_size))
    else:
        latents = read_rows(vectors.uri, range(min(SHOWN, vectors.images))).latents
    return to_pixels(vae.decode(torch.from_numpy(latents.astype(np.float32)))).numpy()
