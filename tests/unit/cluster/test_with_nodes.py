"""The program that gets a job its nodes, against a cluster that answers as told."""

import importlib.util
import signal
import sys

import pytest


def ray_init(**_):
    """Ray's puts its own handler in the place of whatever was there."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))


class Cluster:
    """Nodes that join as time goes by, and what was asked of the autoscaler."""

    def __init__(self, *joining):
        self.joining = list(joining)  # what joins at each poll
        self.nodes: list = []
        self.asked: list = []
        self.now = 0.0

    def sleep(self, seconds):
        self.now += seconds
        self.nodes += self.joining.pop(0) if self.joining else []

    def request_resources(self, bundles, bundle_label_selectors=None):
        self.asked.append((bundles, bundle_label_selectors))


def node(pool, alive=True, **resources):
    labels = {"facevae-pool": pool} if pool else {}
    return {"Alive": alive, "Labels": labels, "Resources": resources}


GPU = [node("gpu", GPU=1, CPU=8)]
DATA = [node("data", CPU=16)]


@pytest.fixture
def with_nodes(cluster_folder, monkeypatch):
    """The module, on a given cluster."""
    specification = importlib.util.spec_from_file_location(
        "with_nodes", cluster_folder / "with_nodes.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)

    def on(cluster):
        monkeypatch.setattr(module.ray, "init", ray_init)
        monkeypatch.setattr(module.ray, "nodes", lambda: cluster.nodes)
        monkeypatch.setattr(module, "request_resources", cluster.request_resources)
        monkeypatch.setattr(module.time, "sleep", cluster.sleep)
        monkeypatch.setattr(module.time, "monotonic", lambda: cluster.now)
        return module

    before = signal.getsignal(signal.SIGTERM)
    yield on
    signal.signal(signal.SIGTERM, before)


def leaves(code: int) -> list[str]:
    return ["--", sys.executable, "-c", f"raise SystemExit({code})"]


def test_the_command_runs_once_its_nodes_are_there_and_gives_its_exit_code(with_nodes, capsys):
    cluster = Cluster(GPU, GPU + DATA)
    module = with_nodes(cluster)
    assert module.main(["--gpus", "2", "--cpus", "16", *leaves(7)]) == 7
    bundles, selectors = cluster.asked[0]
    assert bundles == [{"GPU": 1}] * 2 + [{"CPU": 1}] * 16
    assert selectors == [{"facevae-pool": "gpu"}] * 2 + [{"facevae-pool": "data"}] * 16
    assert cluster.asked[1:] == [([], None)]  # let go at the end
    assert "1 of 2 GPUs in the pool gpu, 0 of 16 CPUs in the pool data" in capsys.readouterr().out


def test_nodes_that_are_there_are_not_waited_for(with_nodes):
    cluster = Cluster()
    cluster.nodes = GPU + DATA
    assert with_nodes(cluster).main(["--gpus", "1", "--cpus", "4", *leaves(0)]) == 0
    assert cluster.now == 0
    assert cluster.asked == [([], None)]


def test_gpus_that_spot_does_not_give_in_time_are_asked_of_on_demand(with_nodes):
    cluster = Cluster(GPU, [], [], GPU + GPU)
    module = with_nodes(cluster)
    assert module.main(["--gpus", "3", "--patience", "12", *leaves(0)]) == 0
    spot, on_demand = (selectors for _, selectors in cluster.asked[:2])
    either = {"facevae-pool": "gpu"}
    assert spot == [either] * 3
    assert on_demand == [either] + [either | {"facevae-capacity": "on-demand"}] * 2


def test_it_gives_up_and_says_what_was_missing(with_nodes, capsys, tmp_path):
    cluster = Cluster(GPU)
    mark = tmp_path / "ran"
    code = with_nodes(cluster).main(["--gpus", "4", "--timeout", "60", "--", "touch", str(mark)])
    assert code == 2
    assert not mark.exists()
    assert cluster.asked[-1] == ([], None)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "1 of 4 GPUs" in error
    assert "after 65 s" in error
    assert "maxReplicas" in error


def test_a_stopped_job_lets_go_of_its_nodes(with_nodes):
    cluster = Cluster()
    module = with_nodes(cluster)
    cluster.sleep = lambda _: signal.raise_signal(signal.SIGTERM)
    with_nodes(cluster)
    with pytest.raises(SystemExit) as stopped:
        module.main(["--gpus", "1", *leaves(0)])
    assert stopped.value.code == 143
    assert cluster.asked[-1] == ([], None)


def test_a_command_that_is_stopped_too_ends_by_itself(with_nodes):
    """It may keep a checkpoint first."""
    cluster = Cluster()
    cluster.nodes = GPU
    told = (
        "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(0.3); exit(9)"
    )
    assert with_nodes(cluster).main(["--gpus", "1", "--", sys.executable, "-c", told]) == 9
    assert cluster.asked[-1] == ([], None)


def test_only_living_nodes_of_the_pool_count(with_nodes):
    cluster = Cluster()
    cluster.nodes = [
        node("gpu", GPU=2, CPU=8),
        node("gpu", GPU=1),
        node("gpu", alive=False, GPU=4),
        node("data", CPU=16),
        node(None, GPU=8, CPU=64),
    ]
    module = with_nodes(cluster)
    assert module.pool_total("gpu", "GPU") == 3
    assert module.pool_total("data", "CPU") == 16
