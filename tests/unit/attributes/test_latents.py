"""Latents: the same alone or in any batch, and a table that reads back as it was written."""

from pathlib import Path

import numpy as np
import pytest
import torch

from facevae.attributes.latents import encode_pixels, latents_uri, read_latents, write_latents
from facevae.attributes.vectors import LatentBatch
from facevae.config import ModelConfig
from facevae.data.shard_files import Manifest, Shard
from facevae.errors import UserError
from facevae.models import build_vae
from facevae.pixels import model_input


def faces(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def test_a_latent_is_the_same_alone_or_in_any_batch():
    torch.manual_seed(0)
    vae = build_vae(ModelConfig(latent_size=8)).eval()
    images = faces(21)
    whole = encode_pixels(vae, images, 8)
    for i in (0, 7, 20):
        alone = encode_pixels(vae, images[i : i + 1], 8)
        np.testing.assert_array_equal(alone.mean[0], whole.mean[i])
        np.testing.assert_array_equal(alone.variance[0], whole.variance[i])
    turned = encode_pixels(vae, np.ascontiguousarray(images[::-1]), 8)
    np.testing.assert_array_equal(turned.mean[::-1], whole.mean)
    np.testing.assert_array_equal(turned.variance[::-1], whole.variance)
    with torch.no_grad():
        direct = vae.encode(model_input(torch.from_numpy(images), 64, vae.resize_method))
    scale = float(direct.mean.abs().max())
    np.testing.assert_allclose(whole.mean, direct.mean, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(whole.variance, direct.log_variance.exp(), rtol=1e-5)


def test_the_table_reads_back(tmp_path):
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(5, 3)).astype(np.float32)
    labels = rng.integers(-1, 2, (5, 4)).astype(np.int8)
    batch = LatentBatch([f"é{i}.jpg" for i in range(5)], ["val"] * 5, latents, labels)
    write_latents(str(tmp_path), "val-00000", batch)
    shard = Shard("val-00000", "val", 5, 0, "")
    manifest = Manifest(("a",) * 4, 64, (shard,), {}, {}, {}, missing_labels=True)
    (back,) = read_latents(str(tmp_path), manifest)
    assert (back.image_id, back.split) == (batch.image_id, batch.split)
    np.testing.assert_array_equal(back.latents, latents)
    np.testing.assert_array_equal(back.attributes, labels)


def test_a_shard_without_latents_reads_back(tmp_path):
    none = LatentBatch([], [], np.zeros((0, 3), np.float32), np.zeros((0, 4), np.int8))
    write_latents(str(tmp_path), "val-00000", none)
    shard = Shard("val-00000", "val", 0, 0, "")
    manifest = Manifest(("a",) * 4, 64, (shard,), {}, {}, {}, missing_labels=False)
    (back,) = read_latents(str(tmp_path), manifest)
    assert (back.latents.shape, back.attributes.shape) == ((0, 3), (0, 4))


def test_damaged_latents_are_named(tmp_path):
    labels = np.ones((3, 2), np.int8)
    latents = np.arange(12, dtype=np.float32).reshape(3, 4)
    batch = LatentBatch(["a", "b", "c"], ["train"] * 3, latents, labels)
    write_latents(str(tmp_path), "train-00000", batch)
    shard = Shard("train-00000", "train", 3, 0, "digest")
    manifest = Manifest(("x", "y"), 64, (shard,), {}, {}, {}, False)
    path = Path(latents_uri(str(tmp_path), "train-00000"))
    whole = path.read_bytes()
    place = whole.index(latents.tobytes())
    for damaged in (whole[:-9], b"", whole[:place] + b"\1" + whole[place + 1 :]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged latents .*train-00000.parquet") as refused:
            list(read_latents(str(tmp_path), manifest))
        assert "\n" not in str(refused.value)
    path.unlink()
    with pytest.raises(UserError, match=r"damaged latents .*train-00000.parquet"):
        list(read_latents(str(tmp_path), manifest))
