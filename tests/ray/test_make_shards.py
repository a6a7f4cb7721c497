"""The sharding job on Ray: what it writes, refuses, quarantines and takes up again."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facevae.commands.shards import shard_faces
from facevae.config import ShardsConfig
from facevae.data.images import decode_jpegs
from facevae.data.make_shards import CELEBA_BOX, WriteShard
from facevae.data.shard_files import read_manifest, read_shard, shard_uri
from facevae.data.sources.make_source import make_source
from facevae.data.sources.synthetic import synthetic_face, write_celeba_layout
from facevae.errors import UserError
from facevae.pixels import crop_and_resize

pytestmark = pytest.mark.usefixtures("ray_cluster")
QUIET = {"system_metrics": False}


@pytest.fixture(scope="module")
def celeba(tmp_path_factory):
    """Forty faces in CelebA's own layout."""
    folder = tmp_path_factory.mktemp("celeba")
    write_celeba_layout(folder, 40, 5)
    return folder


def folder_config(celeba, output, **changes) -> ShardsConfig:
    settings = {
        "images": str(celeba / "img_align_celeba"),
        "attributes": str(celeba / "list_attr_celeba.txt"),
        "partition": str(celeba / "list_eval_partition.txt"),
        "output": str(output),
        "sharding": {"image_size": 64, "images_per_shard": 16},
        "tracking": QUIET,
    }
    return ShardsConfig(**(settings | changes))


def test_shards_hold_every_drawn_face_with_its_labels(shards):
    manifest = read_manifest(str(shards))
    seen = []
    for shard in manifest.shards:
        rows = read_shard(str(shards), shard.name)
        assert decode_jpegs(rows.images).shape == (shard.rows, 64, 64, 3)
        for image_id, labels in zip(rows.image_ids, rows.attributes, strict=True):
            index = int(image_id[:6]) - 1
            np.testing.assert_array_equal(labels, synthetic_face(3, index)[1])
            seen.append(index)
    assert sorted(seen) == list(range(600))
    assert manifest.rows("train") + manifest.rows("val") + manifest.rows("test") == 600


def test_a_stored_image_is_the_cropped_source(shards):
    rows = read_shard(str(shards), "val-00000")
    source, _ = synthetic_face(3, int(rows.image_ids[0][:6]) - 1)
    expected = np.asarray(crop_and_resize(source, CELEBA_BOX, 64), np.int16)
    assert np.abs(decode_jpegs(rows.images[:1])[0] - expected).mean() < 3  # JPEG's loss


def test_celeba_as_distributed_keeps_its_partition(celeba, tmp_path):
    figures = shard_faces(folder_config(celeba, tmp_path / "out"))
    lines = (celeba / "list_eval_partition.txt").read_text().split()
    by_split = {"train": lines[1::2].count("0"), "val": lines[1::2].count("1")}
    assert figures["images"] == 40
    assert {split: figures[f"images/{split}"] for split in by_split} == by_split
    assert figures["quarantined"] == 0


def test_images_of_a_zip_without_labels_are_shards_to_train_on(celeba, tmp_path, capfd):
    folder = shutil.make_archive(str(tmp_path / "faces"), "zip", celeba, "img_align_celeba")
    config = folder_config(celeba, tmp_path / "out", images=folder, attributes=None)
    assert shard_faces(config)["images"] == 40
    assert "the images have no labels" in capfd.readouterr().err
    labelled = folder_config(celeba, tmp_path / "other")
    shard_faces(labelled)
    one, other = (read_manifest(str(tmp_path / name)) for name in ("out", "other"))
    assert one.attribute_names == ()
    for shard in one.shards:
        found = read_shard(str(tmp_path / "out"), shard.name)
        expected = read_shard(str(tmp_path / "other"), shard.name)
        assert found[:2] == expected[:2]
        assert found.attributes.shape == (shard.rows, 0)
    assert len(one.shards) == len(other.shards)


def test_bad_files_are_quarantined_with_their_reason(celeba, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(celeba / "img_align_celeba", images)
    good = (images / "000001.jpg").read_bytes()
    (images / "000002.jpg").write_bytes(good[: len(good) // 2])
    (images / "000003.jpg").write_bytes(b"")
    (images / "000004.jpg").write_text("not an image")
    (images / "000005.jpg").unlink()
    Image.new("RGB", (64, 64)).save(images / "unlabelled.png")
    config = folder_config(celeba, tmp_path / "out", images=str(images))
    with pytest.raises(UserError, match=r"5 faces .* were quarantined.*quarantine.csv"):
        shard_faces(config)
    assert not (tmp_path / "out" / "manifest.json").exists()
    table = (tmp_path / "out" / "quarantine.csv").read_text().splitlines()
    assert {line.split(",")[0] for line in table[1:]} == {
        "000002.jpg", "000003.jpg", "000004.jpg", "000005.jpg", "unlabelled.png",
    }  # fmt: skip
    assert all(line.split(",")[1] for line in table[1:])
    # What is mended is read again by the same command, now with a higher limit.
    shutil.copy(celeba / "img_align_celeba" / "000002.jpg", images)
    sharding = config.sharding.model_copy(update={"max_bad_fraction": 0.2})
    figures = shard_faces(config.model_copy(update={"sharding": sharding}))
    assert figures["images"] == 37
    assert figures["quarantined"] == 4


def test_finished_shards_are_not_written_again(celeba, tmp_path):
    config = folder_config(celeba, tmp_path / "out")
    shard_faces(config)
    manifest = read_manifest(str(tmp_path / "out"))
    (tmp_path / "out" / "manifest.json").unlink()
    lost = manifest.shards[0].name
    (tmp_path / "out" / "records" / f"{lost}.json").unlink()
    kept = Path(shard_uri(str(tmp_path / "out"), manifest.shards[1].name))
    before = kept.stat().st_mtime_ns
    shard_faces(config)
    assert kept.stat().st_mtime_ns == before
    assert read_manifest(str(tmp_path / "out")).digest == manifest.digest


def test_a_folder_of_another_data_set_is_refused(celeba, shards):
    with pytest.raises(UserError, match="is of another"):
        shard_faces(folder_config(celeba, shards))


def test_a_disk_that_fails_for_a_moment_costs_no_face(celeba, tmp_path, monkeypatch):
    config = folder_config(celeba, tmp_path / "out")
    source = make_source(config, config.sharding)
    write = WriteShard(config.output, source, config.sharding)
    load, failures = type(source).load, [OSError(errno.ESTALE, "Stale file handle")]

    def fail_once(self, image_id):
        if failures:
            raise failures.pop()
        return load(self, image_id)

    monkeypatch.setattr(type(source), "load", fail_once)
    labels = source.faces.attributes[:2]
    with pytest.raises(OSError, match="Stale file handle"):
        write.squares(source.faces.image_ids[:2], labels)
    kept, quarantined = write.squares(source.faces.image_ids[:2], labels)
    assert len(kept.images) == 2
    assert quarantined == []
