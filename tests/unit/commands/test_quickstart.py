"""How long the quickstart trains: what fits in the time, said once and kept."""

import pytest

from facevae.commands import quickstart as module
from facevae.commands.quickstart import quickstart
from facevae.commands.train import CLAIM
from facevae.config import QuickstartConfig
from facevae.data.shard_files import Manifest
from facevae.ray_cluster.nodes import Node
from facevae.runs import storage


@pytest.fixture
def trained_steps(tmp_path, monkeypatch):
    """Runs the quickstart where `fitting` steps fit, as far as training; the steps it trains."""

    def run(fitting: int, training: dict = {}, **settings) -> int:  # noqa: B006
        taken: list[int] = []
        sizes: list[int] = []

        def train(config) -> None:
            taken.append(config.training.steps)
            raise InterruptedError

        manifest = Manifest(("Smiling",), 48, (), {}, {}, {}, False)
        monkeypatch.setattr(module, "read_manifest", lambda folder: manifest)
        monkeypatch.setattr(module, "check_editing", lambda *_: None)
        monkeypatch.setattr(module, "connect", lambda: None)
        monkeypatch.setattr(module, "cluster_nodes", lambda: [Node(2, 0)])
        monkeypatch.setattr(
            module, "steps_in", lambda *given: sizes.append(given[2]) or (fitting, 100.0)
        )
        monkeypatch.setattr(module, "train_model", train)
        config = QuickstartConfig(
            output=str(tmp_path),
            shards="/shards",
            training={"steps": 1000, "global_batch_size": 60, "precision": "fp32"} | training,
            **settings,
        )
        with pytest.raises(InterruptedError):
            quickstart(config)
        assert set(sizes) <= {manifest.image_size}
        return taken[0]

    return run


@pytest.mark.parametrize(("fitting", "expected"), [(5000, 1000), (700, 700), (20, 400)])
def test_as_many_steps_as_fit_but_not_too_few(trained_steps, capsys, fitting, expected):
    assert trained_steps(fitting, training_minutes=4) == expected
    minutes = expected * 60 / 100 / 60
    line = f"train: {expected} steps at 100 images/s, about {minutes:.1f} minutes\n"
    assert capsys.readouterr().err == line


def test_the_fewest_are_a_setting(trained_steps):
    assert trained_steps(20, training_minutes=4, fewest_steps=30) == 30


def test_warm_up_ends_before_training_does(trained_steps):
    assert trained_steps(5, {"warmup_steps": 50}, training_minutes=4, fewest_steps=30) == 51


def test_a_run_goes_on_with_the_steps_it_began_with(trained_steps, tmp_path, capsys):
    storage.write_json(str(tmp_path / "train" / CLAIM), {"training": {"steps": 612}})
    assert trained_steps(50, training_minutes=4) == 612
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "settings", [{}, {"training_minutes": 4, "scaling": {"workers": 2}}], ids=["no time", "workers"]
)
def test_steps_are_those_given_where_there_is_no_time_or_no_single_worker(trained_steps, settings):
    assert trained_steps(50, **settings) == 1000


def test_on_a_cluster_nothing_is_measured_here(trained_steps, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert trained_steps(50, training_minutes=4) == 1000
