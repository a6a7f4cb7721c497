"""The faces of a photo: found, encoded, moved along attribute vectors, decoded and put back.

Legend: K strengths, L of them and 0, Z latent size, S pixels per side of the model's images, D of a
cut-out face.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image

from facevae.attributes.latents import encode_pixels
from facevae.config import AlignmentConfig, CropBox
from facevae.data.align import Aligned, align, align_faces
from facevae.data.detector import FaceDetector
from facevae.data.images import BadImageError
from facevae.editing.photo import Photo, open_photo, put_back, scaled
from facevae.errors import UserError
from facevae.models import VAE
from facevae.pixels import denormalise, model_input

Moves = Callable[
    [Float[np.ndarray, "F Z"]], tuple[Float[np.ndarray, "F K Z"], Bool[np.ndarray, "F K"]]
]
"""latents to moved ones, and which moves were stopped"""


class FoundFaces(NamedTuple):
    """A photo and its faces to edit."""

    photo: Photo
    faces: list[Aligned]
    """with a crop each"""


class EditedFace(NamedTuple):
    """One face of a photo before and after; pixels are RGB in 0..255."""

    aligned: Aligned
    seen: Float32[np.ndarray, "S S 3"]
    """the face as the model reads it"""
    latents: Float32[np.ndarray, "L Z"]
    """of strength 0, and of each strength"""
    decoded: Float32[np.ndarray, "L S S 3"]
    stopped: Bool[np.ndarray, " K"]
    """where the move was stopped, since it would leave the data"""

    @property
    def strip(self) -> UInt8[np.ndarray, "K S S 3"]:
        """The face at each strength."""
        strip: np.ndarray = np.rint(self.decoded[1:]).astype(np.uint8)
        return strip


def find_faces(
    data: bytes,
    name: str,
    face: int | Literal["all"],
    detector: FaceDetector,
    config: AlignmentConfig,
) -> FoundFaces:
    """Returns the photo in an encoded file, and one of its faces or all.

    Args:
        data: the file.
        name: what it is called, for the lines about it.
        face: which, the large and central one being 0.
        detector: what finds faces.
        config: how they are cut out.

    Raises:
        UserError: it is no photo that can be read, it has no face, or not so many.
    """
    try:
        photo = open_photo(data)
        search = align_faces if config.all_faces else _align_one
        found = [f for f in search(photo.rgb, detector, config) if f.status == "ok"]
    except BadImageError as error:
        raise UserError(f"{name} cannot be read as a photo: {error}") from error
    if not found:
        raise UserError(
            f"no face is found in {name}: give a photo in which one looks at you and is at least "
            f"{config.min_face_size} pixels wide, or lower --alignment.min_score or "
            "--alignment.min_face_size"
        )
    if face == "all":
        return FoundFaces(photo, found)
    if face >= len(found):
        known = "1 face, 0" if len(found) == 1 else f"{len(found)} faces, 0 to {len(found) - 1}"
        raise UserError(f"--face {face}: {name} has {known}; choose one of them, or all")
    return FoundFaces(photo, [found[face]])


def cut_out(aligned: Aligned, box: CropBox) -> Aligned:
    """Returns an aligned face of which only a box is left, in pixels of the aligned crop."""
    assert aligned.crop is not None
    assert aligned.to_source is not None
    to_source = aligned.to_source.copy()
    to_source[:, 2] += to_source[:, :2] @ np.array(box[:2], np.float64)
    return replace(aligned, crop=aligned.crop.crop(box), to_source=to_source)


def _align_one(
    image: Image.Image, detector: FaceDetector, config: AlignmentConfig
) -> list[Aligned]:
    return [align(image, detector, config)]


@torch.inference_mode()
def edit_face(vae: VAE, aligned: Aligned, move: Moves) -> EditedFace:
    """A face before and after each of the moves of its latent."""
    assert aligned.crop is not None
    crop = np.array(aligned.crop)[None]
    latent = encode_pixels(vae, crop, 1).mean
    moved, stopped = move(latent)
    latents = np.concatenate([latent, moved[0]]).astype(np.float32)
    read = model_input(torch.from_numpy(crop), vae.image_size, vae.resize_method)
    images = denormalise(torch.cat([read, vae.decode(torch.from_numpy(latents))]))
    pixels = images.clamp(0, 255).permute(0, 2, 3, 1).contiguous().numpy()
    return EditedFace(aligned, pixels[0], latents, pixels[1:], stopped[0])


def edited_photo(
    photo: Photo, faces: Sequence[EditedFace], strength: int, feather: float
) -> Image.Image:
    """The photo with all faces at the strength of that position."""
    image = photo.image
    for face in faces:
        assert face.aligned.to_source is not None
        assert face.aligned.crop is not None
        difference = face.decoded[strength + 1] - face.decoded[0]
        to_source = scaled(face.aligned.to_source, face.aligned.crop.width, len(difference))
        image = put_back(image, difference, to_source, feather)
    return image


def edited_crop(face: EditedFace, strength: int, feather: float) -> UInt8[np.ndarray, "D D 3"]:
    """The cut-out face as it is in the edited photo."""
    crop = face.aligned.crop
    assert crop is not None
    difference = face.decoded[strength + 1] - face.decoded[0]
    in_crop = scaled(np.eye(2, 3), crop.width, len(difference))
    return np.asarray(put_back(crop, difference, in_crop, feather))


def strongest(strengths: Sequence[float]) -> int:
    """The position of the strength that changes most; of two alike, the larger one's."""
    return max(range(len(strengths)), key=lambda k: (abs(strengths[k]), strengths[k]))
