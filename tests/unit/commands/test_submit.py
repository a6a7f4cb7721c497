"""Options, the order of checks before anything is sent, and what each action says and returns."""

from unittest.mock import Mock

import pytest
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus

from facevae.cli import main
from facevae.commands import submit as module
from facevae.commands.submit import read_options
from facevae.ray_cluster.nodes import Node
from facevae.submission import client, follow

SUBMIT = ["submit", "shards", "--output", "/shared/x", "--submission_id", "mine"]


def job(status: str, **changes) -> JobDetails:
    known = {
        "type": "SUBMISSION", "submission_id": "mine", "entrypoint": "x", "message": "why",
        "start_time": 1_000, "metadata": {"facevae.verb": "train", "facevae.output": "/shared/x"},
    }  # fmt: skip
    return JobDetails(**(known | changes), status=JobStatus(status))


@pytest.fixture
def cluster(monkeypatch) -> Mock:
    """A cluster of 4 CPUs, and a log of one line."""
    cluster = Mock(address="http://h:1")
    cluster.nodes.return_value = [Node(4.0, 0.0)]
    cluster.submit_job.return_value = "mine"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://h:1")
    monkeypatch.setattr(client, "Cluster", Mock(return_value=cluster))
    monkeypatch.setattr(follow, "follow", follow_to(job("SUCCEEDED", driver_exit_code=0)))
    return cluster


def follow_to(end: JobDetails | BaseException) -> Mock:
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
    cluster.submit_job.assert_not_called()


def test_a_job_is_sent_and_followed(cluster, capsys):
    assert main(SUBMIT) == 0
    assert cluster.submit_job.call_args.kwargs["submission_id"] == "mine"
    shown = capsys.readouterr()
    assert shown.out == "one line\n"
    assert shown.err == "job mine is submitted to http://h:1\njob mine succeeded\n"


def test_without_waiting_the_id_is_all_of_stdout(cluster, capsys):
    assert main([*SUBMIT, "--no_wait"]) == 0
    assert capsys.readouterr().out == "mine\n"
    follow.follow.assert_not_called()


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
    cluster.submit_job.assert_not_called()


def test_what_does_not_fit_tells_how_an_autoscaler_counts(cluster, capsys):
    words = ["submit", "train", "--output", "/x", "--scaling.workers", "2", "--scaling.gpu", "yes"]
    assert main([*words, "--dry-run"]) == 2
    assert "count if FACEVAE_NODE_GROUPS tells of them" in capsys.readouterr().err


def test_a_job_that_is_refused_is_one_line(cluster, capsys):
    refusal = "Request failed with status code 500: Traceback:\n  x\nValueError: no such id.\n."
    cluster.submit_job.side_effect = RuntimeError(refusal)
    assert main(SUBMIT) == 2
    assert capsys.readouterr().err == (
        "facevae submit: http://h:1 refuses the job: ValueError: no such id\n"
    )


@pytest.mark.parametrize(
    ("end", "code", "expected"),
    [
        (job("FAILED", driver_exit_code=2), 2, "job mine failed with exit code 2\n"),
        (job("FAILED"), 1, "job mine failed: why\n"),
        (job("STOPPED"), 143, "job mine was stopped\n"),
        (KeyboardInterrupt(), 130, "job mine goes on; --attach mine follows it, --stop mine stops"),
        (ConnectionError("x"), 1, "http://h:1 does not answer as it should: x\n"),
    ],
)
def test_the_exit_code_tells_how_it_ended(cluster, capsys, monkeypatch, end, code, expected):
    monkeypatch.setattr(follow, "follow", follow_to(end))
    assert main(["submit", "--attach", "mine"]) == code
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "words"),
    [("nodes", SUBMIT), ("submit_job", SUBMIT), ("job", ["submit", "--stop", "mine"])],
)
def test_interrupted_elsewhere_is_one_line(cluster, capsys, asked, words):
    getattr(cluster, asked).side_effect = KeyboardInterrupt
    assert main(words) == 130
    assert capsys.readouterr().err == "facevae submit: interrupted\n"


def test_a_reader_that_leaves_ends_the_showing_and_not_the_job(cluster, capfd, monkeypatch):
    monkeypatch.setattr(follow, "follow", follow_to(BrokenPipeError()))
    monkeypatch.setattr(module.os, "dup2", Mock())
    assert main(SUBMIT) == 141
    assert "job mine goes on; --attach mine follows it" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("STOPPED", 0, "job mine was stopped\n"), ("RUNNING", 1, "job mine is still RUNNING\n")],
)
def test_stop_tells_how_it_ended(cluster, capsys, monkeypatch, status, code, expected):
    monkeypatch.setattr(follow, "stop", Mock(return_value=job(status)))
    assert main(["submit", "--stop", "mine"]) == code
    assert capsys.readouterr().err == expected


def test_the_list_is_a_table_newest_first(cluster, capsys):
    foreign = job("RUNNING", submission_id="raysubmit_1", metadata=None, start_time=2_000)
    driver = job("RUNNING", submission_id=None)
    cluster.list_jobs.return_value = [job("SUCCEEDED"), driver, foreign]
    assert main(["submit", "--list"]) == 0
    title, first, second = (line.split() for line in capsys.readouterr().out.splitlines())
    assert title == ["ID", "STATUS", "COMMAND", "STARTED", "OUTPUT"]
    assert first[:3] == ["raysubmit_1", "RUNNING", "-"]
    assert second[:3] == ["mine", "SUCCEEDED", "train"]
    assert second[-1] == "/shared/x"


def test_a_cluster_that_goes_away_meanwhile_is_one_line(cluster, capsys):
    cluster.nodes.side_effect = ConnectionError("refused")
    assert main(SUBMIT) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_token_that_is_refused_is_one_line(cluster, capsys):
    cluster.nodes.side_effect = AuthenticationError("Authentication failed: no\n\nDetails.")
    assert main(SUBMIT) == 2
    assert capsys.readouterr().err == (
        "facevae submit: http://h:1 needs the cluster's token in RAY_AUTH_TOKEN, or in the file "
        "that RAY_AUTH_TOKEN_PATH names: Authentication failed: no\n"
    )


def test_options_of_the_command_pass_through_in_order():
    options = read_options([
        "--address", "h:1", "train", "--loss.beta", "0.7", "--submission-id", "a.b",
        "--config=x.yaml", "--no-wait", "--editing.strengths", "[-2,0]", "-2", "--working_dir", "w",
    ])  # fmt: skip
    assert options.command == "train"
    assert options.arguments == [
        "--loss.beta", "0.7", "--config=x.yaml", "--editing.strengths", "[-2,0]", "-2",
    ]  # fmt: skip
    assert (options.address, options.submission_id, options.working_dir) == ("h:1", "a.b", "w")
    assert options.no_wait
    assert not options.list


@pytest.mark.parametrize("spelling", ["--no_wait", "--no-wait"])
def test_hyphens_do_for_underscores(spelling):
    assert read_options(["train", spelling]).no_wait


def test_an_action_needs_no_command():
    options = read_options(["--attach", "train-1", "--address", "http://h:1"])
    assert (options.command, options.arguments, options.attach) == (None, [], "train-1")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--address h:1", "name the command first"),
        ("--loss.beta 1 train", "name the command first"),
        ("--attach a --stop b", "--stop: not allowed with argument --attach"),
        ("--attach", "--attach: expected one argument"),
        ("--attach a train", "take no command, no settings"),
        ("--list --no_wait", "which belong to a new job"),
        ("--stop ../a", "'../a' cannot be a job's id"),
        ("train --submission_id", "--submission_id/--submission-id: expected one argument"),
        ("trian", "no command 'trian', did you mean train?"),
        ("train --loss.betta 1", "did you mean --loss.beta"),
        ("train --adress h:1", "unknown option --adress"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, words, expected):
    assert main(["submit", *words.split()]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("facevae submit: ")
    assert shown.err.count("\n") == 1
    assert expected in shown.err


def test_an_empty_source_folder_is_not_the_current_one(capsys):
    assert main(["submit", "train", "--working_dir", ""]) == 2
    assert "--working_dir is empty" in capsys.readouterr().err


def test_an_empty_id_is_refused(capsys):
    assert main(["submit", "--stop", ""]) == 2
    assert "cannot be a job's id" in capsys.readouterr().err


def test_help_tells_all_options(capsys):
    assert main(["submit", "--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("address", "submission_id", "working_dir", "no_wait", "attach", "stop", "list"):
        assert f"--{name}" in shown
    assert main(["submit"]) == 2
