"""The original's files: what TensorFlow computes with them is what we compute once imported.

TensorFlow stays in a process of its own, which writes checkpoints as the original did, keeps what
it computes with them, and imports them: `tests/drivers/facenet_original.py`.
"""

import json
import os
import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from facevae.attributes.hdf5 import read_batches, read_vectors
from facevae.cli import parse
from facevae.commands.import_facenet import import_facenet
from facevae.config import ImportFacenetConfig, TrainConfig
from facevae.errors import UserError
from facevae.models.checkpoint import LoadedModel, check_fits, load_model, read_card
from facevae.models.facenet_names import variable_names
from facevae.pixels import model_input, resize
from facevae.tracking import read_run_id
from facevae.training.build import build_trainer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("tensorflow") is None, reason="needs the extra facenet-import, TensorFlow"
    ),
]
ROOT = Path(__file__).parents[3]
DRIVER = ROOT / "tests" / "drivers" / "facenet_original.py"
SIZES = {"dfc_vae": 100, "dfc_vae_resnet": 16, "dfc_vae_large": 24}
VARIABLES = {"dfc_vae": 38, "dfc_vae_resnet": 138, "dfc_vae_large": 46}
FIELDS = ("Male", "Smiling", "Bald")
IMAGES = 190


NAMED = {
    "dfc_vae": "model.ckpt-50000",
    "dfc_vae_resnet": "model.ckpt-50000.index",
    "dfc_vae_large": "model.ckpt-50000.data-00000-of-00001",
}
"""each spelling of a checkpoint is as good as the others"""
REFUSED = {
    "facenet": "holds no VAE of the original: no vector encoder/Fc_1/biases is among its 3 var",
    "diverged": "encoder/Conv2d_1/weights in .* holds values that are not finite",
    "flipped": "cannot read .* damaged .*[Cc]hecksum",
    "cut": "cannot read .*/cut/model.ckpt-50000: not a checkpoint of TensorFlow, or damaged",
    "text": "cannot read .*/text/model.ckpt-50000: not a checkpoint of TensorFlow, or damaged",
}


def write_original_vectors(path: Path, latent_size: int) -> dict[str, np.ndarray]:
    """A file as `calculate_attribute_vectors.py` writes it; returns its data sets."""
    random = np.random.default_rng(7)
    attributes = random.choice([-1.0, 1.0], (IMAGES, len(FIELDS)))
    attributes[:, 2] = -1  # nobody is bald, so that its mean is that of nothing
    latents = random.normal(size=(IMAGES, latent_size)) + attributes[:, :1]
    vectors = np.full((len(FIELDS), latent_size), np.nan, np.float32)
    for index in (0, 1):
        sign = attributes[:, index]
        vectors[index] = latents[sign == 1].mean(0) - latents[sign == -1].mean(0)
    data = {
        "latent_vars": latents,
        "attributes": attributes,
        "fields": np.array(FIELDS, "S"),
        "attribute_vectors": vectors,
    }
    with h5py.File(path, "w") as file:
        for name, values in data.items():
            file.create_dataset(name, data=values)
    return data


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder of all that TensorFlow wrote and of what was imported from it."""
    folder = tmp_path_factory.mktemp("original")
    for name in SIZES:
        (folder / name).mkdir()
    write_original_vectors(folder / "dfc_vae" / "attribute_vectors.h5", SIZES["dfc_vae"])
    write_original_vectors(folder / "small.h5", 16)
    imported = [(name, f"{folder}/{name}/{file}") for name, file in NAMED.items()]
    commands = {
        name: ["--checkpoint", path, "--tracking.register_as", "facenet"] for name, path in imported
    }
    commands["dfc_vae"] += ["--vectors", f"{folder}/dfc_vae", "--model", "dfc_vae"]
    commands["again"] = [*commands["dfc_vae"]]
    commands["v1"] = ["--checkpoint", f"{folder}/v1/model.ckpt-50000"]
    for name in REFUSED:
        commands[name] = ["--checkpoint", f"{folder}/{name}/model.ckpt-50000"]
    whole = ["--checkpoint", f"{folder}/dfc_vae"]
    commands["other model"] = [*whole, "--model", "dfc_vae_resnet"]
    commands["other vectors"] = [*whole, "--vectors", f"{folder}/small.h5"]
    words = {
        name: ["import-facenet", "--output", f"{folder}/out/{name}", *options]
        for name, options in commands.items()
    }
    words["again"][2] = words["dfc_vae"][2]
    words["edit"] = [
        *("edit", "--model", f"{folder}/out/dfc_vae", "--vectors", f"{folder}/out/dfc_vae"),
        *("--output", f"{folder}/out/edit", "--editing.preset", "facenet_smile"),
    ]
    quiet = ["--tracking.system_metrics", "false"]
    (folder / "commands.json").write_text(json.dumps([[*each, *quiet] for each in words.values()]))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }
    driver = [sys.executable, str(DRIVER), str(folder)]
    done = subprocess.run(driver, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(dict(zip(words, results, strict=True))))
    return folder


@cache
def loaded(folder: Path) -> LoadedModel:
    """An imported model."""
    return load_model(folder / "model")


def result(place: Path, name: str) -> dict:
    return json.loads((place / "results.json").read_text())[name]


@pytest.mark.parametrize("name", SIZES)
def test_a_checkpoint_computes_what_it_computes_in_tensorflow(place, name):
    assert result(place, name)["code"] == 0, result(place, name)["err"]
    vae, card = loaded(place / "out" / name)
    assert (card.model.name, card.model.form, card.model.latent_size, card.step) == (
        *(name, "faithful", SIZES[name], 50_000),
    )
    expected = {
        key: torch.from_numpy(values)
        for key, values in np.load(place / name / "expected.npz").items()
    }

    def close(found: torch.Tensor, key: str) -> None:
        tensor = expected[key]
        tensor = tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor
        torch.testing.assert_close(found, tensor, atol=1e-4, rtol=0)

    with torch.inference_mode():
        images = model_input(expected["images"], vae.image_size, vae.resize_method)
        close(images, "read")
        posterior = vae.encode(images)
        close(posterior.mean, "mean")
        expected["log_variance"].clamp_(-30, 10)
        assert (expected["log_variance"] < 10).float().mean() > 0.9
        close(posterior.log_variance, "log_variance")
        decoded = vae.decode(expected["latents"])
        close(decoded, "decoded")
        close(resize(decoded, 160, "tf1"), "seen")
    assert expected["mean"].std() > 0.5
    assert expected["decoded"].std() > 0.5


@pytest.mark.parametrize("name", SIZES)
def test_every_variable_of_the_vae_has_its_place_and_others_are_counted(place, name):
    vae = loaded(place / "out" / name).vae
    names = variable_names(vae)
    assert len(names) == len(set(names.values())) == VARIABLES[name]
    left = set(vae.state_dict()) - set(names.values())
    counts = {key for key in left if key.endswith("num_batches_tracked")}
    gammas = [vae.state_dict()[key] for key in left - counts]
    assert len(gammas) == len(counts) == (VARIABLES[name] - 6) // 4
    assert all(gamma.eq(1).all() for gamma in gammas)
    metrics = json.loads((place / "out" / name / "result.json").read_text())
    assert metrics == {
        "variables": VARIABLES[name],
        "ignored_variables": 3,
        "images": IMAGES if name == "dfc_vae" else 0,
        "vectors": 2 if name == "dfc_vae" else 0,
    }


def test_a_checkpoint_of_the_format_before_v2_is_the_same_model(place):
    digests = {read_card(place / "out" / n / "model").digest for n in ("v1", "dfc_vae")}
    assert len(digests) == 1


@pytest.mark.parametrize(("name", "message"), REFUSED.items(), ids=REFUSED)
def test_what_is_no_checkpoint_of_a_vae_is_one_line_and_leaves_nothing(place, name, message):
    assert_refused(place, name, message)


def test_another_model_is_refused_with_the_name_of_the_one_that_fits(place):
    assert_refused(
        place, "other model", "is a dfc_vae, not a dfc_vae_resnet: give --model dfc_vae$"
    )


def test_vectors_of_another_latent_size_are_refused(place):
    message = "small.h5 has vectors of size 16, and the latents of .* have size 100"
    assert_refused(place, "other vectors", message)


def assert_refused(place: Path, name: str, message: str) -> None:
    """A command ended with one line, and its output folder has nothing but the lock's."""
    ended = result(place, name)
    lines = ended["err"].splitlines()
    assert (ended["code"], ended["out"]) == (2, "")
    assert [line for line in lines if line.startswith("facevae import-facenet: ")] == lines[-1:]
    assert re.search(message, lines[-1]), lines[-1]
    left = {path.name for path in (place / "out" / name).rglob("*") if path.is_file()}
    assert not {each for each in left if not each.startswith(".")}, left


def test_vectors_keep_all_that_the_originals_file_holds_and_name_their_model(place):
    with h5py.File(place / "dfc_vae" / "attribute_vectors.h5") as file:
        original = {name: file[name][:] for name in file}
    ours = place / "out" / "dfc_vae" / "attribute_vectors.h5"
    with h5py.File(ours) as file:
        for name, values in original.items():
            if name != "fields":
                assert file[name].dtype == values.dtype
                np.testing.assert_array_equal(file[name][:], values)
    vectors = read_vectors(ours)
    assert vectors.names == FIELDS
    assert vectors.valid.tolist() == [True, True, False]
    assert vectors.model_digest == read_card(place / "out" / "dfc_vae" / "model").digest
    (batch,) = read_batches(ours)
    assert batch.image_id == [f"{row:03d}" for row in range(IMAGES)]


def test_the_model_is_logged_and_registered_and_a_finished_import_is_not_repeated(place):
    run = read_run_id(str(place / "out" / "dfc_vae"))
    client = MlflowClient(run.uri)
    logged = client.get_run(run.run_id)
    assert logged.data.tags["facevae.checkpoint"] == "model.ckpt-50000"
    assert {file.path for file in client.list_artifacts(run.run_id)} >= {
        *("attribute_vectors.h5", "faces.png"),
    }
    versions = client.search_model_versions("name = 'facenet'")
    assert len(versions) == len(SIZES)
    again = result(place, "again")
    assert again["code"] == 0
    assert "already done" in again["err"]
    assert sorted(again["out"].split("\n")) == sorted(result(place, "dfc_vae")["out"].split("\n"))


def test_an_edit_of_what_was_imported_is_the_originals_picture(place):
    assert result(place, "edit")["code"] == 0, result(place, "edit")["err"]
    with Image.open(place / "out" / "edit" / "edit.png") as picture:
        assert picture.size == (1343, 539)
    with Image.open(place / "out" / "dfc_vae" / "faces.png") as picture:
        assert picture.size == (8 * 67 + 3, 4 * 67 + 3)


def test_training_goes_on_from_an_imported_model_with_the_faithful_recipe(place):
    options = ["--loss.reconstruction", "pixel", "--training.global_batch_size", "4"]
    recipe = str(ROOT / "configs" / "facenet_faithful.yaml")
    config: TrainConfig = parse("train", ["--config", recipe, *options])
    model = loaded(place / "out" / "dfc_vae")
    check_fits(model.card, config.model, "--init_from")
    trainer = build_trainer(config, torch.device("cpu"))
    before = {name: value.clone() for name, value in model.vae.state_dict().items()}
    trainer.start_from(before)
    for name, value in trainer.vae.state_dict().items():
        assert torch.equal(value, before[name]), name
    trainer(torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8), 1)
    after = trainer.vae.state_dict()
    rate = config.training.learning_rate
    for name in ("encoder.0.0.weight", "mean.weight", "decoder.3.1.bias"):
        change = (after[name] - before[name]).abs()
        assert 0 < change.max() <= 1.01 * rate, name
    assert after["decoder.3.1.weight"].eq(1).all()


@pytest.mark.parametrize("name", ["faces.png", "attribute_vectors.h5", "model/model.json"])
def test_a_file_of_somebody_else_is_not_replaced(tmp_path, name):
    for end in ("index", "data-00000-of-00001"):
        (tmp_path / f"model.ckpt-1.{end}").write_text("")
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    config = ImportFacenetConfig(checkpoint=str(tmp_path), output=str(tmp_path / "out"))
    with pytest.raises(UserError, match=r"is not of this program.* choose another --output"):
        import_facenet(config)
    assert mine.read_text() == "mine"
