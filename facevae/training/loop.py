"""The training loop, free of Ray and MLflow: it is given its batches and its callbacks.

It runs alike under Ray Train, under torchrun, alone on a GPU and in a unit test. Every rank runs
it; what they report is reduced over all of them, so they always decide alike.
Legend: B images of this rank, D stored image size.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import UInt8
from torch import Tensor

from facevae.errors import UserError
from facevae.models import VAE
from facevae.models.transfer import to_device
from facevae.models.vae import Reconstruction
from facevae.pixels import model_input, resize, to_float, to_pixels
from facevae.training.losses import kl_divergence
from facevae.training.step import LossTerms, Trainer, learning_rate

Metrics = dict[str, float]
LOSS, WORKERS = "train/loss", "train/workers"
MAX_PIXEL = 255.0
FAR = 1000.0
"""times the first step's loss: a mean loss above that is worth a warning"""
REMEDY = (
    "train into another --output with a lower training.learning_rate, or with "
    "training.gradient_clip_norm"
)
"""against a loss without bounds; another output, since a folder keeps the settings it began with"""


class TrainingCallbacks(Protocol):
    """What the loop calls, on rank 0 only."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Remember the metrics of a step."""

    def warn(self, line: str) -> None:
        """Tell the user something that does not stop the training."""

    def show(self, step: int, originals: np.ndarray, reconstructions: np.ndarray) -> None:
        """Remember what faces look like, uint8 [n,S,S,3] each."""

    def save(self, step: int, sums: list[list[float]]) -> None:
        """Keep a checkpoint of the trainer after a step, with what `train` takes as its sums."""

    def wants_checkpoint(self) -> bool:
        """Whether a checkpoint is wanted out of turn, now; asked after every step."""


def train(
    trainer: Trainer,
    batches: Iterator[UInt8[Tensor, "B D D 3"]],
    held_out: UInt8[np.ndarray, "n D D 3"],
    first_step: int,
    callbacks: TrainingCallbacks,
    sums: Sequence[Sequence[float]] = (),
) -> None:
    """Train from `first_step` (counted from 1) to the last step of the configuration.

    Args:
        trainer: what is trained.
        batches: this rank's stored pixels, one batch a step.
        held_out: validation images, the same on every rank; the first of them fill the grids.
        first_step: the step that the first batch belongs to.
        callbacks: what is called, on rank 0.
        sums: each rank's sums of loss terms since the last logged step, from a checkpoint.

    Raises:
        UserError: a loss term is not finite; on every rank alike.
    """
    config = trainer.config
    meter = _Meter(trainer, sums)
    for step in range(first_step, config.steps + 1):
        with meter.waiting():
            batch = next(batches)
        meter.add(step, trainer(batch, step))

        def due(every: int, step: int = step) -> bool:
            return step % every == 0 or step == config.steps

        if due(config.log_every):
            metrics = meter.metrics(step)
            _log(callbacks, trainer, step, metrics)
            if trainer.rank.rank == 0 and (first := meter.take_far_loss(metrics)):
                callbacks.warn(
                    f"warning: the loss is {metrics[LOSS]:.3g} at step {step}, far above the "
                    f"{first:.3g} of the first: if it stays there, {REMEDY}"
                )
        if due(config.validate_every):
            with meter.paused():
                _log(callbacks, trainer, step, validate(trainer, held_out))
        if due(config.grid_every) and trainer.rank.rank == 0:
            with meter.paused():
                callbacks.show(step, *reconstruct(trainer, held_out[: config.grid_faces]))
        if due(config.checkpoint_every):
            with meter.paused():
                meter.check_finite()
                _save(callbacks, trainer, step, meter.of_all_ranks())
        elif trainer.rank.rank == 0 and callbacks.wants_checkpoint():
            # All ranks hold the same, so the others need not know, and nothing waits for them; only
            # the next logged mean lacks their part of the steps before.
            with meter.paused():
                _save(callbacks, trainer, step, [meter.of_this_rank()])


def _save(
    callbacks: TrainingCallbacks, trainer: Trainer, step: int, sums: list[list[float]]
) -> None:
    _check_weights(trainer, step)
    if trainer.rank.rank == 0:
        callbacks.save(step, sums)


def _log(callbacks: TrainingCallbacks, trainer: Trainer, step: int, metrics: Metrics) -> None:
    if trainer.rank.rank == 0:
        callbacks.log(step, metrics)


def _check_weights(trainer: Trainer, step: int) -> None:
    """The last update may break what the loss before it could not show; ranks hold the same."""
    for name, weights in trainer.vae.named_parameters():
        if not torch.isfinite(weights).all():
            raise UserError(
                f"the weights '{name}' are not finite after step {step}: nothing was saved; "
                f"{REMEDY}"
            )


@torch.no_grad()
def validate(trainer: Trainer, held_out: UInt8[np.ndarray, "n D D 3"]) -> Metrics:
    """Mean loss terms and signal-to-noise ratio over held-out images, from the posterior mean.

    Each rank takes every R-th image. PSNR is that of the mean squared pixel error, in dB.
    """
    model, criterion = trainer.model.eval(), trainer.criterion
    _share_buffers(model)
    rank, world_size = trainer.rank
    stride = world_size * trainer.batch_size
    sums = torch.zeros(4 + len(criterion.layers), dtype=torch.float64, device=trainer.device)
    for start in range(rank, len(held_out), stride):
        share = torch.from_numpy(held_out[start : start + stride : world_size])
        stored = to_device(share, trainer.device)
        images = model_input(stored, model.image_size, model.resize_method)
        with trainer.autocast():
            posterior = model.encode(images)
            result = Reconstruction(model.decode(posterior.mean), posterior)
            terms = criterion(model, result, stored)
        target = resize(to_float(stored), model.image_size, model.resize_method)
        decoded = to_pixels(result.images).permute(0, 3, 1, 2)
        squared = (decoded.float() - target).square().mean(dim=(1, 2, 3))
        kl = kl_divergence(posterior)
        rows = torch.stack([kl, terms.reconstruction, squared, torch.ones_like(kl)], dim=1)
        sums += torch.cat([rows, terms.by_layer], dim=1).double().sum(dim=0)
    trainer.vae.train()
    sums = _summed(sums)
    kl_mean, reconstruction, squared_mean, _, *layers = (sums / sums[3]).tolist()
    return {
        "validation/loss": trainer.criterion.weigh(kl_mean, reconstruction),
        "validation/kl": kl_mean,
        "validation/reconstruction": reconstruction,
        "validation/psnr": 10 * float(np.log10(MAX_PIXEL**2 / max(squared_mean, 1e-12))),
        **_by_layer("validation", trainer, layers),
    }


def _share_buffers(model: VAE) -> None:
    """Give all ranks the batch-norm statistics of rank 0, whose model is the one that is kept.

    They are else each rank's own: a training pass neither reads nor exchanges them.
    """
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


@torch.no_grad()
def reconstruct(
    trainer: Trainer, stored: UInt8[np.ndarray, "n D D 3"]
) -> tuple[UInt8[np.ndarray, "n S S 3"], UInt8[np.ndarray, "n S S 3"]]:
    """Images as the model sees them, and as it reconstructs them from their posterior mean."""
    model = trainer.model.eval()
    images = to_device(torch.from_numpy(stored), trainer.device)
    images = model_input(images, model.image_size, model.resize_method)
    with trainer.autocast():
        decoded = model.decode(model.encode(images).mean)
    trainer.vae.train()
    return to_pixels(images).cpu().numpy(), to_pixels(decoded).cpu().numpy()


def _by_layer(prefix: str, trainer: Trainer, values: list[float]) -> Metrics:
    pairs = zip(trainer.criterion.layers, values, strict=True)
    return {f"{prefix}/reconstruction/{layer}": value for layer, value in pairs}


def _summed(values: Tensor) -> Tensor:
    """The sum over all ranks."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


class _Meter:
    """Sums of loss terms since the last log, kept on the device so that no step waits for them."""

    def __init__(self, trainer: Trainer, sums: Sequence[Sequence[float]] = ()) -> None:
        """Takes what ranks had summed up before; of another number of ranks, the first has all."""
        self._trainer = trainer
        self._sums = self._zeros(3 + len(trainer.criterion.layers))
        rank, world_size = trainer.rank
        mine = [sums[rank]] if len(sums) == world_size else sums if rank == 0 else []
        for each in mine:
            self._sums += torch.tensor(each, dtype=torch.float64, device=trainer.device)
        self._trained_before = self._sums[2:3].clone()  # images that took none of this time
        self._first_bad = torch.full((2,), torch.inf, dtype=torch.float64, device=trainer.device)
        self._since, self._waited = time.perf_counter(), 0.0
        self._first_sums: Tensor | None = None
        self._first_loss: float | None = None
        self._is_warned = False

    def _zeros(self, size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.float64, device=self._trainer.device)

    def add(self, step: int, terms: LossTerms) -> None:
        kl = terms.kl
        rows = torch.stack([kl, terms.reconstruction, torch.ones_like(kl)], dim=1)
        sums = torch.cat([rows, terms.by_layer], dim=1).double().sum(dim=0)
        self._sums += sums
        if self._first_sums is None:
            self._first_sums = sums[:3].clone()
        bad = torch.where(torch.isfinite(sums[:2]), torch.inf, float(step))
        self._first_bad = torch.minimum(self._first_bad, bad)

    def of_this_rank(self) -> list[float]:
        values: list[float] = self._sums.tolist()
        return values

    def of_all_ranks(self) -> list[list[float]]:
        every = self._zeros(self._trainer.rank.world_size * len(self._sums)).view(
            -1, len(self._sums)
        )
        every[self._trainer.rank.rank] = self._sums
        rows: list[list[float]] = _summed(every).tolist()
        return rows

    def check_finite(self) -> None:
        first_bad = self._first_bad.clone()
        if dist.is_initialized():
            dist.all_reduce(first_bad, op=dist.ReduceOp.MIN)
        step, term = min(zip(first_bad.tolist(), ("kl", "reconstruction"), strict=True))
        if step != torch.inf:
            raise UserError(
                f"the loss term '{term}' is not finite at step {int(step)}: training stopped; "
                f"{REMEDY}"
            )

    def metrics(self, step: int) -> Metrics:
        self.check_finite()
        assert self._first_sums is not None, "metrics come after a step"
        sums = _summed(torch.cat([self._sums, self._trained_before, self._first_sums]))
        sums, first = sums[:-3], sums[-3:]
        if self._first_loss is None:
            weigh, (first_kl, first_error, count) = self._trainer.criterion.weigh, first.tolist()
            self._first_loss = weigh(first_kl / count, first_error / count)
        images, before = float(sums[2]), float(sums[-1])
        kl, reconstruction, _, *layers = (sums[:-1] / images).tolist()
        seconds = time.perf_counter() - self._since
        rate, waited = (images - before) / seconds, self._waited / seconds
        self._sums, self._trained_before = self._zeros(len(self._sums)), self._zeros(1)
        self._since, self._waited = time.perf_counter(), 0.0
        return {
            LOSS: self._trainer.criterion.weigh(kl, reconstruction),
            "train/kl": kl,
            "train/reconstruction": reconstruction,
            "train/learning_rate": learning_rate(self._trainer.config, step),
            "train/images_per_second": rate,
            "train/waiting_for_data": waited,
            WORKERS: float(self._trainer.rank.world_size),
            **_by_layer("train", self._trainer, layers),
        }

    def take_far_loss(self, metrics: Metrics) -> float | None:
        """The loss of the first step, the first time that a mean loss is far above it."""
        first = self._first_loss
        if self._is_warned or first is None or not metrics[LOSS] > FAR * first > 0:
            return None
        self._is_warned = True
        return first

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A block in which training waits for its images."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block that takes no training time."""
        started = time.perf_counter()
        yield
        self._since += time.perf_counter() - started
