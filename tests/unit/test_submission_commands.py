"""The order of checks before anything is sent, and what each action says and returns."""

import os
from unittest.mock import Mock

import pytest

from facevae.cli import main
from facevae.runtime import Node
from facevae.submission import commands as module
from facevae.submission.cluster import Job, UnreachableError

SUBMIT = ["submit", "shards", "--output", "/shared/x", "--submission_id", "mine"]


def job(status: str, **changes) -> Job:
    metadata = {"facevae.verb": "train", "facevae.output": "/shared/x"}
    return Job("mine", status, "why\nit failed", None, 1_000, 62_000, metadata)._replace(**changes)


@pytest.fixture
def cluster(monkeypatch) -> Mock:
    """A cluster of 4 CPUs that knows no job, and a log of one line."""
    cluster = Mock(address="http://h:1")
    cluster.nodes.return_value = [Node(4.0, 0.0)]
    cluster.job.return_value = None
    monkeypatch.setattr(module, "Cluster", Mock(return_value=cluster))
    monkeypatch.setattr(module, "POLL_SECONDS", 0)
    monkeypatch.setattr(module, "follow", follow_to(job("SUCCEEDED", driver_exit_code=0)))
    return cluster


def follow_to(end: Job | BaseException) -> Mock:
    def follow(cluster, submission_id, write):
        write("one line\n")
        if isinstance(end, BaseException):
            raise end
        return end

    return Mock(side_effect=follow)


def test_a_dry_run_prints_the_plan_on_the_clusters_nodes_and_sends_nothing(cluster, capsys):
    assert main([*SUBMIT, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "nodes: 1 here\n  1 x 4 CPUs" in shown
    assert "shards: 4 tasks at a time" in shown
    cluster.submit.assert_not_called()


def test_a_job_is_sent_and_followed(cluster, capsys):
    assert main(SUBMIT) == 0
    (request,) = cluster.submit.call_args.args
    assert request.submission_id == "mine"
    shown = capsys.readouterr()
    assert shown.out == "one line\n"
    assert shown.err == "job mine is submitted to http://h:1\njob mine succeeded\n".replace(
        "http://h:1", module.cluster_address(None, os.environ)
    )


def test_without_waiting_the_id_is_all_of_stdout(cluster, capsys):
    assert main([*SUBMIT, "--no_wait"]) == 0
    assert capsys.readouterr().out == "mine\n"
    module.follow.assert_not_called()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("train --output /x --scaling.workers 64 --training.global_batch_size 64", "do not fit on"),
        ("train --output /x --scaling.gpu yes", "need a GPU each"),
        ("quickstart --output /x --encoding.gpu yes", "encoder actors need a GPU"),
        (
            "attributes --output /x --shards /s --model /m --encoding.actors 9999",
            "lower encoding.actors",
        ),
        ("train --loss.beta -1", "loss.beta"),
        ("train --output x", "output x is relative"),
    ],
)
def test_a_mistake_is_found_before_anything_is_sent(cluster, capsys, words, expected):
    assert main(["submit", *words.split()]) == 2
    assert expected in capsys.readouterr().err
    cluster.submit.assert_not_called()


def test_nodes_that_an_autoscaler_would_add_are_asked_for_by_name(cluster, capsys, monkeypatch):
    words = ["submit", "train", "--output", "/x", "--scaling.workers", "2", "--scaling.gpu", "yes"]
    assert main([*words, "--dry-run"]) == 2
    assert "tell of its nodes in FACEVAE_NODE_GROUPS" in capsys.readouterr().err
    monkeypatch.setenv("FACEVAE_NODE_GROUPS", '{"cpus": {"resources": {"CPU": 4}}}')
    assert main([*words, "--dry-run"]) == 2
    assert "FACEVAE_NODE_GROUPS" not in capsys.readouterr().err


def test_an_id_is_used_once(cluster, capsys):
    cluster.job.return_value = job("FAILED")
    assert main(SUBMIT) == 2
    assert "there is a job mine already (FAILED)" in capsys.readouterr().err
    cluster.submit.assert_not_called()


@pytest.mark.parametrize(
    ("end", "code", "expected"),
    [
        (job("FAILED", driver_exit_code=2), 2, "job mine failed with exit code 2\n"),
        (job("FAILED"), 1, "job mine failed: why\nit failed\n"),
        (job("STOPPED"), 143, "job mine was stopped\n"),
        (KeyboardInterrupt(), 130, "job mine goes on; --attach mine follows it, --stop mine stops"),
        (UnreachableError("x"), 1, "job mine may go on: --attach mine"),
    ],
)
def test_the_exit_code_tells_how_it_ended(cluster, capsys, monkeypatch, end, code, expected):
    monkeypatch.setattr(module, "follow", follow_to(end))
    cluster.job.return_value = job("RUNNING")
    assert main(["submit", "--attach", "mine"]) == code
    assert expected in capsys.readouterr().err


def test_interrupted_while_sending_says_how_to_find_out(cluster, capsys):
    cluster.submit.side_effect = KeyboardInterrupt
    assert main(SUBMIT) == 130
    assert "--list tells whether" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "words"), [("nodes", SUBMIT), ("job", ["submit", "--stop", "mine"])]
)
def test_interrupted_elsewhere_is_one_line(cluster, capsys, asked, words):
    getattr(cluster, asked).side_effect = KeyboardInterrupt
    assert main(words) == 130
    assert capsys.readouterr().err == "facevae submit: interrupted\n"
    cluster.submit.assert_not_called()


def test_a_reader_that_leaves_ends_the_showing_and_not_the_job(cluster, capfd, monkeypatch):
    monkeypatch.setattr(module, "follow", follow_to(BrokenPipeError()))
    monkeypatch.setattr(module.os, "dup2", Mock())
    assert main(SUBMIT) == 141
    assert "job mine goes on; --attach mine follows it" in capfd.readouterr().err


@pytest.mark.parametrize("action", ["--attach", "--stop"])
def test_unknown_jobs_are_one_line(cluster, capsys, action):
    assert main(["submit", action, "mine"]) == 2
    assert capsys.readouterr().err == (
        "facevae submit: http://h:1 knows no job mine; see facevae submit --list\n"
    )


def test_stop_waits_until_it_is_stopped(cluster, capsys):
    cluster.job.side_effect = [job("PENDING"), job("RUNNING"), job("RUNNING"), job("STOPPED")]
    assert main(["submit", "--stop", "mine"]) == 0
    assert cluster.stop.call_count == 3
    assert capsys.readouterr().err == "job mine was stopped\n"


def test_stop_does_not_wait_for_ever(cluster, capsys, monkeypatch):
    monkeypatch.setattr(module, "STOP_SECONDS", -1)
    cluster.job.return_value = job("RUNNING")
    assert main(["submit", "--stop", "mine"]) == 1
    assert "job mine is still RUNNING" in capsys.readouterr().err


def test_a_finished_job_is_not_stopped(cluster, capsys):
    cluster.job.return_value = job("SUCCEEDED")
    assert main(["submit", "--stop", "mine"]) == 0
    cluster.stop.assert_not_called()
    assert capsys.readouterr().err == "nothing to stop: job mine succeeded\n"


def test_the_list_is_a_table(cluster, capsys):
    foreign = job("RUNNING", submission_id="raysubmit_1", metadata={}, start_ms=None)
    cluster.jobs.return_value = [job("SUCCEEDED"), foreign]
    assert main(["submit", "--list"]) == 0
    title, first, second = (line.split() for line in capsys.readouterr().out.splitlines())
    assert title == ["ID", "STATUS", "VERB", "STARTED", "TOOK", "OUTPUT"]
    assert first[:3] == ["mine", "SUCCEEDED", "train"]
    assert first[-2:] == ["0:01:01", "/shared/x"]
    assert second == ["raysubmit_1", "RUNNING", "-", "-", "-", "-"]
    cluster.jobs.return_value = []
    assert main(["submit", "--list"]) == 0
    assert "http://h:1 has no jobs" in capsys.readouterr().err


def test_a_cluster_that_goes_away_meanwhile_is_one_line(cluster, capsys):
    cluster.nodes.side_effect = UnreachableError("refused")
    assert main(SUBMIT) == 1
    assert capsys.readouterr().err.count("\n") == 1
