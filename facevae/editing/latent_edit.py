"""Edited faces: stored latents moved along attribute vectors, and decoded.

Legend: F faces, K strengths, Z latent size, S image size.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8

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


def edit_direction(vectors: AttributeVectors, editing: EditingConfig) -> Float32[np.ndarray, " Z"]:
    """What an edit at strength 1 adds to a latent.

    Raises:
        UserError: there is no such attribute, or it has no vector.
    """
    amounts = editing.amounts.items()
    direction: np.ndarray = np.sum(
        [np.float32(amount) * vectors.vector(name) for name, amount in amounts], axis=0
    )
    return direction


@torch.inference_mode()
def decode_strengths(
    vae: VAE,
    latents: Float[np.ndarray, "F Z"],
    direction: Float32[np.ndarray, " Z"],
    strengths: Sequence[float],
) -> UInt8[np.ndarray, "F K S S 3"]:
    """Each face decoded from its latent plus each strength times the direction."""
    steps = np.asarray(strengths)[None, :, None] * direction
    moved = torch.from_numpy((latents[:, None] + steps).astype(np.float32))
    decoded = [to_pixels(vae.decode(face)).numpy() for face in moved]
    return np.stack(decoded)


def edit_fidelity(
    vae: VAE,
    decoded: UInt8[np.ndarray, "F K S S 3"],
    vectors: AttributeVectors,
    editing: EditingConfig,
) -> dict[str, float]:
    """`kept/<attribute>`: how much of the asked-for change is found again in the edited faces.

    The faces at the lowest and the highest strength are encoded; 1 is the whole way along the
    vector. Several attributes share the change by least squares, since their vectors overlap.
    Empty if there is one strength only.
    """
    low, high = int(np.argmin(editing.strengths)), int(np.argmax(editing.strengths))
    asked = editing.strengths[high] - editing.strengths[low]
    if asked == 0:
        return {}
    batch_size = min(64, len(decoded))
    ends = [encode_pixels(vae, decoded[:, end], batch_size).mean for end in (low, high)]
    change = (ends[1] - ends[0]).mean(axis=0)
    directions = np.stack([vectors.vector(name) for name in editing.amounts], axis=1)
    found = np.linalg.lstsq(directions, change)[0]
    return {
        f"kept/{name}": float(part / (asked * amount))
        for (name, amount), part in zip(editing.amounts.items(), found, strict=True)
    }
