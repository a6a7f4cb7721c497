"""The card of an edited face: what the edit did to it, in numbers, as JSON values.

Legend: n latents, Z latent size, S pixels per side of the model's images.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from facevae.attributes.latents import encode_pixels
from facevae.attributes.population import Population
from facevae.config import EditingConfig
from facevae.data.align import Aligned
from facevae.editing.edits import columns_of
from facevae.editing.photo_edit import EditedFace, edited_crop
from facevae.models import VAE
from facevae.perceptual.identity import IdentityNetwork

DIGITS = 4
"""behind the point: more are noise"""


def face_card(
    face: EditedFace,
    vae: VAE,
    population: Population,
    editing: EditingConfig,
    feather: float,
    identity: IdentityNetwork | None,
) -> dict[str, Any]:
    """What is known of a face before an edit and after it.

    `scores` have two values for each attribute: of the `latent`, and of the face that is decoded
    from it and encoded again (`decoded`), which tells what of the change can be seen; `levels` too,
    where the vectors have LDA scores. `before` is
    of strength 0, and `after` of each strength; a move that would leave the data was `stopped`.
    """
    aligned = face.aligned
    assert aligned.box is not None
    assert aligned.to_source is not None
    states = _states(face, vae, population, editing)
    cosines = (
        [None] * len(face.stopped)
        if identity is None
        else _cosines(face, len(face.stopped), feather, identity)
    )
    return {
        "index": aligned.index,
        "box": list(aligned.box),
        "landmarks": None
        if aligned.landmarks is None
        else np.round(aligned.landmarks.astype(np.float64), 1).tolist(),
        "detector_score": _rounded(aligned.score),
        "to_photo": aligned.to_source.tolist(),
        "corners": _corners(aligned),
        "reconstruction": reconstruction(face.seen, face.decoded[0]),
        "before": states[0],
        "after": [
            {"strength": strength, "stopped": bool(stopped), **state, "identity_cosine": cosine}
            for strength, stopped, state, cosine in zip(
                columns_of(editing), face.stopped, states[1:], cosines, strict=True
            )
        ],
    }


def _corners(aligned: Aligned) -> list[list[float]]:
    """Where the corners of the cut-out square lie in the photo, x and y, in its order around it.

    No pixel beyond them is changed; the box is what the detector found, with its margin.
    """
    assert aligned.crop is not None
    assert aligned.to_source is not None
    side = aligned.crop.width
    square = np.array([[0, 0, 1], [side, 0, 1], [side, side, 1], [0, side, 1]], np.float64)
    corners: list[list[float]] = np.round(square @ aligned.to_source.T, 2).tolist()
    return corners


def reconstruction(
    seen: Float32[np.ndarray, "S S 3"], decoded: Float32[np.ndarray, "S S 3"]
) -> dict[str, float]:
    """How well a face came back from its latent: peak signal to noise in dB, and mean error.

    Pixels and the mean absolute error are in 0..255; equal pictures have no noise, and null.
    """
    error = seen.astype(np.float64) - decoded
    squared = float(np.square(error).mean())
    peak = 10 * math.log10(255**2 / squared) if squared else math.inf
    return {
        "psnr_db": round(peak, 2) if math.isfinite(peak) else math.nan,
        "mean_absolute_error": round(float(np.abs(error).mean()), 2),
    }


def _states(
    face: EditedFace, vae: VAE, population: Population, editing: EditingConfig
) -> list[dict[str, Any]]:
    """Of each latent: its scores, and where it lies among the stored faces."""
    pixels = np.rint(face.decoded).astype(np.uint8)
    again = encode_pixels(vae, pixels, len(pixels)).mean
    of_latent, of_decoded = population.scores(face.latents), population.scores(again)
    scorers = population.scorers
    levels = None
    if scorers is not None:
        levels = scorers.levels(face.latents), scorers.levels(again)
    farthest = population.farthest(editing.outside_quantile)
    return [
        {
            "scores": _two(population.names, of_latent[k], of_decoded[k]),
            **(
                {}
                if levels is None
                else {"levels": _two(population.names, *(x[k] for x in levels))}
            ),
            "mahalanobis_distance": _rounded(distance),
            "share_of_faces_nearer": _rounded(population.share_nearer(distance)),
            "outside_the_data": bool(distance > farthest),
        }
        for k, distance in enumerate(population.distance(face.latents))
    ]


def _two(
    names: Sequence[str],
    of_latent: Float[np.ndarray, " A"],
    of_decoded: Float[np.ndarray, " A"],
) -> dict[str, dict[str, float]]:
    """A number of each attribute, of the latent and of the face that is decoded from it."""
    return {
        name: {"latent": _rounded(in_latent), "decoded": _rounded(in_decoded)}
        for name, in_latent, in_decoded in zip(names, of_latent, of_decoded, strict=True)
    }


def _cosines(
    face: EditedFace, strengths: int, feather: float, identity: IdentityNetwork
) -> list[float]:
    """How alike the person is before and after, in the photo and at each strength."""
    crop = np.asarray(face.aligned.crop)
    edited = [edited_crop(face, k, feather) for k in range(strengths)]
    embeddings = identity.embed(np.stack([crop, *edited]))
    return [_rounded(cosine) for cosine in embeddings[1:] @ embeddings[0]]


def _rounded(value: Float[np.ndarray, ""] | np.floating | float) -> float:
    return round(float(value), DIGITS)
