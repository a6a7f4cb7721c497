"""Records of shards: found if they are of these bytes and whole."""

import numpy as np
import pytest

from facevae.data.shard_files import Shard
from facevae.errors import UserError
from facevae.evaluation.records import (
    MEASURES,
    find_record,
    read_record,
    record_uri,
    write_record,
)

SHARD = Shard("val-00000", "val", 3, 10, "abc")


def test_a_record_comes_back(tmp_path):
    assert find_record(str(tmp_path), MEASURES, SHARD) is None
    write_record(str(tmp_path), MEASURES, SHARD, {"image_id": np.array(["ä", "b"]), "x": np.eye(2)})
    found = read_record(str(tmp_path), MEASURES, SHARD)
    assert found["image_id"].tolist() == ["ä", "b"]
    np.testing.assert_array_equal(found["x"], np.eye(2))
    assert set(found) == {"image_id", "x"}


def test_one_of_other_bytes_or_a_damaged_one_is_none(tmp_path, capsys):
    write_record(str(tmp_path), MEASURES, SHARD, {"x": np.eye(2)})
    other = Shard("val-00000", "val", 3, 10, "abd")
    assert find_record(str(tmp_path), MEASURES, other) is None
    path = tmp_path / MEASURES / "val-00000.npz"
    assert str(path) == record_uri(str(tmp_path), MEASURES, SHARD.name)
    path.write_bytes(path.read_bytes()[:-30])
    assert find_record(str(tmp_path), MEASURES, SHARD) is None
    assert "is damaged" in capsys.readouterr().err
    with pytest.raises(UserError, match="damaged meanwhile"):
        read_record(str(tmp_path), MEASURES, SHARD)


def test_objects_are_not_unpickled(tmp_path):
    (tmp_path / MEASURES).mkdir()
    with (tmp_path / MEASURES / "val-00000.npz").open("wb") as file:
        np.savez(file, shard_sha256=np.array("abc"), x=np.array([object()], object))
    assert find_record(str(tmp_path), MEASURES, SHARD) is None
