"""`edit --image`: a real portrait, edited and put back; and what is refused."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import skimage.data
import torch
from mlflow import MlflowClient
from PIL import Image

from facevae.attributes.hdf5 import write_hdf5
from facevae.attributes.vectors import AttributeVectors, LatentBatch
from facevae.cli import main
from facevae.config import ModelConfig
from facevae.editing.photo_editor import remove_earlier
from facevae.models import build_vae
from facevae.models.checkpoint import ModelCard, save_model

MODEL = ModelConfig(latent_size=4)
FACES = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A model of random weights, vectors, a store of runs, and the portrait."""
    folder = tmp_path_factory.mktemp("made")
    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    (folder / "model").mkdir()
    torch.manual_seed(0)
    alignment = {"framing": "celeba", "size": 64}
    card = ModelCard(MODEL, 1, "shards", "", alignment=alignment)
    digest = save_model(folder / "model", build_vae(MODEL).state_dict(), card).digest
    random = np.random.default_rng(0)
    labels = random.choice(np.array([-1, 1], np.int8), (FACES, 3))
    directions = AttributeVectors(
        names=("Smiling", "Eyeglasses", "Bald"),
        vectors=np.array([[4, 4, -4, 4], [-4, 4, 4, 4], [np.nan] * 4], np.float32),
        positive_count=np.array([30, 30, 1]),
        negative_count=np.array([30, 30, 59]),
        standard_errors=np.zeros((3, 4), np.float32),
        valid=np.array([True, True, False]),
        model_digest=digest,
    )
    latents = random.normal(size=(FACES, 4)).astype(np.float32)
    batch = LatentBatch([f"{i}.jpg" for i in range(FACES)], ["train"] * FACES, latents, labels)
    write_hdf5(str(folder / "attribute_vectors.h5"), directions, [batch], FACES)
    Image.fromarray(skimage.data.astronaut()).save(folder / "astronaut.png")
    Image.new("RGB", (300, 300), "grey").save(folder / "nobody.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def edit(made: Path, output: Path, *words: str) -> int:
    """Edit by the command line; returns the exit code."""
    fixed = [f"--model={made}/model", f"--vectors={made}", f"--output={output}"]
    fixed += [f"--tracking.uri=sqlite:///{made}/mlflow.db", "--tracking.system_metrics=false"]
    return main(["edit", *fixed, *words])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix not in (".json", ".lock")}


def face_of(card: dict, shape: tuple[int, ...]) -> np.ndarray:
    """Whether each pixel of the photo is in the face's frame."""
    matrix, size = np.array(card["faces"][0]["to_photo"]), card["alignment"]["size"]
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    inverse = np.linalg.inv(matrix[:, :2])
    u, v = np.tensordot(inverse, [x - matrix[0, 2], y - matrix[1, 2]], 1)
    return (u > 0) & (v > 0) & (u < size) & (v < size)


def test_a_portrait_is_edited_and_put_back_by_one_command(made, tmp_path, capsys):
    output = tmp_path / "edit"
    image = f"--image={made}/astronaut.png"
    assert edit(made, output, image, "Smiling=+2", "Eyeglasses=-1", "--animation=gif") == 0
    assert names(output) == {"edit.png", "edit_labelled.png", "photo.png", "before_after.gif"}
    before = skimage.data.astronaut()
    after = np.asarray(Image.open(output / "photo.png"))
    card = json.loads((output / "card.json").read_text())
    inside = face_of(card, before.shape)
    assert 0.01 < inside.mean() < 0.2
    np.testing.assert_array_equal(after[~inside], before[~inside])
    assert (after[inside] != before[inside]).mean() > 0.3
    left, top, right, bottom = card["faces"][0]["box"]
    assert 150 < left < right < 300  # where her face is
    assert 20 < top < bottom < 220
    assert card["edit"]["amounts"] == {"Smiling": 2.0, "Eyeglasses": -1.0}
    assert card["edit"]["strengths"] == [0.0, 1.0]
    assert set(card["faces"][0]["before"]["scores"]) == {"Smiling", "Eyeglasses"}
    assert card["identity"]["network"] is None
    assert (card["alignment"]["framing"], card["lost"]) == ("celeba", [])
    printed = capsys.readouterr()
    assert "score/Smiling/after" in printed.out
    assert str(output / "photo.png") in printed.err
    result = (output / "result.json").stat().st_mtime_ns
    assert edit(made, output, image, "Smiling=+2", "Eyeglasses=-1", "--animation=gif") == 0
    assert "already done" in capsys.readouterr().err
    assert (output / "result.json").stat().st_mtime_ns == result
    # Another edit replaces the pictures of this one, and nothing else.
    (output / "photo_of_my_cat.png").write_text("mine")
    options = ["--editing.attribute", "Smiling", "--editing.strengths", "[0,1,2]"]
    assert edit(made, output, image, *options) == 0
    photos = {"photo.png", "photo_+1.png", "photo_+2.png"}
    grids = {"edit.png", "edit_labelled.png", "photo_of_my_cat.png"}
    assert names(output) == grids | photos
    assert (output / "photo.png").read_bytes() == (output / "photo_+2.png").read_bytes()
    # Nor is the photo itself written over, if it lies where the edit is written.
    own = (output / "photo.png").read_bytes()
    assert edit(made, output, f"--image={output}/photo.png", *options) == 2
    assert "give another --output" in capsys.readouterr().err
    assert (output / "photo.png").read_bytes() == own
    assert edit(made, output, "--editing.faces", "2", "--editing.strengths", "[0,1]") == 0
    assert names(output) == grids
    assert not (output / "card.json").exists()


def test_a_card_of_somebody_elses_is_no_card_of_ours(made, tmp_path, capsys):
    (tmp_path / "card.json").write_text('{"mine": true}')
    assert edit(made, tmp_path, "--editing.faces", "2", "--editing.strengths", "[0,1]") == 2
    assert "card.json" in capsys.readouterr().err
    remove_earlier(str(tmp_path))
    assert (tmp_path / "card.json").read_text() == '{"mine": true}'


def test_other_directions_of_the_same_images_are_another_edit(made, tmp_path, capsys):
    words = [f"--image={made}/astronaut.png", "Smiling=1"]
    assert edit(made, tmp_path / "edit", *words) == 0
    assert edit(made, tmp_path / "edit", *words) == 0
    assert "already done" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    shutil.copy(made / "attribute_vectors.h5", tmp_path / "other")
    with h5py.File(tmp_path / "other" / "attribute_vectors.h5", "r+") as file:
        file["attribute_vectors"][0] *= 2
    assert edit(made, tmp_path / "edit", *words, f"--vectors={tmp_path}/other") == 0
    assert "already done" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--image={made}/nobody.png", "no face is found in nobody.png"),
        ("--image={made}/notes.txt", "notes.txt cannot be read as a photo: not an image"),
        ("--image={made}/gone.png", "no photo at {made}/gone.png"),
        ("--image={made}/astronaut.png --face=7", "--face 7: astronaut.png has 1 face, 0"),
        ("--image={made}/astronaut.png --vectors={made}/model", "attribute vectors"),
        ("--image={made}/astronaut.png Smilling=1", "did you mean Smiling?"),
        ("--image={made}/astronaut.png Bald=1", "Bald has no vector"),
        ("--image={made}/astronaut.png --identity_weights=no.pt", "identity_weights: expected"),
        ("--image={made}/astronaut.png --model={made}/runs", "no model in"),
    ],
)
def test_what_cannot_be_edited_is_one_line_and_writes_nothing(
    made, tmp_path, capsys, words, message
):
    output = tmp_path / "edit"
    assert edit(made, output, *words.format(made=made).split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message.format(made=made) in lines[0]
    assert not output.exists()


def test_a_turned_photo_with_alpha_and_profile_keeps_them(made, tmp_path):
    portrait = Image.fromarray(skimage.data.astronaut())
    portrait.putalpha(
        Image.linear_gradient("L").resize(portrait.size).point(lambda a: 155 + a // 3)
    )
    exif = Image.Exif()
    exif[0x0112], exif[0x013B] = 6, "Artist"  # to be turned by a quarter to be seen
    turned = portrait.transpose(Image.Transpose.ROTATE_90)
    path = tmp_path / "turned.png"
    turned.save(path, exif=exif, icc_profile=b"profile" * 30)
    options = ["--photo_format=tiff", "--alignment.framing=box", "Smiling=1"]
    assert edit(made, tmp_path / "edit", f"--image={path}", *options) == 0
    with Image.open(tmp_path / "edit" / "photo.tif") as photo:
        assert (photo.mode, photo.size) == ("RGBA", portrait.size)
        assert photo.info["icc_profile"] == b"profile" * 30
        assert photo.getexif()[0x013B] == "Artist"
        assert photo.getexif().get(0x0112, 1) == 1
        after = np.asarray(photo)
    card = json.loads((tmp_path / "edit" / "card.json").read_text())
    assert card["alignment"]["framing"] == "box"
    before = np.asarray(portrait)
    np.testing.assert_array_equal(after[..., 3], before[..., 3])
    inside = face_of(card, before.shape)
    np.testing.assert_array_equal(after[~inside], before[~inside])
    assert (after != before).any()
