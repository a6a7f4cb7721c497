"""What the pass finds of an earlier one is taken only if it is whole."""

import zipfile

import numpy as np
import pytest

from facevae.attributes.encode import _read_arrays


@pytest.mark.parametrize("content", [b"no array", b""])
def test_a_member_that_is_no_array_makes_the_statistics_damaged(tmp_path, capsys, content):
    path = tmp_path / "shard.npz"
    np.savez(path, count=np.array(3))
    assert _read_arrays(str(path)) == {"count": 3}
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("mean.npy", content)
    assert _read_arrays(str(path)) is None
    assert f"{path} is damaged" in capsys.readouterr().err
