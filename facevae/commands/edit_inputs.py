"""What every edit begins with: a model and vectors that belong together."""

import hashlib
from typing import NamedTuple

from facevae.attributes.hdf5 import read_vectors, vectors_file
from facevae.attributes.vectors import AttributeVectors
from facevae.config import EditConfig
from facevae.editing.edits import check_edit
from facevae.models import VAE
from facevae.models.checkpoint import ModelCard, load_model
from facevae.runs import storage
from facevae.tracking import (
    TRAINING_RUN_TAG,
    VECTORS_RUN_TAG,
    RunId,
    model_folder,
    read_run_id,
    trained_by,
)


class EditInputs(NamedTuple):
    """A model, and vectors that were computed with it."""

    vae: VAE
    card: ModelCard
    vectors: AttributeVectors
    vectors_uri: str
    """their file"""
    model_run: RunId | None

    @property
    def digests(self) -> dict[str, str]:
        """What an edit is of, beside its settings."""
        return {
            "model_digest": self.card.digest,
            "shards_digest": self.vectors.shards_digest,
            "labels_digest": self.vectors.labels_digest,
            "directions_digest": _directions_digest(self.vectors),
        }

    def tags(self) -> dict[str, str]:
        """What links a run to those whose results it uses."""
        vectors_run = read_run_id(storage.parent(self.vectors_uri))
        return {
            TRAINING_RUN_TAG: self.card.run_id,
            VECTORS_RUN_TAG: vectors_run.run_id if vectors_run else "",
        }


def read_inputs(config: EditConfig) -> EditInputs:
    """Read the model and the vectors.

    Raises:
        UserError: no such model or vectors, vectors of another model, or without what the edit
            takes.
    """
    uri = vectors_file(config.vectors)
    vectors = read_vectors(uri)
    with model_folder(config.model, config.tracking, config.output) as path:
        vae, card = load_model(path)
    vectors.check_model(card.digest)
    check_edit(vectors, config.editing)
    return EditInputs(vae, card, vectors, uri, trained_by(config.model, card))


def _directions_digest(vectors: AttributeVectors) -> str:
    """The SHA-256 of all that moves a latent: the same images may have other directions."""
    digest = hashlib.sha256(vectors.vectors.tobytes())
    if (found := vectors.directions) is not None:
        for array in (found.partial, found.lda, found.lda_bias, found.gap):
            digest.update(array.tobytes())
        digest.update(found.latent_mean.tobytes() + found.latent_covariance.tobytes())
    return digest.hexdigest()
