"""How many steps fit in a time: measured on this machine, before training begins."""

import time

import torch

from facevae.config import TrainConfig
from facevae.training.build import build_trainer

WARM_UP_STEPS = 2
TIMED_STEPS = 4


def steps_in(
    minutes: float, config: TrainConfig, image_size: int, device: torch.device
) -> tuple[int, float]:
    """The steps that training of random images on a device takes in a time, and images per second.

    Validation, checkpoints and pictures are not counted; they take a few per cent of the time.

    Args:
        minutes: the time.
        config: of a training whose precision is chosen.
        image_size: pixels per side of the stored images.
        device: where the steps are taken, by this process alone.
    """
    trainer = build_trainer(config, device)
    batch_size = config.training.global_batch_size
    shape = (batch_size, image_size, image_size, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    seconds = []
    for step in range(1, WARM_UP_STEPS + TIMED_STEPS + 1):
        started = time.perf_counter()
        trainer(pixels, step).total.item()  # waits for the device
        seconds.append(time.perf_counter() - started)
    a_step = sum(seconds[WARM_UP_STEPS:]) / TIMED_STEPS
    return int(60 * minutes / a_step), batch_size / a_step
