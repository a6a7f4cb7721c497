"""What is measured of one shard, where its pixels are: arrays that leave a worker as one file.

Legend: n images of the shard, m of them decoded, e of these edited, D stored image size, S model
image size, Z latent size, A attributes, F features, T attributes that are edited, K strengths.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from facevae.attributes.latents import encode_pixels
from facevae.attributes.vectors import AttributeVectors
from facevae.evaluation.face_network import FaceNetwork
from facevae.evaluation.latent_space import LatentMoments, kl_divergence
from facevae.evaluation.probes import Probes
from facevae.evaluation.reconstruction import perceptual_distance, psnr, ssim
from facevae.models import VAE
from facevae.perceptual.network import PerceptualNetwork
from facevae.pixels import model_input, to_pixels

AT_ONCE = 64
"""images that are decoded and looked at together"""
Arrays = dict[str, np.ndarray]


class Instruments(NamedTuple):
    """All that a worker needs to measure with, on one device."""

    vae: VAE
    vectors: AttributeVectors
    face: FaceNetwork
    distance: PerceptualNetwork
    batch_size: int
    precision: str

    def to(self, device: torch.device) -> "Instruments":
        """The same on a device; the VAE's maps are channels_last."""
        vae = self.vae.to(device).to(memory_format=torch.channels_last)
        return self._replace(vae=vae, face=self.face.to(device), distance=self.distance.to(device))


def score_latents(
    vectors: AttributeVectors, latents: Float[np.ndarray, "n Z"]
) -> Float32[np.ndarray, "n A"]:
    """The scores that classification is measured of: projections on the vectors.

    Higher means more of the attribute; NaN where it has no vector.
    """
    directions = vectors.vectors.astype(np.float64)
    return np.asarray(latents.astype(np.float64) @ directions.T, np.float32)


def measure_held_out(
    tools: Instruments,
    stored: UInt8[np.ndarray, "n D D 3"],
    rows: Int64[np.ndarray, " m"],
    noise: Float32[np.ndarray, "s Z"],
) -> Arrays:
    """The measures of held-out images.

    Args:
        tools: what measures.
        stored: the images of a shard.
        rows: those that are decoded.
        noise: latents to sample images from.

    Returns:
        Of all images whose posterior is finite (`kept`): `scores` [n,A] and `kl` [n] in nats;
        `latents_images`, `latents_mean`, `latents_square`, `latents_kl`: their moments. Of those
        that are decoded: `decoded` (rows), `latents` [m,Z], `psnr`, `ssim`, `perceptual` [m],
        `identity`: the cosine between features of image and reconstruction [m]; `features` [m,F]
        of the images, `samples` [s,F] of the sampled ones.
    """
    means, variances = encode_pixels(tools.vae, stored, tools.batch_size, tools.precision)
    kept = np.isfinite(means).all(axis=1) & np.isfinite(variances).all(axis=1)
    rows = rows[kept[rows]]
    moments = LatentMoments.of(means[kept], variances[kept])
    return {
        "kept": kept,
        "scores": score_latents(tools.vectors, means),
        "kl": np.where(kept, kl_divergence(means, variances).sum(axis=1), np.nan),
        **{f"latents_{key}": np.asarray(value) for key, value in moments._asdict().items()},
        "decoded": rows,
        "latents": means[rows],
        **_measure_pairs(tools, stored[rows], means[rows]),
        "samples": _features_of_latents(tools, noise),
    }


def measure_training(tools: Instruments, stored: UInt8[np.ndarray, "n D D 3"]) -> Arrays:
    """`features` [n,F] of training images, which probes are fitted on."""
    parts = [_features(tools, _at_model_size(tools, some)) for some in _split(stored)]
    return {"features": _joined(parts)}


def measure_edits(
    tools: Instruments,
    probes: Probes,
    latents: Float32[np.ndarray, "e Z"],
    targets: Sequence[int],
    strengths: Sequence[float],
) -> Arrays:
    """What the judge sees of faces whose attributes are moved, one attribute at a time.

    An attribute that the judge sees in a face's reconstruction is taken away, any other is added.

    Args:
        tools: what measures; its face network is the judge.
        probes: of the judge.
        latents: of the faces.
        targets: the attributes that are moved, by their places among all.
        strengths: multiples of the attribute's vector; 1 is among them.

    Returns:
        `before` [e,A]: logits of the reconstructions; `target` [e,T,K]: of the moved attribute at
        each strength; `after` [e,T,A] and `identity` [e,T]: at strength 1, logits and the cosine
        between features of edited face and reconstruction.
    """
    base = _features_of_latents(tools, latents)
    before = probes.logits(base)
    one, count = list(strengths).index(1.0), len(strengths)
    target = np.empty((len(latents), len(targets), count), np.float32)
    after = np.empty((len(latents), len(targets), before.shape[1]), np.float32)
    identity = np.empty((len(latents), len(targets)), np.float32)
    for place, k in enumerate(targets):
        way = np.where(before[:, k] > 0, -1, 1)[:, None, None]
        steps = way * np.asarray(strengths)[None, :, None] * tools.vectors.vectors[k]
        moved = (latents[:, None] + steps).astype(np.float32).reshape(-1, latents.shape[1])
        features = _features_of_latents(tools, moved)
        logits = probes.logits(features).reshape(len(latents), count, before.shape[1])
        features = features.reshape(len(latents), count, base.shape[1])
        target[:, place] = logits[:, :, k]
        after[:, place] = logits[:, one]
        identity[:, place] = _cosine(features[:, one], base)
    return {"before": before, "target": target, "after": after, "identity": identity}


def _measure_pairs(
    tools: Instruments,
    stored: UInt8[np.ndarray, "m D D 3"],
    latents: Float32[np.ndarray, "m Z"],
) -> Arrays:
    """Images beside their reconstructions, both at the model's size."""
    found: dict[str, list[np.ndarray]] = {
        name: [] for name in ("psnr", "ssim", "perceptual", "identity", "features")
    }
    for some, means in zip(_split(stored), _split(latents), strict=True):
        with torch.inference_mode():
            images = _at_model_size(tools, some)
            others = _decoded(tools, means)
            found["psnr"].append(psnr(images, others).cpu().numpy())
            found["ssim"].append(ssim(images, others).cpu().numpy())
            distance = perceptual_distance(tools.distance, images, others)
            found["perceptual"].append(distance.cpu().numpy())
            features = _features(tools, images)
            found["features"].append(features)
            found["identity"].append(_cosine(features, _features(tools, others)))
    return {name: _joined(parts) for name, parts in found.items()}


def _features_of_latents(
    tools: Instruments, latents: Float32[np.ndarray, "n Z"]
) -> Float32[np.ndarray, "n F"]:
    """Features of the images that latents decode to."""
    with torch.inference_mode():
        return _joined([_features(tools, _decoded(tools, some)) for some in _split(latents)])


def _at_model_size(
    tools: Instruments, stored: UInt8[np.ndarray, "n D D 3"]
) -> UInt8[Tensor, "n S S 3"]:
    """Images as sharp as what the model draws: a judge should not tell them apart by that."""
    vae = tools.vae
    return to_pixels(model_input(_on(tools, stored), vae.image_size, vae.resize_method))


def _decoded(tools: Instruments, latents: Float32[np.ndarray, "n Z"]) -> UInt8[Tensor, "n S S 3"]:
    return to_pixels(tools.vae.decode(_on(tools, latents)))


def _features(tools: Instruments, pixels: UInt8[Tensor, "n H H 3"]) -> Float32[np.ndarray, "n F"]:
    features: np.ndarray = tools.face(pixels).float().cpu().numpy()
    return features


def _on(tools: Instruments, array: np.ndarray) -> Tensor:
    device = next(tools.vae.parameters()).device
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _split(array: np.ndarray) -> list[np.ndarray]:
    """Parts of at most `AT_ONCE` rows; of none one empty part."""
    return [array[start : start + AT_ONCE] for start in range(0, max(len(array), 1), AT_ONCE)]


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts)


def _cosine(
    a: Float32[np.ndarray, "n F"], b: Float32[np.ndarray, "n F"]
) -> Float32[np.ndarray, " n"]:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(lengths, 1e-12), np.float32)
