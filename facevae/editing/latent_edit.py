"""Edited faces: stored latents moved along attribute vectors, and decoded.

Legend: F faces, K strengths, Z latent size, S image size.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8

from facevae.attributes.hdf5 import read_rows, rows_labelled, rows_of
from facevae.attributes.latents import encode_pixels
from facevae.attributes.vectors import AttributeVectors, LatentBatch
from facevae.config import EditingConfig
from facevae.errors import UserError
from facevae.models import VAE
from facevae.pixels import to_pixels

# The k-th face without a smile, k counted from 0: modify_attribute.py of the original.
FACENET_FACES = (8, 11, 13, 18, 19, 26, 31, 39, 47, 54, 56, 57, 58, 59, 60, 73)


def choose_faces(uri: str, editing: EditingConfig) -> LatentBatch:
    """The stored faces to edit: the preset's, the named ones, or the first without the attribute.

    Where a mix takes its first attribute away, they are the first with it.

    Raises:
        UserError: no such image or attribute, or too few faces.
    """
    if editing.image_ids is not None:
        return read_rows(uri, rows_of(uri, editing.image_ids))
    name, amount = next(iter(editing.amounts.items()))
    rows = rows_labelled(uri, name, -1 if amount > 0 else 1)
    if editing.preset == "facenet_smile":
        if len(rows) <= max(FACENET_FACES):
            raise UserError(
                f"preset facenet_smile needs {max(FACENET_FACES) + 1} faces without a smile, "
                f"{uri} has {len(rows)}: choose faces with --editing.image_ids instead"
            )
        return read_rows(uri, rows[list(FACENET_FACES)])
    if len(rows) == 0:
        raise UserError(
            f"{uri} has no face {'without' if amount > 0 else 'with'} {name}: give "
            "--editing.image_ids"
        )
    return read_rows(uri, rows[: editing.faces])


@torch.inference_mode()
def decode(vae: VAE, latents: Float[np.ndarray, "F K Z"]) -> UInt8[np.ndarray, "F K S S 3"]:
    """Each row of latents decoded."""
    rows = torch.from_numpy(latents.astype(np.float32))
    return np.stack([to_pixels(vae.decode(row)).numpy() for row in rows])


def edit_fidelity(
    vae: VAE,
    decoded: UInt8[np.ndarray, "F K S S 3"],
    vectors: AttributeVectors,
    editing: EditingConfig,
    directions: Float[np.ndarray, "m Z"],
) -> dict[str, float]:
    """What is found again in the edited faces of what was asked for, and what was not.

    The faces at the lowest and the highest strength are encoded. `kept/<attribute>` is 1 for the
    whole way along the attribute's direction; several attributes share the change by least squares,
    since their directions overlap. If the vectors have LDA scores:
    `level_change/<attribute>` and `held/<attribute>` are what the levels of edited and held
    attributes changed by per unit of strength, and `leakage` is the mean size of that change over
    all that were not edited. Empty if there is one strength only.
    """
    low, high = int(np.argmin(editing.strengths)), int(np.argmax(editing.strengths))
    asked = editing.strengths[high] - editing.strengths[low]
    if asked == 0:
        return {}
    batch_size = min(64, len(decoded))
    ends = [encode_pixels(vae, decoded[:, end], batch_size).mean for end in (low, high)]
    change = (ends[1] - ends[0]).mean(axis=0) / asked
    found = np.linalg.lstsq(directions.T, change)[0]
    kept = {
        f"kept/{name}": float(part / amount)
        for (name, amount), part in zip(editing.amounts.items(), found, strict=True)
    }
    return kept | _level_changes(change, vectors, editing)


def _level_changes(
    change: Float[np.ndarray, " Z"], vectors: AttributeVectors, editing: EditingConfig
) -> dict[str, float]:
    """What a change of latents does to the levels of attributes."""
    if vectors.directions is None:
        return {}
    scorers = vectors.directions.scorers()
    levels = dict(zip(vectors.names, scorers.weights @ change / scorers.gap, strict=True))
    edited = {f"level_change/{name}": float(levels.pop(name)) for name in editing.amounts}
    held = {f"held/{name}": float(levels[name]) for name in editing.hold}
    others = [abs(level) for level in levels.values() if np.isfinite(level)]
    return edited | held | ({"leakage": float(np.mean(others))} if others else {})
