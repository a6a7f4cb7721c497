"""The launcher's options are told from the verb's, wherever they stand."""

import pytest

from facevae.cli import main
from facevae.submission.options import read_options


def test_options_of_the_verb_pass_through_in_order():
    options = read_options([
        "--address", "h:1", "train", "--loss.beta", "0.7", "--submission-id", "a.b",
        "--config=x.yaml", "--no-wait", "--editing.strengths", "[-2,0]", "-2", "--working_dir", "w",
    ])  # fmt: skip
    assert options.verb == "train"
    assert options.arguments == [
        "--loss.beta", "0.7", "--config=x.yaml", "--editing.strengths", "[-2,0]", "-2",
    ]  # fmt: skip
    assert (options.address, options.submission_id, options.working_dir) == ("h:1", "a.b", "w")
    assert options.no_wait
    assert not options.list


@pytest.mark.parametrize("spelling", ["--no_wait", "--no-wait"])
def test_hyphens_do_for_underscores(spelling):
    assert read_options(["train", spelling]).no_wait


def test_an_action_needs_no_verb():
    options = read_options(["--attach", "train-1", "--address", "http://h:1"])
    assert (options.verb, options.arguments, options.attach) == (None, [], "train-1")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--address h:1", "name the verb first"),
        ("--loss.beta 1 train", "name the verb first"),
        ("--attach a --stop b", "--stop: not allowed with argument --attach"),
        ("--attach", "--attach: expected one argument"),
        ("--attach a train", "take no verb or settings, found train"),
        ("--list --no_wait", "belong to a new job"),
        ("--stop ../a", "'../a' cannot be a job's id"),
        ("train --submission_id", "--submission_id/--submission-id: expected one argument"),
        ("trian", "no verb 'trian', did you mean train?"),
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


def test_an_empty_id_is_refused(capsys):
    assert main(["submit", "--stop", ""]) == 2
    assert "cannot be a job's id" in capsys.readouterr().err


def test_help_tells_all_options(capsys):
    assert main(["submit", "--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("address", "submission_id", "working_dir", "no_wait", "attach", "stop", "list"):
        assert f"--{name}" in shown
    assert main(["submit"]) == 2
