"""A trainer from its configuration."""

from collections.abc import Callable

import torch
from torch import nn

from facevae.config import TrainConfig
from facevae.models import VAE, build_vae
from facevae.models.sync_batch_norm import synchronised
from facevae.perceptual.network import PerceptualNetwork, build_perceptual_network
from facevae.training.step import ALONE, Criterion, Rank, Trainer

# Gradients are added up in buckets, in an order that depends on a gradient's place in its bucket.
# DDP makes new buckets after its first step, so that a step after a resume would differ in its last
# bits from the same step of a run that went on; while it looks for unused parameters it does not.
# Buffers need no broadcast before each step: no training pass reads batch-norm statistics, and rank
# 0, whose are kept, takes over no other's.
DATA_PARALLEL = {
    "gradient_as_bucket_view": True,
    "find_unused_parameters": True,
    "broadcast_buffers": False,
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build_trainer(
    config: TrainConfig,
    device: torch.device,
    rank: Rank = ALONE,
    parallel: Callable[[VAE], nn.Module] | None = None,
) -> Trainer:
    """A VAE with weights from the seed, on a device, with all that training it needs.

    Args:
        config: which VAE, which loss, how it is trained, in a precision that is chosen: not auto.
        device: where.
        rank: which of the workers this is.
        parallel: what wraps the VAE for data parallelism.

    Raises:
        UserError: the face network's weights cannot be had.
    """
    assert config.training.precision != "auto", "it is chosen once for all workers"
    torch.manual_seed(config.training.seed)
    vae = build_vae(config.model)
    if config.training.sync_batch_norm:
        vae = synchronised(vae, device)
    vae = vae.to(device).to(memory_format=torch.channels_last)
    criterion = Criterion(config.loss, _network(config, vae, device))
    wrapped = None if parallel is None else parallel(vae)
    return Trainer(vae, criterion, config.training, device, rank, wrapped)


def _network(config: TrainConfig, vae: VAE, device: torch.device) -> PerceptualNetwork | None:
    if config.loss.reconstruction == "pixel":
        return None
    network = build_perceptual_network(config.loss, resize_method=vae.resize_method)
    # Cast once: autocast would do so in every pass, for it keeps only weights that are trained.
    return network.to(device, DTYPES[config.training.precision])
