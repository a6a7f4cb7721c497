"""The command line: settings from file and options, and one clear line for each mistake."""

from pathlib import Path

import pytest
import yaml

from facevae import cli, config
from facevae.cli import Verb, main, parse, run_verb

RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def mistake(capsys, *words: str) -> str:
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1, shown.err
    assert "Traceback" not in shown.err
    return shown.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("trian", "did you mean train"),
        ("train --loss.betta 1", "did you mean --loss.beta"),
        ("train --training.stps 1", "did you mean --training.steps"),
        ("train --loss.beta -1", "loss.beta: Input should be greater than or equal to 0"),
        ("train --training.steps many", "training.steps: Input should be a valid integer"),
        ("train --model.name dfc", "model.name: Expected one of 'dfc_vae'"),
        ("train --training.global_batch_size 5 --scaling.workers 2", "choose a multiple"),
        ("train --images DIR", "--images needs --attributes"),
        ("train --attributes FILE", "--attributes needs --images"),
        ("train --config nowhere.yaml", "nowhere.yaml"),
        ("train --sharding.crop [3,3]", "sharding.crop"),
        ("train --sharding.crop [3,3,1,1]", "is not a box"),
        ("attributes", "shards, model"),
        ("edit --model m --vectors v --editing.preset facenet_smile --editing.faces 3", "fixes"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, words, expected):
    assert expected in mistake(capsys, *words.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loss: {betta: 1}", "unknown setting loss.betta, did you mean loss.beta"),
        ("los: {beta: 1}", "unknown setting los.beta, did you mean loss.beta"),
        ("loss: {beta: -1}", "loss.beta: Input should be greater than or equal to 0"),
        ("loss: [", "parsing config"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(capsys, tmp_path, text, expected):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert expected in mistake(capsys, "train", "--config", str(path))


def test_a_verb_prints_one_line_a_figure(capsys, monkeypatch):
    seen = []
    verb = Verb("", "TrainConfig", lambda c: seen.append(c) or {"auc/Smiling": 0.931, "n": 2.0})
    monkeypatch.setitem(cli.VERBS, "train", verb)
    assert run_verb("train", ["--loss.beta", "0.7", "--training.steps=9"]) == 0
    assert capsys.readouterr().out == "auc/Smiling 0.931\nn 2\n"
    assert (seen[0].loss.beta, seen[0].training.steps) == (0.7, 9)


def test_options_beat_the_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("loss: {beta: 0.1, alfa: 0.2}")
    parsed = parse("train", ["--config", str(path), "--loss.beta", "0.3"])
    assert (parsed.loss.beta, parsed.loss.alfa) == (0.3, 0.2)


def test_print_config_parses_back(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--loss.beta", "0.7", "--print_config"])
    assert stopped.value.code == 0
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    assert parse("train", ["--config", str(path)]) == parse("train", ["--loss.beta", "0.7"])


@pytest.mark.parametrize("name", cli.VERBS)
def test_help_describes_every_setting(capsys, name):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    shown = "".join(capsys.readouterr().out.split())
    for section in sections(getattr(config, cli.VERBS[name].config)):
        for field in section.model_fields.values():
            assert "".join((field.description or "").split()) in shown


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is_for_and_parses(path):
    head = [line for line in path.read_text().splitlines()[:8] if line.startswith("#")]
    for word in ("Command:", "Hardware:", "Time:", "Expect:"):
        assert any(word in line for line in head), word
    parsed = parse("train", ["--config", str(path)])
    assert parsed.output == f"runs/{path.stem}"
    if path.stem == "quickstart":
        assert parse("quickstart", ["--config", str(path)]).training == parsed.training
    else:
        assert parsed.model.name == path.stem
        assert parsed.training.steps == 50_000
        assert parsed.loss.layers == ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")
    assert yaml.safe_load(path.read_text())


def sections(model) -> list:
    inner = [
        f.annotation for f in model.model_fields.values() if hasattr(f.annotation, "model_fields")
    ]
    return [model, *(section for each in inner for section in sections(each))]


@pytest.mark.parametrize("verb", cli.VERBS.values(), ids=list(cli.VERBS))
def test_every_setting_has_a_description(verb):
    for section in sections(getattr(config, verb.config)):
        for name, field in section.model_fields.items():
            assert field.description or hasattr(field.annotation, "model_fields"), name
