"""Ranks that take three steps, and others that take the last of them again.

    resumed_ranks.py FOLDER RANKS

Prints the digest of the weights and batch-norm statistics of each. Ranks are forked before torch
does anything, so that it is imported once.
"""

import hashlib
import multiprocessing
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from facevae.config import TrainConfig
from facevae.data.rank import rank_slice
from facevae.models.checkpoint import TrainingState
from facevae.training.build import DATA_PARALLEL, build_trainer
from facevae.training.step import Rank

folder, ranks = sys.argv[1], int(sys.argv[2])
config = TrainConfig(
    shards="unused",
    output="unused",
    loss={"reconstruction": "pixel"},
    training={"global_batch_size": 2 * ranks, "precision": "fp32"},
)


def steps(rank, first, last):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/{first}", rank=rank, world_size=ranks)
    trainer = build_trainer(
        config,
        torch.device("cpu"),
        Rank(rank, ranks),
        lambda vae: DistributedDataParallel(vae, **DATA_PARALLEL),
    )
    if first > 1:
        weights, optimizer = torch.load(f"{folder}/state.pt", weights_only=True)
        trainer.restore(TrainingState(first - 1, weights, None, optimizer, [], []))
    for step in range(first, last + 1):
        generator = torch.Generator().manual_seed(step)
        size = (2 * ranks, 64, 64, 3)
        stored = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        trainer(stored[rank_slice(len(stored), rank, ranks)], step)
        if rank == 0 and step < last:
            states = trainer.vae.state_dict(), trainer.optimizer.state_dict()
            torch.save(states, f"{folder}/state.pt")
    if rank == 0:
        weights = b"".join(v.numpy().tobytes() for v in trainer.vae.state_dict().values())
        print(hashlib.sha256(weights).hexdigest(), flush=True)
    dist.destroy_process_group()


for first in (1, 3):  # the first leaves its state before the last step, which the second takes
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=steps, args=(rank, first, 3)) for rank in range(ranks)]
    for each in processes:
        each.start()
    for each in processes:
        each.join()
        assert each.exitcode == 0
