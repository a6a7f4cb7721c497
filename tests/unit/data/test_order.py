"""The epoch plan: each image once an epoch, the same batches on any number of ranks."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from facevae.data.images import decode_jpegs, encode_jpeg
from facevae.data.order import EpochPlan, RankRows, ReadWindow, RowGroup, epoch_plan, spread_images
from facevae.data.shard_files import Manifest, ShardRows, read_images, write_shard


def plan(seed: int = 3) -> EpochPlan:
    sizes = [256, 256, 91, 256, 17, 256, 256, 256, 256, 256, 40, 256, 5]
    firsts = np.cumsum([0, *sizes])
    groups = (RowGroup(f"s{i}", 0, int(firsts[i]), size) for i, size in enumerate(sizes))
    return EpochPlan(tuple(groups), seed)


def sequence(order: EpochPlan, share: RankRows) -> np.ndarray:
    """The image rows that a share gets, in order."""
    parts = []
    for span in order.spans(share.start, share.stop):
        window = order.window(span.epoch, span.number)
        rows = np.concatenate([np.arange(g.first_row, g.first_row + g.rows) for g in window.groups])
        parts.append(rows[window.order][share.positions(span)])
    return np.concatenate(parts)


def test_every_image_comes_once_an_epoch():
    order = plan()
    rows = sequence(order, RankRows(0, 1, 64, 0, 3 * order.rows))
    for epoch in range(3):
        part = rows[epoch * order.rows : (epoch + 1) * order.rows]
        np.testing.assert_array_equal(np.sort(part), np.arange(order.rows))
    assert not np.array_equal(rows[: order.rows], rows[order.rows : 2 * order.rows])


def joined(order: EpochPlan, ranks: int, batch: int, start: int, stop: int) -> np.ndarray:
    """The global batches that the shares of all ranks make up, one a row."""
    shares = [RankRows(rank, ranks, batch, start, stop) for rank in range(ranks)]
    parts = [sequence(order, share).reshape(-1, share.batch_size) for share in shares]
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize(("ranks", "batch"), [(2, 48), (4, 48), (2, 49), (3, 49), (5, 49), (3, 3)])
def test_ranks_share_each_global_batch(ranks, batch):
    order = plan()
    stop = 2 * order.rows // batch * batch
    whole = sequence(order, RankRows(0, 1, batch, 0, stop)).reshape(-1, batch)
    np.testing.assert_array_equal(joined(order, ranks, batch, 0, stop), whole)


def test_the_number_of_ranks_may_change_on_the_way():
    order, batch, stop = plan(), 49, 60 * 49
    whole = joined(order, 1, batch, 0, stop)
    cursors = [0, 7 * batch, 31 * batch, stop]
    parts = [
        joined(order, ranks, batch, *span)
        for ranks, span in zip((1, 2, 3), pairwise(cursors), strict=True)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_the_order_of_groups_and_the_order_of_rows_are_drawn_apart(monkeypatch):
    """Eight groups make one window; were the draws one stream, eight rows would follow them."""
    order = EpochPlan(tuple(RowGroup(f"s{i}", 0, i, 1) for i in range(8)), seed=3)
    for epoch in range(4):
        (groups,) = order.windows(epoch)
        names = [int(group.shard[1:]) for group in groups]
        assert names != order.window(epoch, 0).order.tolist()


@pytest.mark.parametrize("done", [0, 1, 37, 70])
def test_a_cursor_gives_the_rest(done):
    order, batch = plan(), 48
    stop = 80 * batch
    whole = sequence(order, RankRows(0, 1, batch, 0, stop))
    rest = sequence(order, RankRows(0, 1, batch, done * batch, stop))
    np.testing.assert_array_equal(rest, whole[done * batch :])


def test_the_order_is_a_function_of_the_seed():
    share = RankRows(0, 1, 48, 0, 960)
    np.testing.assert_array_equal(sequence(plan(), share), sequence(plan(), share))
    assert not np.array_equal(sequence(plan(), share), sequence(plan(4), share))


@pytest.fixture
def folder(tmp_path) -> tuple[str, Manifest]:
    """Two shards of 300 and 40 images of 16 pixels."""
    rng = np.random.default_rng(0)
    shards = []
    for name, count in (("train-00000", 300), ("train-00001", 40)):
        pictures = rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
        jpegs = [encode_jpeg(Image.fromarray(picture)) for picture in pictures]
        labels = np.ones((count, 2), np.int8)
        rows = ShardRows([f"{name}/{i}" for i in range(count)], jpegs, labels)
        shards.append(write_shard(str(tmp_path), name, "train", rows, 16))
    manifest = Manifest(("a", "b"), 16, tuple(shards), {}, {}, {}, missing_labels=False)
    return str(tmp_path), manifest


def test_windows_hold_the_pixels_of_their_rows(folder, monkeypatch):
    monkeypatch.setattr(
        "facevae.data.order.GROUPS_PER_WINDOW", 2
    )  # three row groups: two windows an epoch
    uri, manifest = folder
    order = epoch_plan(manifest, "train", seed=1)
    assert order.rows == 340
    share = RankRows(1, 2, 20, 40, 800)  # two epochs and a bit, N no multiple of 2 x 20
    read = ReadWindow(uri, order, share)
    stored = [i for shard in manifest.shards for i in read_images(uri, shard.name)]
    got = [
        read({key: np.array([value]) for key, value in span._asdict().items()})
        for span in order.spans(share.start, share.stop)
    ]
    assert len(got) > 4
    for window in got:
        pixels = decode_jpegs([stored[i] for i in window["row"]])
        np.testing.assert_array_equal(window["pixels"], pixels)
    rows = np.concatenate([window["row"] for window in got])
    np.testing.assert_array_equal(rows, sequence(order, share))
    assert len(rows) == (800 - 40) // 2


def test_spread_images_are_the_same_every_time_and_cover_the_split(folder):
    uri, manifest = folder
    stored = [i for shard in manifest.shards for i in read_images(uri, shard.name)]
    for count, rows in ((1, [0]), (4, [0, 113, 226, 339]), (1000, range(340))):
        expected = decode_jpegs([stored[i] for i in rows])
        np.testing.assert_array_equal(spread_images(uri, manifest, "train", count), expected)


def test_an_epoch_takes_few_tasks():
    """At most one for each 2,048 images, and one more: counts that no clock disturbs."""
    groups = tuple(RowGroup(f"s{i}", 0, 256 * i, 256) for i in range(800))
    order = EpochPlan(groups, 0)
    assert len(list(order.spans(0, order.rows))) == order.rows / 2048
    assert len(list(order.spans(100, order.rows // 2))) <= order.rows / 4096 + 1
