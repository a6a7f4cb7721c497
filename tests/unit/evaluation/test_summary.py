"""Records of shards, read one at a time, give what all images together give."""

from functools import partial

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from facevae.config import EvaluationConfig
from facevae.data.shard_files import Manifest, Shard
from facevae.errors import UserError
from facevae.evaluation import summary
from facevae.evaluation.frechet import FeatureMoments, frechet_distance
from facevae.evaluation.latent_space import LatentMoments
from facevae.evaluation.records import EDITS, MEASURES, write_record
from facevae.evaluation.sampling import Sample, choose_sample

SHARDS = {"train-00000": 900, "train-00001": 900, "val-00000": 300, "val-00001": 100,
          "test-00000": 400}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[str, Sample, dict[str, dict[str, np.ndarray]]]:
    """A folder of records, what they are of, and the records by shard.

    Features tell the first attribute well, and the second one not at all.
    """
    output, random = str(tmp_path_factory.mktemp("output")), np.random.default_rng(0)
    shards = tuple(Shard(n, n.partition("-")[0], rows, 1, n) for n, rows in SHARDS.items())
    manifest = Manifest(("a", "b"), 64, shards, {}, {}, {}, False)
    sample = choose_sample(manifest, EvaluationConfig(decoded=500, edited=9), True)
    records = {}
    for shard in shards:
        labels = random.choice(np.array([-1, 1], np.int8), (shard.rows, 2))
        features = random.normal(size=(shard.rows, 6)) + 2 * (labels[:, :1] > 0)
        record = {"labels": labels, "features": features.astype(np.float32)}
        if shard.split != "train":
            rows = sample.rows[shard.name].rows
            scores = random.normal(size=labels.shape) + (labels > 0)
            means, variances = random.normal(size=(2, shard.rows, 3)) ** 2 + 0.1
            moments = LatentMoments.of(means, variances)
            figures = ("psnr", "ssim", "perceptual", "identity")
            record = {
                "labels": labels, "features": record["features"][rows], "decoded": rows,
                "image_id": np.array([f"{shard.name}/{i}" for i in range(shard.rows)]),
                "scores": scores.astype(np.float32), "kl": random.random(shard.rows),
                "samples": random.normal(size=(len(rows) // 2, 6)).astype(np.float32) * 2,
                "means": means, "variances": variances,
                **{name: random.random(len(rows)).astype(np.float32) for name in figures},
                **{f"latents_{k}": np.asarray(v) for k, v in moments._asdict().items()},
            }  # fmt: skip
        write_record(output, MEASURES, shard, record)
        records[shard.name] = record
    return output, sample, {n: r for n, r in records.items() if not n.startswith("train")}


def joined(records, name: str) -> np.ndarray:
    return np.concatenate([record[name] for record in records.values()])


def test_images_and_their_means(world):
    output, sample, records = world
    parts = list(summary.held_out_images(output, sample, str.upper, knows_people=True))
    assert [part.split[0] for part in parts] == ["val", "val", "test"]
    assert parts[1].identity[3] == "VAL-00001/3"
    means = summary.mean_figures(iter(parts))
    assert means["psnr"] == pytest.approx(joined(records, "psnr").mean())
    assert means["kl"] == pytest.approx(joined(records, "kl").mean(), rel=1e-6)
    assert means["identity_kept"] == pytest.approx(joined(records, "identity").mean(), rel=1e-6)
    psnr = parts[0].figures["psnr"]
    np.testing.assert_array_equal(np.flatnonzero(~np.isnan(psnr)), records["val-00000"]["decoded"])
    strangers = summary.held_out_images(output, sample, str, knows_people=False)
    assert np.isnan(summary.mean_figures(strangers)["identity_kept"])


def test_scores(world):
    output, sample, records = world
    found = summary.classify(partial(summary.held_out_images, output, sample, str, False))
    scores, labels = joined(records, "scores"), joined(records, "labels")
    for k in range(2):
        expected = roc_auc_score(labels[:, k], scores[:, k])
        assert found.auc[k] == pytest.approx(expected, abs=1e-3)
    test = records["test-00000"]["labels"]
    most = np.concatenate([records[n]["labels"] for n in ("val-00000", "val-00001")]).sum(0) >= 0
    np.testing.assert_allclose(found.accuracy.majority, (test == np.where(most, 1, -1)).mean(0))


def test_latents_and_pictures(world):
    output, sample, records = world
    expected = LatentMoments.of(joined(records, "means"), joined(records, "variances"))
    for one, other in zip(summary.latent_moments(output, sample), expected, strict=True):
        np.testing.assert_allclose(one, other)
    half = np.concatenate([sample.rows[name].is_reference for name in records])
    features = joined(records, "features")
    reference, other, samples = map(
        FeatureMoments.of, (features[half], features[~half], joined(records, "samples"))
    )
    found = summary.picture_distances(output, sample)
    assert found.frechet == pytest.approx(frechet_distance(samples, reference))
    assert found.floor == pytest.approx(frechet_distance(other, reference))
    assert found.floor < 0.5 < 2 < found.frechet


def test_a_judge_and_what_it_cannot_see(world):
    output, sample, records = world
    judge = summary.learn_judge(output, sample, min_count=25)
    logits = judge.probes.logits(joined(records, "features"))
    labels = np.concatenate([r["labels"][r["decoded"]] for r in records.values()])
    for k in range(2):
        expected = roc_auc_score(labels[:, k], logits[:, k])
        assert judge.auc[k] == pytest.approx(expected, abs=1e-3)
    assert judge.visible() == [0]
    assert judge.gaps[0] > 3


def test_edits_of_another_judge_are_refused(world):
    output, sample, _ = world
    judge = summary.learn_judge(output, sample, min_count=25)
    for shard in sample.edited:
        faces = int(sample.rows[shard.name].is_edited.sum())
        before = np.full((faces, 2), -1, np.float32)
        target = np.tile(np.array([-0.5, 1], np.float32), (faces, 1, 1))
        after, kept = np.ones((faces, 1, 2), np.float32), np.ones((faces, 1), np.float32)
        record = {"targets": np.array([0]), "before": before, "target": target, "after": after}
        write_record(output, EDITS, shard, {**record, "identity": kept})
    found = summary.edit_measures(output, sample, judge, [0], (0.5, 1.0))
    assert found.success == [1]
    assert found.flip_strength == pytest.approx([0.5 + 0.5 / 3])
    with pytest.raises(UserError, match="has edits of other attributes"):
        summary.edit_measures(output, sample, judge, [1], (0.5, 1.0))
