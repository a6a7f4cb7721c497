"""Work on a cluster with pools: `pools.py FOLDER POOLS`; prints where it was done, as JSON.

The cluster is a head and a node of each of the POOLS, a list in JSON; it is made and ended here.
"""

import json
import sys
from pathlib import Path

import ray
import ray.train
import ray.train.torch
import torch
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from facevae.attributes.encode import encode_shards, plan_encoders
from facevae.config import EncodingConfig, ModelConfig, ShardsConfig
from facevae.data.batches import training_batches
from facevae.data.make_shards import make_shards
from facevae.data.order import RankRows, epoch_plan
from facevae.data.sources.synthetic.source import SyntheticSource
from facevae.models import build_vae
from facevae.models.checkpoint import LoadedModel, ModelCard
from facevae.ray_cluster.nodes import cluster_nodes, pool_labels

folder, pools = sys.argv[1], json.loads(sys.argv[2])
STORE = 80_000_000
cluster = Cluster(
    initialize_head=True,
    head_node_args={"num_cpus": 2, "include_dashboard": False, "object_store_memory": STORE},
)
for pool in pools:
    cluster.add_node(
        num_cpus=2,
        num_gpus=int(pool == "gpu"),
        labels={"facevae-pool": pool},
        object_store_memory=STORE,
    )
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
pool_of = {node["NodeID"]: str(node["Labels"].get("facevae-pool")) for node in ray.nodes()}


def places(name):
    """The pools of the nodes that actors of a name were started on."""
    actors = ray._private.state.actors().values()  # the public list needs a dashboard
    return sorted(
        {
            pool_of[actor["Address"]["NodeID"]]
            for actor in actors
            if actor["ActorClassName"] == f"MapWorker(MapBatches({name}))"
            and actor["Address"]["NodeID"] in pool_of
        }
    )


class Marked(SyntheticSource):
    """Leaves a file for each node on which tasks load faces; the driver looks at one, too."""

    def load(self, image_id):
        context = ray.get_runtime_context()
        if context.worker.mode != ray.SCRIPT_MODE:
            Path(folder, "node-" + context.get_node_id()).touch()
        return super().load(image_id)


nodes = cluster_nodes()
found = {"nodes": [[n.cpus, n.gpus, n.pool, n.is_here] for n in nodes]}
data = pool_labels(nodes, "data")

settings = ShardsConfig(
    output=folder + "/shards", sharding={"image_size": 64, "images_per_shard": 20}
)
manifest = make_shards(settings, Marked(160, 3), "run", data)
found["WriteShard"] = sorted({pool_of[p.name[5:]] for p in Path(folder).glob("node-*")})

plan = epoch_plan(manifest, "train", seed=5)
batches = training_batches(
    settings.output, plan, RankRows(0, 1, 24, 0, 96), torch.device("cpu"), 2, data
)
assert len(list(batches)) == 4
found["ReadWindow"] = places("ReadWindow")

model = ModelConfig(latent_size=4)
loaded = LoadedModel(build_vae(model).eval(), ModelCard(model, 0, "s", "r"))
encoding = EncodingConfig(gpu="no", batch_size=32, precision="fp32")
encode_shards(
    settings.output, manifest, loaded, encoding, plan_encoders(encoding, nodes), folder + "/cpu"
)
found["EncodeShard, CPU"] = places("EncodeShard")
if "gpu" in pools:
    encoding = EncodingConfig(gpu="yes", batch_size=32, precision="fp32")
    try:
        encode_shards(
            settings.output,
            manifest,
            loaded,
            encoding,
            plan_encoders(encoding, nodes),
            folder + "/gpu",
        )
    except Exception as error:  # where the logical GPU is no real one
        if "CUDA" not in str(error) and "NVIDIA" not in str(error):
            raise
    on_gpu = set(places("EncodeShard")) - set(found["EncodeShard, CPU"])
    found["EncodeShard, GPU"] = sorted(on_gpu)


def report(config):
    node = ray.get_runtime_context().get_node_id()
    Path(folder, f"worker-{ray.train.get_context().get_world_rank()}-{node}").touch()


# A range of workers and labels at once, as `train` asks for them.
ray.train.torch.TorchTrainer(
    report,
    scaling_config=ray.train.ScalingConfig(
        num_workers=(1, 2),
        resources_per_worker={"CPU": 0.75},
        label_selector=pool_labels(nodes, "gpu") or None,
    ),
    run_config=ray.train.RunConfig(name="pools", storage_path=folder),
).fit()
workers = sorted(Path(folder).glob("worker-*"))
found["workers"] = [pool_of[path.name.rpartition("-")[2]] for path in workers]

record = autoscaler_pb2.ClusterConfig()
for name, most in (("gpu-spot", 2), ("data", 1)):
    group = record.node_group_configs.add()
    group.name, group.max_count = name, most
    group.resources.update({"CPU": 2, "GPU": int(name != "data")})
ray._raylet.GcsClient(address=cluster.address).report_cluster_config(record.SerializeToString())
found["to come"] = [[n.cpus, n.gpus, n.pool] for n in cluster_nodes() if not n.is_here]
print(json.dumps(found))
ray.shutdown()
cluster.shutdown()
