"""What edits photos: loaded once, then photo by photo to pictures and a card in a folder.

Legend: F faces of a photo, K strengths, S pixels per side of the model's images.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from facevae.attributes.population import LEVEL, SCORER, Population
from facevae.attributes.vectors import AttributeVectors
from facevae.config import AlignmentConfig, CropBox, EditingConfig, PhotoConfig
from facevae.data.detector import FaceDetector
from facevae.data.images import to_rgb
from facevae.editing.card import face_card
from facevae.editing.edits import columns_of, edit_latents, methods_of
from facevae.editing.photo import SUFFIX, check_format, losses, save_photo
from facevae.editing.photo_edit import (
    EditedFace,
    FoundFaces,
    cut_out,
    edit_face,
    edited_photo,
    find_faces,
    strongest,
)
from facevae.errors import UserError
from facevae.models import VAE
from facevae.perceptual.identity import IdentityNetwork
from facevae.report.animation import save_animation, shrunk
from facevae.report.grids import save_png
from facevae.report.strength_grids import labelled_strength_grid, strength_grid
from facevae.runs import storage

GRID, LABELLED_GRID, CARD = "edit.png", "edit_labelled.png", "card.json"
_NUMBER = r"[+-]\d[\d.]*(?:e[+-]?\d+)?"
PICTURES = (
    rf"edit(?:_labelled)?\.png|photo(?:_{_NUMBER})?\.(?:{'|'.join(SUFFIX.values())})"
    r"|before_after\.(?:gif|webp)"
)
"""what the names of an edit's pictures look like"""
WRITTEN = rf"{PICTURES}|{re.escape(CARD)}"


class WrittenPhoto(NamedTuple):
    """What was written of a photo."""

    card: dict[str, Any]
    files: list[str]
    """the photos and the moving picture, by name"""
    strips: UInt8[np.ndarray, "F K S S 3"]
    labelled: Image.Image


@dataclass(frozen=True, eq=False)
class PhotoEditor:
    """A model and vectors, ready for photos."""

    vae: VAE
    vectors: AttributeVectors
    source: Float[np.ndarray, "1 Z"] | None
    """the latent of the face whose levels are transferred, if any are"""
    population: Population
    editing: EditingConfig
    photo: PhotoConfig
    alignment: AlignmentConfig
    crop: CropBox | None
    """what is cut out of an aligned face, as of the model's training images; none: all of it"""
    detector: FaceDetector
    identity: IdentityNetwork | None
    about: dict[str, Any]
    """what every card tells of model, vectors and the judge of identity"""

    @property
    def strengths(self) -> tuple[float, ...]:
        """The strengths or levels at which a face is shown."""
        return columns_of(self.editing)

    def move(
        self, latents: Float[np.ndarray, "F Z"]
    ) -> tuple[Float[np.ndarray, "F K Z"], Bool[np.ndarray, "F K"]]:
        """The latents at each strength, and where a move was stopped."""
        names = [str(row) for row in range(len(latents))]
        edited = edit_latents(names, latents, self.vectors, self.editing, self.source)
        return edited.latents, edited.stopped

    def find(self, data: bytes, name: str) -> FoundFaces:
        """The faces to edit in an encoded photo; writes nothing.

        Raises:
            UserError: there are none, or the photo cannot be read or saved in the wanted format.
        """
        found = find_faces(data, name, self.photo.face, self.detector, self.alignment)
        if self.crop is not None:
            found = found._replace(faces=[cut_out(face, self.crop) for face in found.faces])
        check_format(found.photo, self.photo.photo_format, name)
        return found

    def write(self, found: FoundFaces, name: str, folder: str, key: dict[str, Any]) -> WrittenPhoto:
        """Edit a photo and write all that comes of it into a folder, the card last.

        What an earlier edit wrote there is removed first.

        Args:
            found: the photo.
            name: what it is called.
            folder: where to.
            key: what the card keeps to tell by whether it is of the same photo and edit.
        """
        strengths = self.strengths
        faces = [edit_face(self.vae, face, self.move) for face in found.faces]
        strips = np.stack([face.strip for face in faces])
        names = [name if len(faces) == 1 else f"{name} {f.aligned.index}" for f in faces]
        labelled = labelled_strength_grid(strips, strengths, names, 1)
        remove_earlier(folder)
        save_png(strength_grid(strips, 1), storage.join(folder, GRID))
        save_png(labelled, storage.join(folder, LABELLED_GRID))
        files = self._write_photos(found, faces, folder)
        card = key | self._card(found, faces, name, files)
        storage.write_json(storage.join(folder, CARD), storage.without_nan(card))
        return WrittenPhoto(card, files, strips, labelled)

    def _write_photos(
        self, found: FoundFaces, faces: Sequence[EditedFace], folder: str
    ) -> list[str]:
        """Write the photo at each strength, and before and after as a moving picture if asked."""
        strengths, config, photo = self.strengths, self.photo, found.photo
        suffix, most = SUFFIX[config.photo_format], strongest(strengths)
        frames: dict[float | None, Image.Image] = {None: shrunk(photo.rgb)}
        files: list[str] = []
        changing = sorted({each for each in strengths if each or self.editing.level is not None})
        for strength in changing or [strengths[most]]:
            image = edited_photo(photo, faces, strengths.index(strength), config.feather)
            names = [f"photo.{suffix}"] if strength == strengths[most] else []
            names += [f"photo_{strength:+g}.{suffix}"] if len(changing) > 1 else []
            for name in names:
                uri = storage.join(folder, name)
                save_photo(photo, image, uri, config.photo_format, config.photo_quality)
            files += names
            if config.animation is not None:
                frames[strength] = shrunk(to_rgb(image))
        if config.animation is not None:
            files.append(f"before_after.{config.animation}")
            shown = [frames[strength] for strength in sorted(frames, key=lambda each: each or 0.0)]
            save_animation(shown, storage.join(folder, files[-1]), config.animation)
        return files

    def _card(
        self, found: FoundFaces, faces: Sequence[EditedFace], name: str, files: list[str]
    ) -> dict[str, Any]:
        photo, config, quantile = found.photo, self.photo, self.editing.outside_quantile
        return {
            "photo": {
                "name": name,
                "format": photo.file_format,
                "mode": photo.image.mode,
                "width": photo.image.width,
                "height": photo.image.height,
            },
            "edit": {
                "amounts": self.editing.amounts,
                "strengths": self.strengths,
                "methods": methods_of(self.vectors, self.editing),
                **self.editing.model_dump(include={"hold", "level", "transfer", "damp"}),
                "feather": config.feather,
            },
            **self.about,
            "alignment": self.alignment.model_dump(include={"framing", "margin", "size"}),
            "scorer": SCORER,
            **({} if self.population.scorers is None else {"level": LEVEL}),
            "data": {
                "faces": len(self.population.distances),
                "outside_quantile": quantile,
                "distance_at_quantile": round(self.population.farthest(quantile), 4),
            },
            "faces": [
                face_card(
                    face, self.vae, self.population, self.editing, config.feather, self.identity
                )
                for face in faces
            ],
            "files": [GRID, LABELLED_GRID, *files],
            "lost": losses(photo, config.photo_format, config.photo_quality),
        }


def remove_earlier(folder: str) -> None:
    """Remove what the card in a folder says that an edit of a photo wrote there, and the card.

    A card that is none of ours stays; one that is damaged is written over by the next edit.
    """
    uri = storage.join(folder, CARD)
    if not storage.exists(uri):
        return
    try:
        card = storage.read_json(uri)
    except UserError:  # damaged, or somebody's own
        return
    if not isinstance(card, dict) or not ("files" in card or "failed" in card):
        return
    files = card.get("files", [])
    for name in files:
        if isinstance(name, str) and re.fullmatch(PICTURES, name):
            storage.remove_file(storage.join(folder, name))
    storage.remove_file(uri)
