"""What a step may do, in counts that no clock disturbs: a limit for changes to come."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from facevae.config import TrainConfig
from facevae.perceptual import loss
from facevae.training.build import build_trainer

CPU = torch.device("cpu")
BATCH = 32
SYNCHRONISING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}
LIMITS = {"fp32": 165_000, "bf16": 715_000}
"""bytes copied for an image, a tenth above what was counted"""
COPYING = {"aten::_to_copy", "aten::copy_", "aten::clone"}


class Counting(TorchDispatchMode):
    """Counts operators, bytes that are copied, and the largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.copied = self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.name().partition(".")[0]
        self.calls[name] += 1
        sizes = [leaf.nbytes for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if name in COPYING:
            self.copied += sum(sizes)
        self.largest = max([self.largest, *sizes])
        return result


def _counted(**settings) -> Counting:
    training = {"global_batch_size": BATCH, "ema_decay": 0.9, "gradient_clip_norm": 1.0}
    training |= settings.pop("training", {})
    trainer = build_trainer(TrainConfig(training=training, **settings), CPU)
    stored = torch.zeros(BATCH, 64, 64, 3, dtype=torch.uint8)
    trainer(stored, 1)  # makes Adam's moments
    with Counting() as counting:
        trainer(stored, 2)
    return counting


@pytest.mark.parametrize("loss", [{}, {"reconstruction": "pixel"}], ids=["onet", "pixel"])
def test_no_step_waits_for_the_device(loss):
    counting = _counted(loss=loss)
    assert not SYNCHRONISING & set(counting.calls)
    assert counting.calls["aten::convolution_backward"] > 5  # it was a whole step that was seen


def test_copies_of_a_step_stay_few():
    assert _counted().copied / BATCH < LIMITS["fp32"]
    assert _counted(training={"precision": "bf16"}).copied / BATCH < LIMITS["bf16"]


def test_no_feature_map_of_the_whole_batch_is_made():
    """The largest tensor is one of the VAE's own, however wide the face network's maps are."""
    whole = 32 * 62 * 62 * 4 * BATCH  # of the O-Net's first layer
    assert _counted().largest < whole
    assert whole > loss.CACHE_BYTES
