"""The card of a face: its numbers against independent ones."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from facevae.attributes.population import Population
from facevae.config import EditingConfig, ModelConfig
from facevae.data.align import Aligned
from facevae.editing.card import face_card, reconstruction
from facevae.editing.photo_edit import Moves, edit_face
from facevae.models import build_vae
from facevae.perceptual.identity import IdentityNetwork
from facevae.runs.storage import without_nan

DIRECTION = np.array([6, 0], np.float32)


def along(strengths: Sequence[float]) -> Moves:
    """Moves by multiples of the direction, none of them stopped."""

    def move(latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        moved = latents[:, None] + np.asarray(strengths)[None, :, None] * DIRECTION
        return moved, np.zeros(moved.shape[:2], bool)

    return move


def population() -> Population:
    return Population(
        names=("Smiling", "Bald"),
        directions=np.array([[6.0, 0], [0, 2]]),
        middle=np.array([0.0, 0]),
        gap=np.array([36.0, np.nan]),
        mean=np.zeros(2),
        whitening=np.eye(2),
        distances=np.linspace(0, 10, 101),
    )


class Judge(IdentityNetwork):
    """Embeds a face as its mean colour and a constant."""

    def __init__(self) -> None:
        pass

    def embed(self, faces: np.ndarray) -> np.ndarray:
        means = faces.reshape(len(faces), -1).mean(axis=1) / 255
        embeddings = np.stack([np.ones(len(faces)), means], axis=1).astype(np.float32)
        return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    vae = build_vae(ModelConfig(latent_size=2)).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    aligned = Aligned(
        Image.fromarray(pixels), (0, 0, 64, 64), None, math.nan, "ok", 0, np.eye(2, 3)
    )
    editing = EditingConfig(strengths=(0.0, 1.0, 5.0), outside_quantile=0.9)
    return vae, edit_face(vae, aligned, along(editing.strengths)), editing


def test_scores_and_distances_are_those_of_before_and_after(made):
    vae, face, editing = made
    card = face_card(face, vae, population(), editing, 0.2, None)
    before, after = card["before"], card["after"]
    assert [state["strength"] for state in after] == [0, 1, 5]
    start = before["scores"]["Smiling"]["latent"]
    assert start == pytest.approx(face.latents[0, 0] / 6, abs=1e-3)
    assert after[0]["scores"]["Smiling"] == before["scores"]["Smiling"]
    assert after[1]["scores"]["Smiling"]["latent"] == pytest.approx(start + 1, abs=1e-3)
    distance = float(np.linalg.norm(face.latents[3]))
    assert after[2]["mahalanobis_distance"] == pytest.approx(distance, abs=1e-3)
    assert after[2]["outside_the_data"] is True
    assert before["outside_the_data"] is bool(np.linalg.norm(face.latents[0]) > 9)
    assert after[2]["share_of_faces_nearer"] == 1.0
    assert math.isnan(before["scores"]["Bald"]["latent"])  # no stored face with it, or none without
    assert without_nan(card)["before"]["scores"]["Bald"] == {"latent": None, "decoded": None}


def test_identity_is_judged_where_a_network_is_there(made):
    vae, face, editing = made
    card = face_card(face, vae, population(), editing, 0.2, None)
    assert {state["identity_cosine"] for state in card["after"]} == {None}
    card = face_card(face, vae, population(), editing, 0.2, Judge())
    cosines = [state["identity_cosine"] for state in card["after"]]
    assert cosines[0] == pytest.approx(1)
    assert all(0 < cosine <= 1 for cosine in cosines)


def test_reconstruction_is_scikit_images():
    random = np.random.default_rng(0)
    seen, decoded = (random.uniform(0, 255, (64, 64, 3)).astype(np.float32) for _ in range(2))
    found = reconstruction(seen, decoded)
    expected = peak_signal_noise_ratio(seen, decoded, data_range=255)
    assert found["psnr_db"] == pytest.approx(expected, abs=0.01)
    assert found["mean_absolute_error"] == pytest.approx(np.abs(seen - decoded).mean(), abs=0.01)
    assert math.isnan(reconstruction(seen, seen)["psnr_db"])


def test_the_corners_of_the_cut_out_square_are_told_in_the_photo(made):
    vae, face, editing = made
    turned = np.array([[0, -0.5, 70], [0.5, 0, 20.0]])  # a quarter turn at half the scale
    moved = face._replace(aligned=dataclasses.replace(face.aligned, to_source=turned))
    card = face_card(moved, vae, population(), editing, 0.2, None)
    assert card["corners"] == [[70, 20], [70, 52], [38, 52], [38, 20]]
