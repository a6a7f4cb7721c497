"""Whether what is fast computes what is plain: the same losses, gradients and vectors.

Each public function is run in a process of its own, and returns one number.
"""

from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from facevae.attributes.hdf5 import read_vectors
from facevae.benchmark.plain import PlainLoss
from facevae.benchmark.step_rate import Steps, batches_of, device, resident_batch
from facevae.data import shard_files
from facevae.data.images import decode_jpegs
from facevae.models import VAE
from facevae.models.checkpoint import load_model
from facevae.pixels import model_input
from facevae.training.build import build_trainer
from facevae.training.step import Trainer, step_noise

PLAIN_BATCH = 64


def loss_difference(steps: Steps) -> float:
    """The relative difference of our first loss from the plain one: same weights, same noise."""
    ours, plain, *_ = _first_step(steps)
    return float((ours - plain).abs() / plain)


def gradient_difference(steps: Steps) -> float:
    """The same of the gradient, by its norm over all weights."""
    ours, plain, trainer, plain_loss = _first_step(steps)
    mine, theirs = _gradient(ours, trainer.vae), _gradient(plain, plain_loss.vae)
    return float((mine - theirs).norm() / theirs.norm())


def last_loss(steps: Steps) -> float:
    """The mean loss of the last quarter of a training, with the weights and noise of its seed."""
    torch.set_num_threads(steps.threads)
    trainer = build_trainer(steps.config, device())
    batches = islice(batches_of(steps), steps.number)
    losses = [
        float(trainer(torch.from_numpy(batch).to(device()), number).total)
        for number, batch in enumerate(batches, 1)
    ]
    return float(np.mean(losses[-max(1, steps.number // 4) :]))


class Vectors(NamedTuple):
    """An attribute pass that is done: its file, the shards it read, and its model's folder."""

    file: str
    shards: str
    model: str


@torch.inference_mode()
def vector_difference(done: Vectors) -> float:
    """The largest relative difference of an attribute's vector from the plain one, by norm.

    Plain: no batch norm merged, NCHW, and the means of all latents at once.
    """
    vae = load_model(Path(done.model)).vae
    latents, labels = [], []
    for shard in shard_files.read_manifest(done.shards).of_split("train"):
        rows = shard_files.read_shard(done.shards, shard.name)
        for pixels in torch.from_numpy(decode_jpegs(rows.images)).split(PLAIN_BATCH):
            images = model_input(pixels, vae.image_size, vae.resize_method).contiguous()
            latents.append(vae.encode(images).mean.double().numpy())
        labels.append(rows.attributes)
    all_latents, all_labels = np.concatenate(latents), np.concatenate(labels)
    found = read_vectors(done.file)
    differences = []
    for index in np.flatnonzero(found.valid):
        label = all_labels[:, index]
        plain = all_latents[label > 0].mean(axis=0) - all_latents[label < 0].mean(axis=0)
        error = np.linalg.norm(found.vectors[index] - plain) / np.linalg.norm(plain)
        differences.append(float(error))
    return max(differences)


def _first_step(steps: Steps) -> tuple[Tensor, Tensor, Trainer, PlainLoss]:
    """Our loss of one batch and the plain one, differentiable, and what computed them."""
    torch.set_num_threads(steps.threads)
    torch.backends.cudnn.allow_tf32 = False  # else fp32 convolutions of a GPU have 10 bits
    trainer, plain = build_trainer(steps.config, device()), PlainLoss(steps.config).to(device())
    stored, training = resident_batch(steps), steps.config.training
    draws = step_noise(
        training.seed, 1, training.global_batch_size, *trainer.rank, trainer.vae.latent_size
    )
    theirs = plain(stored, draws.noise.to(device()))
    return trainer.loss(stored, 1).total, theirs, trainer, plain


def _gradient(loss: Tensor, vae: VAE) -> Tensor:
    weights = [weight for weight in vae.parameters() if weight.requires_grad]
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, weights)])
