"""How many encoders there are, where they run, and what they take of an earlier pass."""

import zipfile

import numpy as np
import pytest

from facevae.attributes import encode
from facevae.attributes.encode import plan_encoders
from facevae.attributes.latents import write_latents
from facevae.attributes.statistics import AttributeStatistics
from facevae.attributes.vectors import LatentBatch
from facevae.config import EncodingConfig
from facevae.data.shard_files import Shard
from facevae.errors import UserError
from facevae.ray_cluster.nodes import POOL_LABEL, Node

GPU, DATA, HEAD = Node(8, 2, pool="gpu"), Node(16, 0, pool="data"), Node(4, 0)
GPU_LABEL, DATA_LABEL = {POOL_LABEL: "gpu"}, {POOL_LABEL: "data"}


def later(node: Node) -> Node:
    return node._replace(is_here=False)


def test_gpu_encoders_go_to_the_gpu_pool_and_readers_to_the_data_pool():
    plan = plan_encoders(EncodingConfig(), [HEAD, GPU, DATA])
    assert (plan.actors, plan.use_gpu) == (2, True)
    assert (plan.labels, plan.reader_labels) == (GPU_LABEL, DATA_LABEL)
    plan = plan_encoders(EncodingConfig(), [HEAD, Node(8, 2)])
    assert (plan.labels, plan.reader_labels) == ({}, {})


def test_cpu_encoders_decode_and_go_to_the_data_pool():
    plan = plan_encoders(EncodingConfig(gpu="no"), [HEAD, GPU, DATA])
    assert (plan.actors, plan.cpus, plan.labels) == (16, 0.75, DATA_LABEL)
    plan = plan_encoders(EncodingConfig(), [HEAD])
    assert (plan.actors, plan.cpus, plan.labels) == (4, 0.75, {})


def test_nodes_to_come_are_taken_where_they_are_asked_for():
    assert plan_encoders(EncodingConfig(), [HEAD, GPU, later(GPU), DATA]).actors == 2
    assert plan_encoders(EncodingConfig(), [HEAD, later(GPU), DATA]).actors == 1
    assert plan_encoders(EncodingConfig(actors=4), [HEAD, GPU, later(GPU), DATA]).actors == 4
    plan = plan_encoders(EncodingConfig(gpu="no"), [HEAD, later(DATA)])
    assert (plan.actors, plan.cpus) == (1, 1.0)


@pytest.mark.parametrize(
    ("config", "nodes", "message"),
    [
        (EncodingConfig(actors=3), [GPU, DATA], "the cluster has 2"),
        (EncodingConfig(gpu="yes"), [HEAD], "the cluster has 0"),
        (EncodingConfig(gpu="yes"), [Node(16, 2), GPU._replace(gpus=0), DATA], "has 0"),
        (EncodingConfig(), [GPU, Node(0.5, 0, pool="data")], "no node has a CPU"),
        (EncodingConfig(gpu="no", actors=5000), [HEAD], r"lower encoding\.actors"),
    ],
)
def test_what_does_not_fit_is_refused(config, nodes, message):
    with pytest.raises(UserError, match=message):
        plan_encoders(config, nodes)


@pytest.mark.parametrize("content", [b"no array", b""])
def test_a_member_that_is_no_array_makes_the_statistics_damaged(tmp_path, capsys, content):
    output, shard = str(tmp_path), Shard("train-00000", "train", 1, 0, "digest")
    latents, labels = np.ones((1, 2), np.float32), np.ones((1, 3), np.int8)
    write_latents(output, shard.name, LatentBatch(["a.jpg"], ["train"], latents, labels))
    statistics = AttributeStatistics.of_batch(latents, latents, labels)
    encode._write_statistics(output, shard.name, "digest", statistics)
    assert encode._finished(output, shard).by_split["train"].count == 1
    path = encode.statistics_uri(output, shard.name)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("more.npy", content)
    assert encode._finished(output, shard) is None
    assert f"{path} is damaged" in capsys.readouterr().err
