"""Which files a checkpoint of the original is, however it is named; TensorFlow is not needed."""

import sys

import pytest

from facevae.errors import UserError
from facevae.models.facenet_checkpoint import CheckpointReader, local_checkpoint
from facevae.runs import storage

DATA = "model.ckpt-50000.data-00000-of-00001"
FILES = ("checkpoint", "model.ckpt-50000.index", DATA, "attribute_vectors.h5", "logs.h5")


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    ["", "/model.ckpt-50000", "/model.ckpt-50000.index", f"/{DATA}", "/model.ckpt-50000.meta"],
)
def test_each_spelling_is_the_same_checkpoint(folder, name):
    with local_checkpoint(f"{folder}{name}") as found:
        assert found.uri == f"{folder}/model.ckpt-50000"
        assert (found.folder, found.name, found.step) == (folder, "model.ckpt-50000", 50_000)
        assert found.files == ("model.ckpt-50000.index", DATA)
        digest = found.digest()
        (folder / DATA).write_text("other")
        assert found.digest() != digest


def test_names_that_begin_alike_are_not_mixed_up(folder):
    for name in ("model.ckpt-500000.index", "model.ckpt-500000.data-00000-of-00001"):
        (folder / name).write_text("")
    (folder / f"{DATA}.tempstate123").write_text("")
    with local_checkpoint(f"{folder}/model.ckpt-50000") as found:
        assert found.files == ("model.ckpt-50000.index", DATA)


def test_a_checkpoint_without_a_step_has_none_and_may_have_several_parts(tmp_path):
    for name in ("vae.index", "vae.data-00000-of-00002", "vae.data-00001-of-00002"):
        (tmp_path / name).write_text("")
    with local_checkpoint(str(tmp_path)) as found:
        assert (found.step, len(found.files)) == (0, 3)
    (tmp_path / "vae.data-00001-of-00002").unlink()
    with (
        pytest.raises(UserError, match=r"no vae\.data-00001-of-00002 beside .*/vae\.index: copy"),
        local_checkpoint(str(tmp_path)),
    ):
        pass


def test_a_single_file_is_the_format_before_v2(tmp_path):
    (tmp_path / "model.ckpt-7").write_text("")
    with local_checkpoint(f"{tmp_path}/model.ckpt-7") as found:
        assert (found.files, found.step) == (("model.ckpt-7",), 7)


def _without_data(folder):
    (folder / DATA).unlink()


def _without_index(folder):
    (folder / "model.ckpt-50000.index").unlink()


def _with_others(folder):
    for step in (500, 49500):
        (folder / f"model.ckpt-{step}.index").write_text("")


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (_without_data, "", f"no {DATA} beside .*model.ckpt-50000.index: copy all files"),
        (_without_index, "", "no checkpoint in .*: expected model.ckpt-50000.index, or its like"),
        (_without_index, "/model.ckpt-50000", "no checkpoint .*/model.ckpt-50000: expected the fi"),
        (lambda _: None, "/model.ckpt-1", "no checkpoint .*/model.ckpt-1: expected the files"),
        (lambda _: None, "/none/model.ckpt-1", "no checkpoint .*/none/model.ckpt-1: expected"),
        (
            _with_others,
            "",
            "holds 3 checkpoints, model.ckpt-500, model.ckpt-49500, model.ckpt-50000: give one of "
            "them, such as the last, .*/model.ckpt-50000$",
        ),
    ],
)
def test_what_is_no_checkpoint_is_one_line(folder, change, name, message):
    change(folder)
    with pytest.raises(UserError, match=message), local_checkpoint(f"{folder}{name}"):
        pass


@pytest.mark.slow
def test_a_checkpoint_of_an_object_store_is_copied_for_as_long_as_it_is_needed(folder, s3):
    for name in FILES:
        with storage.atomic_file(storage.join(s3, name)) as path:
            path.write_bytes((folder / name).read_bytes())
    with local_checkpoint(str(folder)) as local, local_checkpoint(s3) as copy:
        assert copy.uri == f"{s3}/model.ckpt-50000"
        assert copy.digest() == local.digest()
        assert {path.name for path in copy.folder.iterdir()} == set(copy.files)
    assert not copy.folder.exists()


def test_without_tensorflow_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with (
        local_checkpoint(str(folder)) as found,
        pytest.raises(UserError, match=r"pip install 'facevae\[facenet-import\]'"),
    ):
        CheckpointReader(found)
