"""The loop: what it tells and when, that it stops at a broken loss, and goes on exactly."""

import copy
import re

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from facevae.config import LossConfig, ModelConfig, TrainingConfig
from facevae.data.rank import rank_size, rank_slice
from facevae.errors import UserError
from facevae.models import build_vae
from facevae.models.checkpoint import TrainingState
from facevae.pixels import denormalise, model_input, to_pixels
from facevae.training import loop
from facevae.training.loop import train, validate
from facevae.training.step import Criterion, Rank, Trainer

CPU = torch.device("cpu")
LOSS = LossConfig(reconstruction="pixel", beta=1e-4)


def trainer(rank: Rank = Rank(0, 1), **training) -> Trainer:  # noqa: B008
    settings = {
        "steps": 7, "global_batch_size": 4, "log_every": 2, "grid_every": 3, "grid_faces": 3,
        "validate_every": 4, "checkpoint_every": 5,
    }  # fmt: skip
    torch.manual_seed(0)
    vae = build_vae(ModelConfig(latent_size=4))
    config = TrainingConfig(**(settings | training))
    return Trainer(vae, Criterion(LOSS, None), config, CPU, rank)


def batches(first: int, last: int):
    for step in range(first, last + 1):
        generator = torch.Generator().manual_seed(step)
        yield torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, generator=generator)


HELD_OUT = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)


class Ear:
    """Remembers what it is told."""

    def __init__(self, learner: Trainer, wanted: int = 0) -> None:
        self.learner = learner
        self.wanted, self.asked = wanted, 0
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.warned: list[str] = []
        self.shown: list[int] = []
        self.saved: dict[int, object] = {}

    def log(self, step, metrics):
        self.logged.append((step, metrics))

    def warn(self, line):
        self.warned.append(line)

    def show(self, step, originals, reconstructions):
        assert originals.shape == reconstructions.shape == (3, 64, 64, 3)
        np.testing.assert_array_equal(originals, HELD_OUT[:3])
        self.shown.append(step)

    def wants_checkpoint(self):
        self.asked += 1
        return self.asked == self.wanted

    def save(self, step, sums):
        self.saved[step] = copy.deepcopy(self.learner.state(step, [], sums))


def run(learner: Trainer, first: int = 1, sums=()) -> Ear:
    ear = Ear(learner)
    train(learner, batches(first, learner.config.steps), HELD_OUT, first, ear, sums)
    return ear


def test_events_come_when_due_and_at_the_last_step():
    ear = run(trainer())
    assert [s for s, m in ear.logged if "train/loss" in m] == [2, 4, 6, 7]
    assert [s for s, m in ear.logged if "validation/psnr" in m] == [4, 7]
    assert ear.shown == [3, 6, 7]
    assert list(ear.saved) == [5, 7]


def test_a_checkpoint_that_is_wanted_out_of_turn_is_kept_at_once_and_changes_nothing():
    learner = trainer()
    ear = Ear(learner, wanted=2)
    train(learner, batches(1, 7), HELD_OUT, 1, ear)
    assert list(ear.saved) == [2, 5, 7]
    for one, other in zip(tensors(ear.saved[7]), tensors(run(trainer()).saved[7]), strict=True):
        assert torch.equal(one, other)


def test_logged_means_are_those_of_the_steps_since_the_last():
    twin = trainer()
    terms = [twin(batch, step) for step, batch in enumerate(batches(1, 7), start=1)]
    logged = [m for _, m in run(trainer()).logged if "train/loss" in m]
    parts = (terms[:2], terms[2:4], terms[4:6], terms[6:])
    for metrics, part in zip(logged, parts, strict=True):
        kl = float(torch.cat([each.kl for each in part]).double().mean())
        assert metrics["train/kl"] == pytest.approx(kl, rel=1e-6)
        error = float(torch.cat([each.by_layer[:, 0] for each in part]).double().mean())
        assert metrics["train/reconstruction/pixels"] == pytest.approx(error, rel=1e-6)
        total = float(torch.stack([each.total for each in part]).double().mean())
        assert metrics["train/loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_going_on_from_a_checkpoint_is_never_having_stopped(ema_decay):
    whole = run(trainer(ema_decay=ema_decay))
    learner = trainer(ema_decay=ema_decay)
    learner.restore(copy.deepcopy(whole.saved[5]))
    rest = run(learner, first=6, sums=whole.saved[5].sums)
    assert trace(rest) == trace(whole)[-2:]  # that of step 6 is a mean over steps 5 and 6
    for one, other in zip(tensors(whole.saved[7]), tensors(rest.saved[7]), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ema_decay": 0.9},
        {"warmup_steps": 3},
        {"decay_steps": 2, "decay_factor": 0.5},
        {"checkpoint_every": 3, "validate_every": 3, "log_every": 3},
    ],
    ids=str,
)
def test_a_training_made_longer_is_one_that_had_all_steps_at_once(settings):
    """Its old last step logs, validates, draws and keeps out of turn, and changes nothing."""
    short = run(trainer(**settings, steps=4))
    learner = trainer(**settings, steps=8)
    learner.restore(copy.deepcopy(short.saved[4]))
    longer = run(learner, first=5, sums=short.saved[4].sums)
    whole = run(trainer(**settings, steps=8))
    for one, other in zip(tensors(whole.saved[8]), tensors(longer.saved[8]), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_training_from_a_models_weights_keeps_them_at_rate_0(ema_decay):
    """It takes the batch-norm statistics too, and moves those alone."""
    model = run(trainer()).saved[7].weights
    learner = trainer(ema_decay=ema_decay)
    learner.start_from(model)
    for name, value in learner.vae.state_dict().items():
        assert torch.equal(value, model[name]), name
    assert not learner.optimizer.state
    learner.config = learner.config.model_copy(update={"learning_rate": 0.0})
    run(learner)
    for name, weights in learner.model.named_parameters():
        assert torch.equal(weights, model[name]), name


def test_the_rate_after_a_resume_is_of_what_was_trained_since(monkeypatch):
    seconds = iter(range(1000))
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(seconds)))
    whole = run(trainer(log_every=7))
    learner = trainer(log_every=7)
    learner.restore(copy.deepcopy(whole.saved[5]))
    rest = run(learner, first=6, sums=whole.saved[5].sums)
    name = "train/images_per_second"
    rates = [next(m[name] for _, m in ear.logged if name in m) for ear in (whole, rest)]
    assert rates[1] == pytest.approx(rates[0], rel=0.5)  # two steps, not seven, in their time


def trace(ear: Ear) -> list[tuple[int, float]]:
    return [(step, m["train/loss"]) for step, m in ear.logged if "train/loss" in m]


def tensors(state: TrainingState) -> list[torch.Tensor]:
    return tree_leaves([state.weights, state.average or {}, state.optimizer["state"]])


@pytest.mark.parametrize("log_every", [1, 100])
@pytest.mark.parametrize("term", ["kl", "reconstruction"])
def test_a_broken_loss_stops_before_it_is_saved_and_names_step_and_term(term, log_every):
    learner = trainer(log_every=log_every)
    broken = learner.vae.mean if term == "kl" else learner.vae.expand

    def poisoned():
        for step, batch in enumerate(batches(1, 7), start=1):
            if step == 3:
                with torch.no_grad():
                    broken.bias.fill_(float("nan"))
            yield batch

    ear = Ear(learner)
    with pytest.raises(UserError, match=rf"'{term}' is not finite at step 3"):
        train(learner, poisoned(), HELD_OUT, 1, ear)
    assert not ear.saved


def test_weights_broken_by_the_last_update_are_not_saved():
    learner = trainer(steps=1, learning_rate=1e39)
    ear = Ear(learner)
    with pytest.raises(UserError, match=r"not finite after step 1: nothing was saved"):
        train(learner, batches(1, 1), HELD_OUT, 1, ear)
    assert not ear.saved


@pytest.mark.parametrize("log_every", [1, 7, 100])
def test_a_loss_that_grows_out_of_bounds_is_worth_one_warning(log_every):
    learner = trainer(log_every=log_every, learning_rate=1e-30)

    def shaken():
        for step, batch in enumerate(batches(1, 7), start=1):
            if step == 3:
                with torch.no_grad():
                    learner.vae.mean.bias.fill_(1e9)
            yield batch

    ear = Ear(learner)
    train(learner, shaken(), HELD_OUT, 1, ear)
    (line,) = ear.warned
    far = next(s for s, m in ear.logged if s >= 3 and "train/loss" in m)
    assert re.match(
        rf"warning: the loss is [\d.e+]+ at step {far}, far above the [\d.e+]+ of", line
    )
    assert "into another --output with a lower training.learning_rate" in line


@pytest.mark.parametrize("learning_rate", [1e-30, 1e-3])
def test_an_ordinary_loss_is_worth_no_warning(learning_rate):
    assert run(trainer(learning_rate=learning_rate)).warned == []


def test_what_to_do_about_a_broken_loss_works_as_it_stands():
    """The folder takes no other learning rate, so that another one is told of."""
    learner = trainer(steps=2, learning_rate=1e39)
    with pytest.raises(UserError, match=r"not finite.*into another --output with a lower train"):
        train(learner, batches(1, 2), HELD_OUT, 1, Ear(learner))


def test_validation_is_the_plain_mean_over_images_in_eval_mode():
    learner = trainer()
    metrics = validate(learner, HELD_OUT)
    assert learner.vae.training
    vae = learner.vae.eval()
    images = model_input(torch.from_numpy(HELD_OUT), 64, "antialias")
    with torch.no_grad():
        posterior = vae.encode(images)
        drawn = vae.decode(posterior.mean)
    m, v = posterior.mean.double(), posterior.log_variance.double()
    kl = 0.5 * (m**2 + v.exp() - v - 1).sum(1).mean()
    error = ((denormalise(drawn) - denormalise(images)).double() ** 2).sum((1, 2, 3)).mean()
    assert metrics["validation/kl"] == pytest.approx(float(kl), rel=1e-5)
    assert metrics["validation/reconstruction"] == pytest.approx(float(error), rel=1e-5)
    squared = (to_pixels(drawn).double() - torch.from_numpy(HELD_OUT).double()).square().mean()
    psnr = 10 * np.log10(255**2 / float(squared))
    assert metrics["validation/psnr"] == pytest.approx(psnr, rel=1e-4)


@pytest.mark.parametrize("ranks", [2, 3])
def test_logged_means_count_each_image_once_though_shares_differ(ranks, monkeypatch):
    sums: list[torch.Tensor] = []
    monkeypatch.setattr(loop, "_summed", lambda values: sums.append(values.clone()) or values)
    pixels = next(batches(1, 1))
    for rank in range(ranks):
        learner = trainer(Rank(rank, ranks), steps=1, validate_every=2)
        learner.vae.eval()
        train(learner, iter([pixels[rank_slice(4, rank, ranks)]]), HELD_OUT, 1, Ear(learner))
    train_sums = sums[::3]  # beside those of the validation and of the checkpoint
    assert [float(each[2]) for each in train_sums] == [
        rank_size(4, rank, ranks) for rank in range(ranks)
    ]
    monkeypatch.undo()
    whole = trainer(steps=1)
    whole.vae.eval()
    terms = whole.loss(pixels, 1)
    total = sum(train_sums).detach()
    assert float(total[0] / total[2]) == pytest.approx(
        float(terms.kl.detach().double().mean()), rel=1e-5
    )


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_validation_does_not_depend_on_the_ranks(ranks, monkeypatch):
    whole = validate(trainer(), HELD_OUT)
    sums: list[torch.Tensor] = []
    monkeypatch.setattr(loop, "_summed", lambda values: sums.append(values) or values)
    for rank in range(ranks):
        validate(trainer(Rank(rank, ranks)), HELD_OUT)
    assert [float(each[3]) for each in sums] == [len(HELD_OUT[r::ranks]) for r in range(ranks)]
    monkeypatch.setattr(loop, "_summed", lambda _: sum(sums))  # as all_reduce
    assert validate(trainer(Rank(1, ranks)), HELD_OUT) == pytest.approx(whole, rel=1e-5)
