"""Which faces are edited, what is drawn at each strength, and how much of it is found again."""

import numpy as np
import pytest
import torch
from torch import nn

from facevae.attributes.hdf5 import write_hdf5
from facevae.attributes.vectors import AttributeVectors, LatentBatch
from facevae.config import EditingConfig, ModelConfig
from facevae.editing.edits import directions_of, edit_latents
from facevae.editing.latent_edit import (
    FACENET_FACES,
    choose_faces,
    decode,
    edit_fidelity,
)
from facevae.errors import UserError
from facevae.models import VAE, build_vae
from facevae.models.vae import Posterior
from facevae.pixels import denormalise, normalise, to_pixels

NAMES = ("Smiling", "Male")
IMAGES = 300


def vectors() -> AttributeVectors:
    return AttributeVectors(
        names=NAMES,
        vectors=np.array([[2, 0, 1], [1, 3, 0]], np.float32),
        positive_count=np.array([99, 99]),
        negative_count=np.array([99, 99]),
        standard_errors=np.zeros((2, 3), np.float32),
        valid=np.array([True, True]),
    )


def labels() -> np.ndarray:
    """Smiling as drawn by chance; every face is Male."""
    smiling = np.random.default_rng(1).choice(np.array([-1, 0, 1], np.int8), IMAGES)
    return np.stack([smiling, np.ones(IMAGES, np.int8)], axis=1)


@pytest.fixture
def write(tmp_path):
    """A function that writes the first images to a file; names run against the order of rows."""

    def written(images: int = IMAGES) -> str:
        uri = str(tmp_path / "vectors.h5")
        latents = np.arange(images * 3, dtype=np.float32).reshape(-1, 3)
        ids = [f"{IMAGES - row:06d}.jpg" for row in range(images)]
        batch = LatentBatch(ids, ["train"] * images, latents, labels()[:images])
        write_hdf5(uri, vectors(), [batch], images)
        return uri

    return written


def without_a_smile() -> list[str]:
    """Names of the faces labelled -1, sorted."""
    return sorted(f"{IMAGES - row:06d}.jpg" for row in np.flatnonzero(labels()[:, 0] == -1))


def test_the_preset_takes_the_originals_sixteen(write):
    faces = choose_faces(write(), EditingConfig(preset="facenet_smile"))
    plain = without_a_smile()
    assert faces.image_id == [plain[k] for k in FACENET_FACES]
    assert (faces.attributes[:, 0] == -1).all()
    rows = [IMAGES - int(name[:6]) for name in faces.image_id]
    np.testing.assert_array_equal(faces.latents[:, 0], [3.0 * row for row in rows])


def test_by_default_the_first_faces_without_the_attribute(write):
    assert choose_faces(write(), EditingConfig(faces=5)).image_id == without_a_smile()[:5]


def test_named_faces_come_in_the_order_asked_for(write):
    names = ("000007.jpg", "000199.jpg", "000002.jpg")
    assert choose_faces(write(), EditingConfig(image_ids=names)).image_id == list(names)


@pytest.mark.parametrize(
    ("images", "editing", "message"),
    [
        (IMAGES, {"image_ids": ("nobody.jpg",)}, r"no image 'nobody\.jpg'"),
        (IMAGES, {"attribute": ("Smilling",)}, "did you mean Smiling"),
        (IMAGES, {"attribute": ("Male",)}, r"no face without Male: give --editing\.image_ids"),
        (40, {"preset": "facenet_smile"}, r"needs 74 faces .*: choose faces with --editing\."),
    ],
)
def test_faces_that_are_not_there_are_refused_with_a_remedy(write, images, editing, message):
    with pytest.raises(UserError, match=message):
        choose_faces(write(images), EditingConfig(**editing))


def moved_by(latents: np.ndarray, direction: np.ndarray, strengths) -> np.ndarray:
    return latents[:, None] + np.asarray(strengths)[None, :, None] * direction


def test_strength_0_is_the_plain_decoding():
    torch.manual_seed(0)
    vae = build_vae(ModelConfig(latent_size=3)).eval()
    latents = np.random.default_rng(0).normal(size=(2, 3))
    direction = np.array([5, -5, 5], np.float32)
    drawn = decode(vae, moved_by(latents, direction, (-1.0, 0.0, 2.0)))
    assert drawn.shape == (2, 3, 64, 64, 3)
    for face, latent in zip(drawn, latents, strict=True):
        for image, strength in zip(face, (-1, 0, 2), strict=True):
            moved = torch.from_numpy(latent + strength * direction).float()
            with torch.no_grad():
                # of the same batch size: kernels choose their order of summation by it
                plain = vae.decode(moved.expand(3, -1))
            np.testing.assert_array_equal(image, to_pixels(plain)[0])
    assert (drawn[:, 0] != drawn[:, 2]).any()


class Mirror(VAE):
    """A VAE without loss: a latent is the mean colour of its image, in tens around 100."""

    def __init__(self, kept: float = 1.0) -> None:
        nn.Module.__init__(self)
        self.kept = nn.Parameter(torch.tensor(kept))
        self.image_size, self.latent_size, self.resize_method = 8, 3, "antialias"

    def encode(self, images: torch.Tensor) -> Posterior:
        mean = (denormalise(images).mean(dim=(2, 3)) - 100) / 10 * self.kept
        return Posterior(mean, torch.zeros_like(mean))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return normalise((100 + 10 * latents)[:, :, None, None].expand(-1, -1, 8, 8))


def test_a_mix_that_takes_its_first_attribute_away_edits_faces_that_have_it(write):
    found = choose_faces(write(), EditingConfig(mix=("Male=-1", "Smiling=2"), faces=3))
    assert (found.attributes[:, 1] == 1).all()
    with pytest.raises(UserError, match="no face without Male"):
        choose_faces(write(), EditingConfig(mix=("Male=1",)))


def test_a_mix_moves_by_the_amount_of_each_and_what_is_kept_is_of_each():
    editing = EditingConfig(mix=("Smiling=2", "Male=-0.5"), strengths=(0.0, 2.0))
    vae, latents = Mirror(0.5).eval(), np.array([[0, 1, 2], [-3, 0, 1]], np.float64)
    edited = edit_latents(["a", "b"], latents, vectors(), editing)
    np.testing.assert_allclose(edited.latents, moved_by(latents, [3.5, -1.5, 2], (0.0, 2.0)))
    drawn = decode(vae, edited.latents)
    measured = edit_fidelity(vae, drawn, vectors(), editing, directions_of(vectors(), editing))
    assert measured == pytest.approx({"kept/Smiling": 0.5, "kept/Male": 0.5}, rel=1e-3)


@pytest.mark.parametrize("kept", [1.0, 0.25])
@pytest.mark.parametrize("strengths", [(0.0, 1.0, 2.0), (2.0, -1.0), (0.5, 0.0, 3.0)])
@pytest.mark.parametrize("attribute", [("Smiling",), ("Smiling", "Male")])
def test_what_a_vae_keeps_of_a_change_is_measured(kept, strengths, attribute):
    vae, editing = Mirror(kept).eval(), EditingConfig(strengths=strengths, attribute=attribute)
    latents = np.array([[0, 1, 2], [-3, 0, 1]], np.float64)
    direction = np.sum([vectors().vector(name) for name in attribute], axis=0)
    drawn = decode(vae, moved_by(latents, direction, strengths))
    measured = edit_fidelity(vae, drawn, vectors(), editing, directions_of(vectors(), editing))
    assert measured == pytest.approx({f"kept/{name}": kept for name in attribute}, rel=1e-4)


def test_one_strength_is_no_change_to_measure():
    drawn = np.zeros((2, 1, 8, 8, 3), np.uint8)
    editing = EditingConfig(strengths=(1.0,))
    directions = directions_of(vectors(), editing)
    assert edit_fidelity(Mirror().eval(), drawn, vectors(), editing, directions) == {}
