"""One training step: pixels to loss terms, gradients and new weights.

Everything random is a function of (seed, step) over the *global* batch, of which each rank takes
its slice: the result does not depend on the number of workers.
Legend: G global batch size, B images of this rank, D stored image size, Z latent size, L layers.
"""

import copy
import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from facevae.config import LossConfig, TrainingConfig
from facevae.data.rank import rank_size, rank_slice
from facevae.models import VAE
from facevae.models.checkpoint import TrainingState
from facevae.models.transfer import to_device
from facevae.models.vae import Reconstruction
from facevae.perceptual.loss import perceptual_error
from facevae.perceptual.network import PerceptualNetwork
from facevae.pixels import denormalise, model_input, resize, to_float
from facevae.training.losses import kl_divergence, pixel_error, total_loss


class StepNoise(NamedTuple):
    """The random draws of one step for one rank's images."""

    noise: Float[Tensor, "B Z"]
    flip: Bool[Tensor, " B"]


def step_noise(
    seed: int, step: int, global_batch_size: int, rank: int, world_size: int, latent_size: int
) -> StepNoise:
    """This rank's slice of the draws that the whole global batch gets at a step."""
    mixed = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(mixed[0] >> np.uint64(1)))
    noise = torch.randn(global_batch_size, latent_size, generator=generator)
    flip = torch.rand(global_batch_size, generator=generator) < 0.5
    mine = rank_slice(global_batch_size, rank, world_size)
    return StepNoise(noise[mine], flip[mine])


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The learning rate of a step, counted from 1.

    Linear warm-up, then the original's staircase (`decay_factor` each `decay_steps`) or a half
    cosine to zero at the last step.
    """
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.schedule == "step":
        return config.learning_rate * config.decay_factor ** ((step - 1) // config.decay_steps)
    done = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


class LossTerms(NamedTuple):
    """The parts of the loss, one value per image; `total` is their weighted mean on this rank."""

    total: Float[Tensor, ""]
    kl: Float[Tensor, " B"]
    reconstruction: Float[Tensor, " B"]
    by_layer: Float[Tensor, "B L"]


class Criterion:
    """The loss of a reconstruction against the stored pixels that it was made from."""

    def __init__(self, config: LossConfig, network: PerceptualNetwork | None) -> None:
        """Takes the frozen network of a perceptual loss, or none for the pixel loss."""
        self._config, self._network = config, network
        features = network.layers if network else ()
        self._weights = config.layer_weights or (1.0,) * len(features)
        self.layers = features if features and not config.pixel_weight else (*features, "pixels")

    def __call__(
        self, vae: VAE, result: Reconstruction, pixels: UInt8[Tensor, "B D D 3"]
    ) -> LossTerms:
        """The loss terms of a training pass of `vae` over stored pixels."""
        images = denormalise(result.images)
        if self._network is None:
            reconstruction = self._pixel_error(vae, images, pixels)
            by_layer = reconstruction.detach()[:, None]
        else:
            reconstruction, by_layer = perceptual_error(
                self._network, images, pixels, self._weights
            )
            if self._config.pixel_weight:
                error = self._pixel_error(vae, images, pixels)
                reconstruction = reconstruction + self._config.pixel_weight * error
                by_layer = torch.cat([by_layer, error.detach()[:, None]], dim=1)
        kl = kl_divergence(result.posterior)
        total = total_loss(kl, reconstruction, self._config.alfa, self._config.beta)
        return LossTerms(total, kl, reconstruction, by_layer)

    @staticmethod
    def _pixel_error(
        vae: VAE, images: Float[Tensor, "B 3 S S"], pixels: UInt8[Tensor, "B D D 3"]
    ) -> Float[Tensor, " B"]:
        return pixel_error(images, resize(to_float(pixels), vae.image_size, vae.resize_method))

    def weigh(self, kl: float, reconstruction: float) -> float:
        """The total of mean terms."""
        means = torch.tensor([kl]), torch.tensor([reconstruction])
        return float(total_loss(*means, self._config.alfa, self._config.beta))


class Rank(NamedTuple):
    """Which of the data-parallel workers this is."""

    rank: int = 0
    world_size: int = 1


ALONE = Rank()


class Trainer:
    """A VAE in training: weights, optimiser and moving average; calling it takes one step."""

    def __init__(
        self,
        vae: VAE,
        criterion: Criterion,
        config: TrainingConfig,
        device: torch.device,
        rank: Rank = ALONE,
        parallel: nn.Module | None = None,
    ) -> None:
        """Takes a VAE on its device, and the same wrapped for data parallelism, if it is."""
        self.vae, self.criterion, self.rank, self.device = vae, criterion, rank, device
        self.config = config
        self._parallel = parallel or vae
        self.optimizer = torch.optim.Adam(vae.parameters(), config.learning_rate, fused=True)
        self.average = copy.deepcopy(vae).requires_grad_(False) if config.ema_decay else None

    @property
    def batch_size(self) -> int:
        """B, this rank's images of each global batch."""
        return rank_size(self.config.global_batch_size, *self.rank)

    @property
    def weight(self) -> float:
        """The factor of this rank's loss that makes DDP's mean over ranks one over all images."""
        return self.batch_size * self.rank.world_size / self.config.global_batch_size

    @property
    def model(self) -> VAE:
        """The VAE to validate and to keep: the moving average, where there is one."""
        return self.vae if self.average is None else self.average

    def state(
        self, step: int, history: list[dict[str, float | int]], sums: list[list[float]]
    ) -> TrainingState:
        """All that a checkpoint of a step holds."""
        average = self.average.state_dict() if self.average else None
        return TrainingState(
            step, self.vae.state_dict(), average, self.optimizer.state_dict(), history, sums
        )

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Take the weights and batch-norm statistics of a model; the optimiser is as it was.

        A moving average begins with the weights after the first step anyway.
        """
        self.vae.load_state_dict(weights)

    def restore(self, state: TrainingState) -> None:
        """Go back to a checkpoint's state."""
        self.vae.load_state_dict(state.weights)
        self.optimizer.load_state_dict(state.optimizer)
        if self.average is not None and state.average is not None:
            self.average.load_state_dict(state.average)

    def autocast(self) -> torch.autocast:
        """The arithmetic of a step: bf16 for convolutions and matrix products, if configured."""
        enabled = self.config.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def loss(self, stored: UInt8[Tensor, "B D D 3"], step: int) -> LossTerms:
        """The loss terms of this rank's images at a step, differentiable."""
        config = self.config
        draws = step_noise(
            config.seed, step, config.global_batch_size, *self.rank, self.vae.latent_size
        )
        if config.horizontal_flip:
            flip = to_device(draws.flip, self.device)[:, None, None, None]
            stored = torch.where(flip, stored.flip(2), stored)
        images = model_input(stored, self.vae.image_size, self.vae.resize_method)
        noise = to_device(draws.noise, self.device)
        with self.autocast():
            result = Reconstruction(*self._parallel(images, noise))
            return self.criterion(self.vae, result, stored)

    def __call__(self, stored: UInt8[Tensor, "B D D 3"], step: int) -> LossTerms:
        """Take step number `step`, counted from 1, and return its loss terms."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step)
        terms = self.loss(stored, step)
        self.optimizer.zero_grad(set_to_none=True)
        (terms.total * self.weight).backward()
        if self.config.gradient_clip_norm is not None:
            nn.utils.clip_grad_norm_(self.vae.parameters(), self.config.gradient_clip_norm)
        self.optimizer.step()
        if self.average is not None:
            update_ema(self.average, self.vae, self.config.ema_decay if step > 1 else None)
        return LossTerms(*(term.detach() for term in terms))


@torch.no_grad()
def update_ema(average: VAE, vae: VAE, decay: float | None) -> None:
    """Move an average towards the weights and statistics of a model; without decay it takes them.

    Not torch's `AveragedModel`: it asks the device at every step whether it is the first, and waits
    for the answer.
    """
    if decay is None:
        average.load_state_dict(vae.state_dict())
        return
    averages, values = average.state_dict(), vae.state_dict()
    moving = [name for name, value in values.items() if value.is_floating_point()]
    torch._foreach_lerp_(
        [averages[name] for name in moving], [values[name] for name in moving], 1 - decay
    )
    for name in values.keys() - set(moving):  # the count of batches
        averages[name].copy_(values[name])
