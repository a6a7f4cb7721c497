"""The split of a face where no table says it."""

from facevae.data.sources import hash_split


def test_hash_split_is_pinned_and_has_its_proportions() -> None:
    """A change of these moves faces between training and test of every user: never change them."""
    assert [hash_split(key) for key in ("000001.jpg", "000010.jpg", "2880")] == [
        "val",
        "test",
        "train",
    ]
    splits = [hash_split(str(i)) for i in range(20_000)]
    for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        deviation = (share * (1 - share) / 20_000) ** 0.5
        assert abs(splits.count(split) / 20_000 - share) < 4 * deviation
