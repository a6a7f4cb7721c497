"""What is measured of a shard is what the parts say of each image."""

import numpy as np
import pytest
import torch
from torch import nn

from facevae.attributes.latents import encode_pixels
from facevae.attributes.vectors import AttributeVectors
from facevae.config import LossConfig, ModelConfig
from facevae.evaluation import measure
from facevae.evaluation.face_network import FaceNetwork
from facevae.evaluation.measure import (
    Instruments,
    measure_edits,
    measure_held_out,
    measure_training,
    score_latents,
)
from facevae.evaluation.probes import Probes
from facevae.models import build_vae
from facevae.perceptual.network import build_perceptual_network
from facevae.pixels import model_input, to_pixels


class Colours(FaceNetwork):
    """Features that are the mean colours of the image and a constant."""

    def __init__(self):
        super().__init__(nn.Identity(), "mtcnn_onet")

    def forward(self, pixels):
        means = pixels.float().mean(dim=(1, 2))
        return torch.cat([means, torch.ones(len(means), 1)], dim=1)


def vectors(directions: np.ndarray) -> AttributeVectors:
    count = len(directions)
    return AttributeVectors(
        names=tuple(f"a{i}" for i in range(count)),
        vectors=directions.astype(np.float32),
        positive_count=np.full(count, 9),
        negative_count=np.full(count, 9),
        standard_errors=np.zeros_like(directions, np.float32),
        valid=np.isfinite(directions).all(axis=1),
    )


@pytest.fixture(scope="module")
def tools() -> Instruments:
    torch.manual_seed(0)
    directions = np.random.default_rng(0).normal(size=(3, 6))
    directions[2] = np.nan
    layers = build_perceptual_network(LossConfig(layers=("conv1", "conv2")))
    vae = build_vae(ModelConfig(latent_size=6)).eval()
    return Instruments(vae, vectors(directions), Colours(), layers, 8, "fp32")


@pytest.fixture(scope="module")
def stored() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (10, 64, 64, 3), np.uint8)


def decoded(tools, latents) -> torch.Tensor:
    with torch.inference_mode():
        return to_pixels(tools.vae.decode(torch.from_numpy(latents)))


def test_scores_are_projections():
    latents = np.array([[1.0, 2], [3, 4]])
    directions = vectors(np.array([[1.0, 0], [1, 1], [np.nan, 1]]))
    expected = np.array([[1, 3, np.nan], [3, 7, np.nan]], np.float32)
    np.testing.assert_array_equal(score_latents(directions, latents), expected)


def test_held_out_images(tools, stored, monkeypatch):
    monkeypatch.setattr(measure, "AT_ONCE", 2)  # several parts, the last one smaller
    rows = np.array([1, 4, 9])
    noise = np.random.default_rng(2).normal(size=(5, 6)).astype(np.float32)
    found = measure_held_out(tools, stored, rows, noise)
    means = encode_pixels(tools.vae, stored, 8).mean
    np.testing.assert_array_equal(found["scores"], score_latents(tools.vectors, means))
    np.testing.assert_array_equal(found["latents"], means[rows])
    assert found["kept"].all()
    assert int(found["latents_images"]) == 10
    np.testing.assert_allclose(found["latents_kl"].sum(), found["kl"].sum())
    images = to_pixels(model_input(torch.from_numpy(stored[rows]), 64, "antialias"))
    others = decoded(tools, means[rows])
    error = (images.float() - others.float()).square().mean(dim=(1, 2, 3))
    np.testing.assert_allclose(found["psnr"], 10 * torch.log10(255**2 / error), rtol=1e-4)
    np.testing.assert_allclose(found["features"], tools.face(images), rtol=1e-5)
    np.testing.assert_allclose(found["samples"], tools.face(decoded(tools, noise)), rtol=1e-5)
    cosine = torch.cosine_similarity(tools.face(images), tools.face(others))
    np.testing.assert_allclose(found["identity"], cosine, rtol=1e-5)
    features = measure_training(tools, stored)["features"]
    np.testing.assert_allclose(features, tools.face(torch.from_numpy(stored)), rtol=1e-5)


class Sizes(Colours):
    """Features that are the sides of the image."""

    def forward(self, pixels):
        return torch.tensor([pixels.shape[1:3]] * len(pixels), dtype=torch.float32)


def test_the_judge_learns_from_images_of_the_size_that_it_judges(tools):
    large = np.random.default_rng(1).integers(0, 256, (3, 96, 96, 3), np.uint8)
    judge = tools._replace(face=Sizes())
    learnt = measure_training(judge, large)["features"]
    seen = measure_held_out(judge, large, np.array([0]), np.zeros((1, 6), np.float32))
    np.testing.assert_array_equal(learnt, [[64, 64]] * 3)
    np.testing.assert_array_equal(seen["features"], [[64, 64]])
    np.testing.assert_array_equal(seen["samples"], [[64, 64]])


def test_no_face_is_edited_where_none_is_chosen(tools):
    probes = Probes(np.zeros((3, 4)), np.zeros(3))
    found = measure_edits(tools, probes, np.empty((0, 6), np.float32), [0, 1], [0.5, 1.0])
    assert (found["target"].shape, found["after"].shape) == ((0, 2, 2), (0, 2, 3))


def test_no_image_is_decoded_where_none_is_chosen(tools, stored):
    found = measure_held_out(tools, stored, np.empty(0, np.int64), np.empty((0, 6), np.float32))
    assert found["psnr"].shape == (0,)
    assert found["features"].shape == found["samples"].shape == (0, 4)


def test_edits_move_each_face_away_from_what_the_judge_sees(tools):
    latents = np.random.default_rng(3).normal(size=(5, 6)).astype(np.float32)
    base = tools.face(decoded(tools, latents)).numpy()
    # The judge says a0 of red faces, and never a1.
    probes = Probes(
        np.array([[1.0, 0, 0, -np.median(base[:, 0])], [0, 0, 0, -1], [0, 1, 0, 0]]), np.zeros(3)
    )
    found = measure_edits(tools, probes, latents, [0, 1], [1.0, 2.0])
    np.testing.assert_allclose(found["before"], probes.logits(base), rtol=1e-4, atol=1e-4)
    red = found["before"][:, 0] > 0
    assert 0 < red.sum() < 5
    for face in range(5):
        for place, k in enumerate((0, 1)):
            way = -1 if k == 0 and red[face] else 1
            moved = latents[[face]] + way * tools.vectors.vectors[k]
            logits = probes.logits(tools.face(decoded(tools, moved)).numpy())
            np.testing.assert_allclose(found["after"][face, place], logits[0], atol=2e-3)
            assert found["target"][face, place, 0] == found["after"][face, place, k]
    assert found["target"].shape == (5, 2, 2)
    assert ((found["identity"] > 0) & (found["identity"] <= 1.0001)).all()
