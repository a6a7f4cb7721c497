"""What an evaluation refuses, before anything is marked as its own."""

import numpy as np
import pytest
import torch

from facevae.attributes.hdf5 import write_hdf5
from facevae.attributes.vectors import AttributeVectors, LatentBatch
from facevae.commands.evaluate import evaluate_model
from facevae.config import EvaluateConfig, ModelConfig
from facevae.data.shard_files import Manifest, ShardRows, write_manifest, write_shard
from facevae.errors import UserError
from facevae.models import build_vae
from facevae.models.checkpoint import ModelCard, save_model

NAMES = ("Smiling", "Hat")


def make_shards(folder, names=NAMES, splits=("train", "val", "test")) -> str:
    rows = ShardRows(["1.jpg"], [b"jpeg"], np.ones((1, len(names)), np.int8))
    shards = tuple(write_shard(str(folder), f"{split}-00000", split, rows, 64) for split in splits)
    write_manifest(str(folder), Manifest(names, 64, shards, {}, {}, {}, False))
    return str(folder)


def make_vectors(folder, digest="", names=NAMES, size=4) -> str:
    count = len(names)
    vectors = AttributeVectors(
        names=names,
        vectors=np.ones((count, size), np.float32),
        positive_count=np.full(count, 9),
        negative_count=np.full(count, 9),
        standard_errors=np.zeros((count, size), np.float32),
        valid=np.ones(count, bool),
        model_digest=digest,
    )
    folder.mkdir()
    latents = np.zeros((1, size), np.float32)
    batch = LatentBatch(["1.jpg"], ["train"], latents, np.ones((1, count), np.int8))
    write_hdf5(str(folder / "attribute_vectors.h5"), vectors, [batch], 1)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder, config = tmp_path_factory.mktemp("model"), ModelConfig(latent_size=4)
    torch.manual_seed(0)
    save_model(folder, build_vae(config).state_dict(), ModelCard(config, 0, "s", "r"))
    return str(folder)


def refused(tmp_path, message: str, **settings) -> None:
    output = tmp_path / "out"
    with pytest.raises(UserError, match=message) as error:
        evaluate_model(EvaluateConfig(output=str(output), **settings))
    assert "\n" not in str(error.value)
    assert not output.exists()


def test_vectors_of_another_model_are_refused(tmp_path, model):
    shards = make_shards(tmp_path / "shards")
    vectors = make_vectors(tmp_path / "vectors", "0" * 64)
    refused(tmp_path, "vectors come from model 0000", shards=shards, model=model, vectors=vectors)


def test_vectors_of_other_attributes_are_refused(tmp_path, model):
    shards = make_shards(tmp_path / "shards", ("Smiling", "Young"))
    vectors = make_vectors(tmp_path / "vectors")
    message = r"other attributes than .* \('Hat' is in one of them only\)"
    refused(tmp_path, message, shards=shards, model=model, vectors=vectors)


def test_vectors_of_another_latent_size_are_refused(tmp_path, model):
    shards, vectors = make_shards(tmp_path / "shards"), make_vectors(tmp_path / "vectors", size=5)
    refused(tmp_path, "have 5 dimensions", shards=shards, model=model, vectors=vectors)


def test_shards_without_held_out_images_are_refused(tmp_path, model):
    shards = make_shards(tmp_path / "shards", splits=("train",))
    vectors = make_vectors(tmp_path / "vectors")
    refused(tmp_path, "no images in its val and test", shards=shards, model=model, vectors=vectors)


def test_an_unfinished_training_is_refused(tmp_path):
    shards, vectors = make_shards(tmp_path / "shards"), make_vectors(tmp_path / "vectors")
    (tmp_path / "run").mkdir()
    run = str(tmp_path / "run")
    refused(tmp_path, f"no model in {run}", shards=shards, model=run, vectors=vectors)


def test_a_table_of_people_that_is_none_is_refused(tmp_path, model):
    shards, vectors = make_shards(tmp_path / "shards"), make_vectors(tmp_path / "vectors")
    (tmp_path / "people.txt").write_text("1.jpg nobody\n")
    people = str(tmp_path / "people.txt")
    refused(tmp_path, "line 1", shards=shards, model=model, vectors=vectors, identities=people)
