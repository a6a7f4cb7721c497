"""Synthetic faces as a source: what is listed is what is painted, and a pickle is small."""

import pickle

import numpy as np

from facevae.data.sources import hash_split
from facevae.data.sources.synthetic import ATTRIBUTE_NAMES, synthetic_face
from facevae.data.sources.synthetic.source import SyntheticSource


def test_a_pickle_holds_settings_only() -> None:
    source = SyntheticSource(count=1000, seed=3)
    assert source.faces.image_ids
    sent = pickle.dumps(source)
    assert len(sent) < 200
    received = pickle.loads(sent)  # noqa: S301 - our own bytes
    assert received == source
    assert received.faces.splits == source.faces.splits


def test_its_description_is_that_of_older_folders() -> None:
    assert SyntheticSource(5, 1).describe() == {"kind": "drawn", "count": 5, "seed": 1}


def test_labels_are_those_of_the_pictures() -> None:
    source = SyntheticSource(count=12, seed=7)
    faces = source.faces
    assert source.attribute_names == ATTRIBUTE_NAMES
    assert faces.image_ids[0] == "000001.jpg"
    assert faces.splits == [hash_split(image_id) for image_id in faces.image_ids]
    assert source.unlisted == []
    for index, image_id in enumerate(faces.image_ids[:3]):
        image, labels = synthetic_face(7, index)
        np.testing.assert_array_equal(faces.attributes[index], labels)
        assert source.load(image_id).tobytes() == image.tobytes()
    longer = SyntheticSource(count=20, seed=7).faces
    np.testing.assert_array_equal(longer.attributes[:12], faces.attributes)
