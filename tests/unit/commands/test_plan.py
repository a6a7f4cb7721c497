"""The plan of a command as text: what it takes of given nodes, and what does not fit."""

import pytest
import torch

from facevae.commands.plan import describe_plan
from facevae.config import (
    AlignConfig,
    AttributesConfig,
    EditConfig,
    EvaluateConfig,
    ImportFacenetConfig,
    ModelConfig,
    QuickstartConfig,
    ShardsConfig,
    TrainConfig,
    VectorsConfig,
)
from facevae.errors import UserError
from facevae.models import build_vae
from facevae.models.checkpoint import ModelCard, save_model
from facevae.ray_cluster.nodes import Node

GIB = 2.0**30
LAPTOP = [Node(2, 0, 12 * GIB)]
GPU = Node(16, 4, 100 * GIB, "gpu", "L4")
DATA = Node(16, 0, 50 * GIB, "data")
POOLS = [Node(4, 0, 12 * GIB), DATA, GPU, *[GPU._replace(is_here=False)] * 2]


def train(workers=1, batch=128, **changes) -> TrainConfig:
    settings = {
        "drawn": {"count": 300},
        "sharding": {"image_size": 64},
        "training": {"steps": 100, "global_batch_size": batch},
        "scaling": {"workers": workers},
    }
    return TrainConfig(**(settings | changes))


def line(lines: list[str], start: str) -> str:
    (found,) = (each for each in lines if each.startswith(start))
    return found


def test_training_on_drawn_faces_is_planned_without_drawing_them():
    lines = describe_plan("train", train(), LAPTOP)
    assert lines[:2] == ["nodes: 1 here", "  1 x 2 CPUs, 12.0 GiB, no pool, here"]
    images = line(lines, "images:")
    count = int(images.split()[1])
    assert 200 < count < 270
    assert "64 pixels per side, in 3 shards" in images
    assert line(lines, "train:") == (
        "train: 1 worker of 1.75 CPUs each (gloo, 2 threads), anywhere"
    )
    assert line(lines, "readers:") == "readers: 1 per worker, of 0.25 CPUs each, anywhere"
    assert line(lines, "batch:") == "batch: 128 images per step, with 1 worker 128 on each"
    assert line(lines, "steps:").startswith(f"steps: 100, {count / 128:.4g} per epoch of {count}")


def test_pools_ranges_and_nodes_to_come_are_told():
    lines = describe_plan("train", train((3, 12)), POOLS)
    assert lines[0] == "nodes: 3 here, 2 could be added"
    assert "  2 x 16 CPUs, 4 GPUs (L4), 100.0 GiB, pool gpu, could be added" in lines
    assert line(lines, "train:") == (
        "train: 3 to 12 workers of 1 CPUs and 1 GPU each (nccl, 4 threads), "
        "on nodes with facevae-pool=gpu"
    )
    assert line(lines, "readers:") == (
        "readers: 5 per worker, of 0.25 CPUs each, on nodes with facevae-pool=data"
    )
    batches = [each for each in lines if each.startswith("batch:")]
    assert batches == [
        "batch: 128 images per step, with 3 workers 42 + 43 + 43",
        "batch: 128 images per step, with 12 workers 10 or 11 on each",
    ]


def test_training_that_needs_nodes_to_come_waits():
    nodes = [DATA, GPU._replace(is_here=False)]
    assert "waits until enough nodes are added" in line(
        describe_plan("train", train(4), nodes), "train:"
    )


@pytest.mark.parametrize(
    ("config", "nodes", "message"),
    [
        (train(64), LAPTOP, r"lower scaling\.workers"),
        (train(), [Node(2, 0, 0.5 * GIB)], r"on a node of 2 CPUs that has 0\.5 GiB: lower"),
        (train(batch=100_000), LAPTOP, r"lower training\.global_batch_size"),
        (train(batch=20_000), [DATA, GPU], r"a L4 has 24: lower training\.global_batch_size"),
        (
            train(shards=None, drawn={"count": 1}, training={"global_batch_size": 1}),
            LAPTOP,
            "train",
        ),
        (train(), [Node(0.5, 0)], "no node has a CPU"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(config, nodes, message):
    with pytest.raises(UserError, match=message):
        describe_plan("train", config, nodes)


def test_more_workers_or_smaller_batches_make_a_gpu_large_enough():
    nodes = [DATA, *[GPU] * 4]
    describe_plan("train", train(16, batch=20_000), nodes)
    describe_plan("train", train(1, batch=1_000), nodes)


def test_shards_that_are_not_there_are_an_error_on_the_cluster_and_unknown_elsewhere():
    config = train(shards="/nowhere")
    assert line(describe_plan("train", config, LAPTOP), "images:").startswith(
        "images: not known from here; 64 pixels"
    )
    with pytest.raises(UserError, match="no shards in /nowhere"):
        describe_plan("train", config, LAPTOP, is_cluster=True)


def test_sharding_takes_the_cpus_of_the_data_pool():
    config = ShardsConfig(drawn={"count": 1_200}, sharding={"images_per_shard": 50})
    lines = describe_plan("shards", config, POOLS)
    assert line(lines, "shards:").startswith(
        "shards: 16 tasks at a time, of 1 CPU each, on nodes with facevae-pool=data"
    )
    few = describe_plan("shards", ShardsConfig(drawn={"count": 30}), POOLS)
    assert line(few, "shards:").startswith("shards: 3 tasks")


def test_encoders_and_what_reads_for_them(tmp_path):
    torch.manual_seed(0)
    model = ModelConfig(latent_size=8)
    save_model(tmp_path, build_vae(model).state_dict(), ModelCard(model, 0, "s", "r"))
    config = AttributesConfig(shards="/nowhere", model=str(tmp_path))
    lines = describe_plan("attributes", config, POOLS)
    assert line(lines, "attributes:") == (
        "attributes: 4 encoders of 1 GPU each, on nodes with facevae-pool=gpu"
    )
    assert line(lines, "readers:").startswith(
        "readers: tasks of 1 CPU each, on nodes with facevae-pool=data"
    )
    assert "GiB on its GPU" in line(lines, "memory of an encoder:")
    on_cpu = describe_plan("attributes", config, LAPTOP)
    assert line(on_cpu, "attributes:") == "attributes: 2 encoders of 0.75 CPUs each, anywhere"
    with pytest.raises(UserError, match=r"lower encoding\.actors"):
        describe_plan("attributes", config, [Node(64, 0, 8 * GIB)])
    unknown = AttributesConfig(shards="/nowhere", model="models:/faces@best")
    assert "not known" in line(describe_plan("attributes", unknown, POOLS), "memory of an encoder:")


def test_an_import_takes_nothing_of_a_cluster():
    config = ImportFacenetConfig(checkpoint="model.ckpt-50000")
    (line,) = describe_plan("import-facenet", config, [])
    assert line == "import-facenet: in this process on its CPU; takes nothing of a cluster"


def test_editing_takes_nothing_and_quickstart_takes_all_in_a_row():
    edit = describe_plan("edit", EditConfig(model="m", vectors="v"), [])
    assert len(edit) == 1
    assert edit[0].startswith("edit: 16 faces at 10 strengths, in this process")
    mix = {"mix": ["Smiling=2", "Male=-1"]}
    photo = describe_plan(
        "edit", EditConfig(model="m", vectors="v", image="me.jpg", editing=mix), []
    )
    assert photo[0].startswith("edit: the photo me.jpg at 2 strengths, in this process")
    levels = EditConfig(model="m", vectors="v", editing={"level": [0, 1]})
    assert describe_plan("edit", levels, [])[0].startswith("edit: 16 faces at 2 levels")
    random = EditConfig(model="m", vectors="v", editing={"random": 9})
    assert describe_plan("edit", random, [])[0].startswith("edit: 9 random faces")
    assert describe_plan("vectors", VectorsConfig(vectors="v"), []) == [
        "vectors: from stored latents, in this process on its CPU; takes nothing of a cluster"
    ]
    settings = train().model_dump(exclude={"output"})
    lines = describe_plan("quickstart", QuickstartConfig(**settings), LAPTOP)
    for start in ("images:", "shards:", "train:", "attributes:", "edit:"):
        assert line(lines, start)


def test_detectors_are_planned_for_photographs_and_for_shards(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"never read")
    config = AlignConfig(images=str(tmp_path), parts={"images": 100})
    lines = describe_plan("align", config, LAPTOP)
    assert line(lines, "photographs:") == "photographs: 1, in 1 part of 100 at most"
    assert line(lines, "align:").startswith("align: 1 detector of 0.75 CPUs each, anywhere")
    config = AlignConfig(images="/nowhere")
    lines = describe_plan("align", config, POOLS)
    assert line(lines, "photographs:").startswith("photographs: not known from here")
    assert line(lines, "align:").startswith(
        "align: 4 detectors of 1 GPU and 3 CPUs each, on nodes with facevae-pool=gpu;"
    )
    config = ShardsConfig(drawn={"count": 2000}, sharding={"align": True})
    lines = describe_plan("shards", config, LAPTOP)
    assert line(lines, "shards:").startswith("shards: 2 detectors of 0.75 CPUs each")


def test_detectors_that_may_not_fit_are_warned_of():
    lines = describe_plan("align", AlignConfig(images="/nowhere"), [Node(2, 0, 4 * GIB)])
    assert line(lines, "warning:").startswith("warning: 2 detectors on a node of 4.0 GiB")
    lines = describe_plan("align", AlignConfig(images="/nowhere"), [Node(2, 0, 40 * GIB)])
    assert not [each for each in lines if each.startswith("warning")]


def test_an_evaluation_takes_encoders_and_says_what_is_decoded(tmp_path):
    config = EvaluateConfig(shards="s3://nowhere/shards", model="runs:/1/model", vectors="v")
    lines = describe_plan("evaluate", config, LAPTOP)
    assert line(lines, "evaluate: 2 encoders") == "evaluate: 2 encoders of 0.75 CPUs each, anywhere"
    assert "2048 held-out images are decoded at the most, and 64 edited at 6 strengths" in line(
        lines, "evaluate: 2048"
    )
