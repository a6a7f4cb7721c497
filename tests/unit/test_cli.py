"""The command line: settings from file and options, and one clear line for each mistake."""

import re
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from facevae import cli, config
from facevae.cli import main, parse, run_command
from facevae.errors import UserError


def replace_training(monkeypatch, function):
    """Have `train` call a function of the test."""
    module = SimpleNamespace(train_model=function)
    monkeypatch.setattr(cli, "import_module", {"facevae.commands.train": module}.__getitem__)


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
        ("train --loss.beta -1", "loss.beta: expected a finite number, at least 0, found '-1'"),
        (
            "train --training.steps many",
            "training.steps: expected a whole number, at least 1, found",
        ),
        ("train --model.name dfc", "model.name: expected 'dfc_vae' or"),
        ("train --training.stps=1", "did you mean --training.steps"),
        ("train --steps 1", "unknown option --steps, did you mean --training.steps?"),
        ("train --lr 1", "unknown option --lr\n"),
        ("train orphan", "orphan"),
        ("train --loss.beta", "--loss.beta: expected one argument"),
        ("train --training.horizontal_flip perhaps", "expected true or false, found 'perhaps'"),
        (
            "train --training.gradient_clip_norm x",
            "clip_norm: expected a finite number, above 0 or null, found",
        ),
        ("train --training.learning_rate inf", "training.learning_rate: expected a finite number"),
        (
            "train --loss.layers []",
            "loss.layers: expected a list of at least 1, each a text, found []",
        ),
        (
            "train --loss.layers conv1",
            "loss.layers: expected a list of at least 1, each a text, found",
        ),
        ("train --training.global_batch_size 5 --scaling.workers 6", "lower scaling.workers"),
        ("train --scaling.workers [3,2]", "scaling: workers [3, 2] is no range"),
        (
            "train --scaling.workers [2]",
            "scaling.workers: expected a whole number, at least 1 or a list of 2",
        ),
        ("train --scaling.workers 0", "expected a whole number, at least 1 or a list of 2"),
        (
            "train --scaling.workers many",
            "scaling.workers: expected a whole number, at least 1 or a list of 2",
        ),
        ("train --images DIR --file_names lfw --identities FILE", "leave one of them"),
        ("train --shards S --images DIR --attributes FILE", "give one"),
        ("train --attributes FILE", "--attributes needs --images"),
        ("train --config nowhere.yaml", "no such file of settings: nowhere.yaml"),
        ("train --config", "--config: expected one argument"),
        ("train --config --loss.beta", "--config: expected one argument"),
        (
            "train --sharding.crop [3,3]",
            "sharding.crop: expected 'auto' or 'square' or 'celeba' or a list of 4, each a whole "
            "number, found ['3', '3']\n",
        ),
        ("train --sharding.crop [3,3,1,1]", "is not a box"),
        (
            "train --training.steps null",
            "training.steps: expected a whole number, at least 1, found null,",
        ),
        ("attributes", "facevae attributes: missing --shards and --model\n"),
        ("edit --model m", "facevae edit: missing --vectors\n"),
        ("edit --model m --vectors v --editing.preset facenet_smile --editing.faces 3", "fixes"),
        ("edit --model m --vectors v Smiling=x", "expected NAME=AMOUNT with an amount other than"),
        ("edit --model m --vectors v Smiling=0", "found 'Smiling=0' in the mix"),
        ("edit --model m --vectors v A=1 A=2", "the mix has A twice"),
        ("edit --model m --vectors v A=1 --editing.mix [B=1]", "both say what to add"),
        ("edit --model m --vectors v A=1 --editing.attribute B", "both say what to add"),
        ("edit --model m --vectors v Smiling", "unknown option Smiling"),
        ("train Smiling=1", "unknown option Smiling"),
        ("edit --model m --vectors v --face 1", "face is of photos: give --image PHOTO, too"),
        (
            "edit --model m --vectors v --image p --photo_quality 9",
            "photo_quality is of jpeg and webp, and photo_format is png",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, words, expected):
    assert expected in mistake(capsys, *words.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loss: {betta: 1}", "unknown setting loss.betta, did you mean loss.beta"),
        ("los: {beta: 1}", "unknown setting los, did you mean loss?"),
        ("loss: {beta: -1}", "loss.beta: expected a finite number, at least 0"),
        ("model: {name: dfc}", "model.name: expected 'dfc_vae' or"),
        ("output: {a: 1}", "output: expected a text, not empty, found {'a': '1'}"),
        ("sources: [{name: a, image: d}]", "unknown setting sources.0.image, did you mean images"),
        ("sources: [{name: a/b, images: d}]", "sources.0.name: String should match pattern"),
        ("sources: [{name: a}]", "sources.0.images: Field required"),
        ("sources: [a.zip]", "sources: expected a list of at least 0, each a group of settings"),
        ("sources: [{name: a, images: d}]\nimages: d", "both say where the faces are; give one"),
        ("loss: 3", "loss: expected a group of settings, found '3'"),
        ("loss: [", "recipe.yaml cannot be read as YAML"),
        ("loss:\n\tbeta: 1", "recipe.yaml cannot be read as YAML"),
        (
            "training:\nloss: {beta: 1}",
            "training: expected a group of settings, found null, as which",
        ),
        (
            "training: {steps: }",
            "training.steps: expected a whole number, at least 1, found null, as",
        ),
        (
            "output: ~",
            "output: expected a text, not empty, found null, as which an empty value, null",
        ),
        ("output: ''", "output: expected a text, not empty, found ''\n"),
        (
            "model: {name: null}",
            "or leave the setting out (a text of that name stands in quotes)\n",
        ),
        ("training: {steps: 1:30}", "expected a whole number, at least 1, found '1:30'\n"),
        ("scaling: {gpu: off}", "scaling.gpu: expected 'auto' or 'yes' or 'no', found 'off'\n"),
        ("~: 3", "recipe.yaml, line 1: a setting has no name before its ':'"),
        ("loss:\n  ? null\n  : 3", "recipe.yaml, line 2: a setting has no name before its ':'"),
        (f"output: [{'x' * 99}]", f"found ['{'x' * 78}...\n"),
        ("[1, 2]", "recipe.yaml holds no settings"),
        ("", "recipe.yaml holds no settings"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(capsys, tmp_path, text, expected):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert expected in mistake(capsys, "train", "--config", str(path))


@pytest.mark.parametrize(
    ("text", "name", "first", "second"),
    [
        ("training:\n  steps: 5\nloss: {beta: 1}\ntraining:\n  seed: 1", "training", 1, 4),
        ("training:\n  steps: 5\n\n  steps: 5", "training.steps", 2, 4),
        ("training: {steps: 5, seed: 1,\n steps: 6}", "training.steps", 1, 2),
        ("output: a\n'output': b", "output", 1, 2),
        ("sharding:\n  attempts: 1\n  tries: 2", "sharding.attempts", 2, 3),
        ("loss:\n  layers:\n  - a: 1\n    a: 2", "loss.layers.a", 3, 4),
    ],
)
def test_a_setting_that_is_given_twice_is_refused_with_both_lines(
    capsys, tmp_path, text, name, first, second
):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    expected = f"{path}, line {second}: {name} is given a second time, after line {first}: leave"
    assert expected in mistake(capsys, "train", "--config", str(path))


def test_settings_of_one_name_in_two_groups_are_two(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "training: {seed: 1}\ndrawn: {seed: 2}\nloss: {layers: [a, b], layer_weights: [1, 1]}"
    )
    parsed = parse("train", [f"--config={path}"])
    assert (parsed.training.seed, parsed.drawn.seed) == (1, 2)


PATHS = {
    "align": "output images",
    "shards": "output images attributes partition identities tracking.uri tracking.register_as",
    "train": "output shards init_from loss.weights",
    "attributes": "output shards model",
    "edit": "output model vectors image identity_weights",
    "benchmark": "output against",
}


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command in PATHS for name in PATHS[command].split()]
)
def test_an_empty_path_is_not_the_current_folder(capsys, command, name):
    needed = {
        "align": ["--images=i"],
        "attributes": ["--shards=s", "--model=m"],
        "edit": ["--model=m", "--vectors=v"],
    }
    message = mistake(capsys, command, *needed.get(command, []), f"--{name}", "")
    assert re.search(
        rf"{re.escape(name)}: expected a text, not empty( or null)?, found ''\n", message
    )


@pytest.mark.parametrize(("word", "is_on"), [("yes", True), ("no", False)])
def test_yes_and_no_are_words_where_words_are_meant_and_else_true_and_false(tmp_path, word, is_on):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"scaling: {{gpu: {word}}}\ntraining: {{horizontal_flip: {word}}}")
    parsed = parse("train", [f"--config={path}"])
    assert (parsed.scaling.gpu, parsed.training.horizontal_flip) == (word, is_on)


def test_an_empty_name_of_a_file_of_settings_is_not_the_current_folder(capsys):
    assert "--config is empty: name a file" in mistake(capsys, "train", "--config", "")


def test_bytes_or_a_folder_for_a_file_of_settings_are_one_line(capsys, tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "bytes.yaml", tmp_path):
        expected = f"{path} cannot be read as YAML"
        assert expected in mistake(capsys, "train", f"--config={path}")


@pytest.mark.parametrize(
    ("error", "code"), [(UserError("no faces"), 2), (KeyboardInterrupt(), 130)]
)
def test_what_stops_a_command_is_one_line(capsys, monkeypatch, error, code):
    replace_training(monkeypatch, Mock(side_effect=error))
    assert main(["train"]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(r"facevae train: (no faces|stopped; .+)\n", shown.err)


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    replace_training(monkeypatch, Mock(side_effect=ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        main(["train"])


def test_a_command_prints_one_line_per_metric(capsys, monkeypatch):
    train = Mock(return_value={"auc/Smiling": 0.931, "n": 2.0})
    replace_training(monkeypatch, train)
    assert run_command("train", ["--loss.beta", "0.7", "--training.steps=9"]) == 0
    assert capsys.readouterr().out == "auc/Smiling 0.931\nn 2\n"
    (config,) = train.call_args.args
    assert (config.loss.beta, config.training.steps) == (0.7, 9)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_metric_without_a_value_is_printed_so(capsys, monkeypatch, value):
    replace_training(monkeypatch, Mock(return_value={"auc/Smiling": value, "n": 2.0}))
    assert run_command("train", []) == 0
    assert capsys.readouterr().out == "auc/Smiling n/a\nn 2\n"


@pytest.mark.parametrize("flag", ["--dry_run", "--dry-run"])
def test_a_dry_run_prints_the_plan_and_runs_nothing(capsys, monkeypatch, flag):
    train = Mock()
    replace_training(monkeypatch, train)
    monkeypatch.setattr(cli, "_plan", lambda name, config: [name, str(config.loss.beta)])
    assert main(["train", flag, "--loss.beta", "0.7"]) == 0
    assert capsys.readouterr().out == "train\n0.7\n"
    train.assert_not_called()


def test_a_dry_run_of_what_does_not_fit_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_plan", Mock(side_effect=UserError("lower scaling.workers")))
    assert mistake(capsys, "train", "--dry_run") == "facevae train: lower scaling.workers\n"


@pytest.mark.parametrize("file_first", [True, False])
def test_options_beat_the_file(tmp_path, file_first):
    path = tmp_path / "recipe.yaml"
    path.write_text("loss: {beta: 0.1, alfa: 0.2}")
    file, option = ["--config", str(path)], ["--loss.beta", "0.3"]
    parsed = parse("train", file + option if file_first else option + file)
    assert (parsed.loss.beta, parsed.loss.alfa) == (0.3, 0.2)


def test_a_later_file_beats_an_earlier_one(tmp_path):
    for name, text in {"a": "loss: {beta: 0.1, alfa: 0.2}", "b": "loss: {beta: 0.4}"}.items():
        (tmp_path / name).write_text(text)
    parsed = parse("train", ["--config", str(tmp_path / "a"), f"--config={tmp_path / 'b'}"])
    assert (parsed.loss.beta, parsed.loss.alfa) == (0.4, 0.2)


def test_a_value_is_a_text_where_a_text_is_meant(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "tracking: {run_name: 2024-01-01, register_as: 001, experiment: 1:30}\n"
        "scaling: {gpu: yes}\ntraining: {learning_rate: 1e-3}"
    )
    parsed = parse("train", ["--config", str(path), "--output", "007"])
    assert (parsed.tracking.run_name, parsed.scaling.gpu, parsed.output) == (
        *("2024-01-01", "yes", "007"),
    )
    assert (parsed.tracking.register_as, parsed.tracking.experiment) == ("001", "1:30")
    assert parsed.training.learning_rate == 1e-3
    assert (
        parse("train", [f"--config={path}", "--tracking.run_name=null"]).tracking.run_name is None
    )


@pytest.mark.parametrize("name", ["tries", "attempts"])
def test_a_renamed_setting_has_two_names(tmp_path, name):
    path = tmp_path / "recipe.yaml"
    path.write_text("sharding: {tries: 5}")
    assert parse("train", [f"--config={path}"]).sharding.attempts == 5
    options = [f"--config={path}", f"--sharding.{name}=6"]
    assert parse("train", options).sharding.attempts == 6


@pytest.mark.parametrize(
    "words",
    [
        "train --loss.beta 0.7 --sharding.crop [1,2,3,4] --loss.layers [conv1]",
        "train --scaling.workers [2,8]",
        "train --scaling.workers 3",
        "shards --sharding.crop square --images DIR --attributes FILE",
        "attributes --shards s --model m",
        "edit --model m --vectors v --editing.strengths [-1,0.5]",
        "edit --model m --vectors v Smiling=+2 Eyeglasses=-1",
        "edit --model m --vectors v --image p --face all --photo_format jpeg --photo_quality 9",
        "quickstart --training.ema_decay 0.9",
        "import-facenet --checkpoint c --model dfc_vae_large",
    ],
)
def test_print_config_parses_back(capsys, tmp_path, words):
    name, *options = words.split()
    with pytest.raises(SystemExit) as stopped:
        main([name, *options, "--print_config"])
    assert stopped.value.code == 0
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    assert parse(name, ["--config", str(path)]) == parse(name, options)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_has_a_module_a_job_and_its_line_of_help(capsys, name):
    root, module = Path(cli.__file__).parents[1], name.replace("-", "_")
    command = cli.COMMANDS[name]
    code = (root / "facevae" / "commands" / f"{module}.py").read_text()
    assert f"\ndef {command.function}(" in code
    assert f'run_command("{name}", ' in (root / "jobs" / f"{module}.py").read_text()
    assert main(["--help"]) == 0
    line = rf"^  {name} +{re.escape(command.purpose)}$"
    assert re.search(line, capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_describes_every_setting(capsys, name):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    shown = "".join(capsys.readouterr().out.split())
    for section in sections(getattr(config, cli.COMMANDS[name].config)):
        for field in section.model_fields.values():
            assert "".join((field.description or "").split()) in shown


def sections(model) -> list:
    inner = [
        f.annotation for f in model.model_fields.values() if hasattr(f.annotation, "model_fields")
    ]
    return [model, *(section for each in inner for section in sections(each))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: &a [x]\nb: [*a, *a]\n", "line 2: settings cannot refer"),
        ("a: " + "[" * 5000, "nested too deep"),
        ("training: {steps: 2001-99-99}", "expected a whole number, at least 1, found '2001"),
        ("training: {steps: !!bool x}", "expected a whole number, at least 1, found 'x'"),
        ("training: {steps: " + "9" * 5000 + "}", r"expected a whole number.{,110}$"),
        ("# much\n" * 20_000, "characters, settings have"),
    ],
)
def test_hostile_settings_are_one_clear_line(tmp_path, content, message):
    file = tmp_path / "settings.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=message) as refused:
        parse("train", [f"--config={file}", "--output=out"])
    assert "\n" not in str(refused.value)


def test_a_switch_needs_no_value():
    assert not parse("shards", []).sharding.align
    assert parse("shards", ["--align", "--output", "x"]).sharding.align
    assert parse("shards", ["--sharding.align"]).sharding.align
    assert not parse("shards", ["--align=false"]).sharding.align
    assert parse("train", ["--align", "true"]).sharding.align


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--sharding.crop", "celeba"], "crop celeba is of CelebA's aligned images"),
        (["--sharding.alignment.all_faces"], "with align an image has one face"),
        (["--sharding.alignment.no_face", "fail"], "with align an image has one face"),
        (["--sharding.alignment.thresholds", "[0.6, 0.7, 2]"], "sharding.alignment.thresholds"),
    ],
)
def test_what_does_not_go_with_aligned_shards_is_refused(capsys, options, found):
    assert found in mistake(capsys, "shards", "--align", *options)


def test_words_are_a_mix_and_one_attribute_needs_no_brackets():
    needed = ["--model=m", "--vectors=v"]
    mixed = parse("edit", [*needed, "Smiling=+2"]).editing
    assert (mixed.amounts, mixed.strengths) == ({"Smiling": 2.0}, (0.0, 1.0))
    both = parse("edit", ["Smiling=+2", *needed, "Eyeglasses=-0.5"]).editing
    assert both.amounts == {"Smiling": 2.0, "Eyeglasses": -0.5}
    alike = parse("edit", [*needed, "--editing.mix", "[Smiling=+2, Eyeglasses=-0.5]"]).editing
    assert alike == both
    one = parse("edit", [*needed, "--editing.attribute", "Male"]).editing
    assert (one.amounts, len(one.strengths)) == ({"Male": 1.0}, 10)


@pytest.mark.parametrize("kind", ["preset=facenet_smile", "random=3", "interpolate=[a,b]"])
def test_what_is_of_stored_faces_does_not_go_with_a_photo(capsys, kind):
    name = kind.partition("=")[0]
    found = mistake(capsys, "edit", "--model=m", "--vectors=v", "--image=p", f"--editing.{kind}")
    assert f"--editing.{name} is of stored faces, and --image gives a photo" in found
