"""The `facevae` command: one verb per job; `jobs/<verb>.py` are the same verbs for Ray Jobs.

Settings come from `--config FILE.yaml` and from options named as the YAML's keys are. A mistake of
the user's is one line and exit code 2. A verb ends with one line a figure, `name value`.
"""

import atexit
import difflib
import gc
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from facevae.errors import UserError
from facevae.verbs.stopping import EXIT_CODE, stopping

Figures = dict[str, float]


class Verb(NamedTuple):
    """A verb: what it is for, the name of its configuration, and what runs it."""

    purpose: str
    config: str
    run: Callable[[Any], Figures]


def _shards(config: Any) -> Figures:
    from facevae.verbs.shards import shard_faces

    return shard_faces(config)


def _train(config: Any) -> Figures:
    from facevae.verbs.train import train_model

    return train_model(config)


def _attributes(config: Any) -> Figures:
    from facevae.verbs.attributes import compute_attributes

    return compute_attributes(config)


def _edit(config: Any) -> Figures:
    from facevae.verbs.edit import edit_faces

    return edit_faces(config)


def _quickstart(config: Any) -> Figures:
    from facevae.verbs.quickstart import quickstart

    return quickstart(config)


def _benchmark(config: Any) -> Figures:
    from facevae.verbs.benchmark import benchmark

    return benchmark(config)


# Each verb imports its package when it runs, so that `facevae --help` answers at once.
VERBS = {
    "shards": Verb("images and labels to Parquet shards", "ShardsConfig", _shards),
    "train": Verb("shards to a trained VAE", "TrainConfig", _train),
    "attributes": Verb("a VAE and shards to attribute vectors", "AttributesConfig", _attributes),
    "edit": Verb("stored faces and a vector to edited faces", "EditConfig", _edit),
    "benchmark": Verb("how fast all of this is here", "BenchmarkConfig", _benchmark),
    "quickstart": Verb("all of it in one command, on drawn faces", "QuickstartConfig", _quickstart),
}


OBJECTS_A_COLLECTION = 50_000
STOPPED = "stopped; the same command goes on from here"
DRY_RUN = ("--dry_run", "--dry-run")


def _plan(name: str, config: Any) -> list[str]:
    from facevae.verbs.plan import dry_run

    return dry_run(name, config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `facevae <verb> ...`; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else 2
    if words[0] == "--version":
        from facevae import __version__

        print(f"facevae {__version__}")
        return 0
    if words[0] == "submit":
        return submit_verb(words[1:])
    return run_verb(words[0], words[1:])


def _collect_seldom() -> None:
    """Leave the search for garbage among imported packages out: a third of what `edit` takes."""
    gc.set_threshold(OBJECTS_A_COLLECTION)
    atexit.register(gc.freeze)  # or it is done once more when the process ends


def run_verb(name: str, arguments: Sequence[str]) -> int:
    """Run a verb with its options; returns the exit code.

    0, or 2 for the user's mistakes, 130 and 143 for SIGINT and SIGTERM.
    """
    _collect_seldom()
    try:
        if name not in VERBS:
            raise UserError(f"no verb '{name}'{_nearest(name, VERBS)}; see facevae --help")
        options = [word for word in arguments if word not in DRY_RUN]
        config = parse(name, options)
        if len(options) < len(arguments):
            print("\n".join(_plan(name, config)))
            return 0
        with stopping(lambda: None):
            figures = VERBS[name].run(config)
    except UserError as error:
        print(f"facevae {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"facevae {name}: {STOPPED}", file=sys.stderr)
        return 130
    except SystemExit as end:
        if end.code != EXIT_CODE:
            raise
        print(f"facevae {name}: {STOPPED}", file=sys.stderr)
        return EXIT_CODE
    for key, value in figures.items():
        print(f"{key} {value:.6g}")
    return 0


def submit_verb(words: Sequence[str]) -> int:
    """Run `facevae submit ...`; returns the job's exit code, or 2 for the user's mistakes."""
    from facevae.submission import command

    if list(words) in ([], ["-h"], ["--help"]):
        print(command.options_parser().format_help())
        return 0 if words else 2
    try:
        options = command.read_options(words)
        config = parse(options.command, options.arguments) if options.command else None
        return command.run(options, config)
    except UserError as error:
        print(f"facevae submit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("facevae submit: interrupted", file=sys.stderr)
        return 130


def parse(name: str, arguments: Sequence[str]) -> Any:
    """The frozen configuration of a verb.

    Raises:
        UserError: an unknown verb or key, or a value out of range; names the nearest valid one.
    """
    if name not in VERBS:
        raise UserError(f"no verb '{name}'{_nearest(name, VERBS)}; see facevae --help")
    from jsonargparse import ArgumentError, ArgumentParser
    from pydantic import ValidationError

    from facevae import config as settings

    model = getattr(settings, VERBS[name].config)
    parser = ArgumentParser(
        usage=f"facevae {name} [--config FILE.yaml] [--KEY VALUE ...] [--dry_run]",
        description=VERBS[name].purpose,
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="YAML file of settings")
    parser.add_class_arguments(model)
    _check_options(arguments, set(_keys(model)))
    try:
        values = parser.parse_args(_files_first(arguments)).as_dict()
        values.pop("config")
        return model.model_validate(values)
    except ArgumentError as error:
        raise UserError(_one_line(str(error), set(_keys(model)))) from error
    except ValidationError as error:
        raise UserError("; ".join(_problem(each) for each in error.errors())) from error


def _keys(model: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of all settings."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if hasattr(field.annotation, "model_fields"):
            yield from _keys(field.annotation, f"{prefix}{name}.")


def _files_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with the files of settings in front, so that options beat them."""
    files, options = [], []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option == "--config":
            file = value if equals else next(words, "")
            _check_file(file)
            files.append(f"--config={file}")
        else:
            options.append(word)
    return files + options


MAX_SETTINGS_BYTES, MAX_DEPTH = 100_000, 20


def _check_file(name: str) -> None:
    import yaml

    if not name or name.startswith("--"):
        raise UserError("--config needs the name of a YAML file after it")
    try:
        content = Path(name).read_bytes()
        if len(content) > MAX_SETTINGS_BYTES:
            raise UserError(
                f"{name} has {len(content)} bytes, settings have {MAX_SETTINGS_BYTES} at most: is "
                "it the right file?"
            )
        text = content.decode("utf-8")
        _check_structure(name, text)
        value = yaml.safe_load(text)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"no such file of settings: {name}") from error
    except UserError:
        raise
    # A date that is none, and a number too long, are plain ValueErrors.
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()).replace('in "<unicode string>", ', "at ")
        raise UserError(f"{name} cannot be read as YAML: {reason}") from error
    if not isinstance(value, dict):
        raise UserError(
            f"{name} holds no settings: expected lines 'key: value', found {repr(value)[:40]}"
        )


def _check_structure(name: str, text: str) -> None:
    """Refuse what makes a small file a huge value: references, which multiply, and deep nesting."""
    import yaml

    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise UserError(
                f"{name}, line {line}: settings cannot refer to others by '*': repeat them"
            )
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise UserError(f"{name}, line {line}: settings are nested too deep")


def _check_options(arguments: Sequence[str], keys: set[str]) -> None:
    for word in arguments:
        option = word.partition("=")[0]
        known = {f"--{key}" for key in keys} | {"--config", "--print_config", "--help", *DRY_RUN}
        if option.startswith("--") and option not in known:
            raise UserError(f"unknown option {option}{_nearest(option, known)}")


def _nearest(name: str, known: Any) -> str:
    """A hint at the known name meant; one with the same last part needs no other likeness."""
    plain = {key.lstrip("-"): key for key in known}
    name = name.lstrip("-")
    same_end = [key for key in plain if key.rpartition(".")[2] == name.rpartition(".")[2]]
    cutoff = 0 if same_end else 0.5
    close = difflib.get_close_matches(name, same_end or list(plain), n=1, cutoff=cutoff)
    return f", did you mean {plain[close[0]]}?" if close else ""


def _one_line(message: str, keys: set[str]) -> str:
    """Jsonargparse's several lines, cut down to what was wrong and where."""
    group = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
    option = re.search(r"Option '([\w.]+)' is not accepted", message)
    if group or option:
        key = f"{group[1]}.{group[2]}" if group else option[1] if option else ""
        return f"unknown setting {key}{_nearest(key, keys)}"
    missing = re.search(r"arguments are required: (.+)", message)
    if missing:
        return "missing " + " and ".join(f"--{key}" for key in missing[1].split(", "))
    where = re.search(r'"([\w.]+)"', message)
    what = re.search(r"((?:Input|Tuple|String) should [^\[\n]+?)\s*(\[|$|\n)", message)
    found = re.search(r"(?:Got|Given) value: (.+)|input_value=([^,]+),", message)
    if where and what:
        value = next(filter(None, found.groups()), "") if found else ""
        return f"{where[1]}: {_plain(what[1])}" + (f", found {value.strip()}" if value else "")
    expected = dict.fromkeys(re.findall(r"Expected (?:an? )?([^\n]+?)(?:\.? Got|\n|$)", message))
    if where and found and expected:
        choices = " or ".join(_plain(each) for each in expected)
        return f"{where[1]}: expected {choices}, found {str(found[1]).strip()}"
    return _plain(message)


_PLAIN = {
    r"typing\.Literal\[(.*?)\]": r"one of \1",
    r"<class 'NoneType'>": "null",
    r"<class 'bool'>": "true or false",
    r"<class 'float'>": "a number",
    r"<class 'int'>": "a whole number",
    r"<class 'str'>": "a text",
    r"<class 'tuple'>|\bvalid tuple\b": "list",
    r"\btuple with (\d+) elements": r"a list of \1 values",
    r"\bTuple should": "List should",
    r"\bvalid dictionary or instance of \w+": "group of settings",
}
"""what Python calls a type, and what the user calls it"""


def _plain(message: str) -> str:
    """The message in one line, without the names that Python gives to types."""
    message = " ".join(message.split())
    for pattern, words in _PLAIN.items():
        message = re.sub(pattern, words, message)
    return re.sub(r'^Parser key "([\w.]+)":', r"\1:", message)


def _problem(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    message = _plain(str(error["msg"]).removeprefix("Value error, "))
    found = "" if error["type"] == "value_error" else f", found {error['input']!r}"
    return f"{where}: {message}{found}" if where else message


def _help() -> str:
    verbs = "\n".join(f"  {name:<12}{verb.purpose}" for name, verb in VERBS.items())
    return (
        "usage: facevae VERB [--config FILE.yaml] [--output DIR] [--KEY VALUE ...]\n\n"
        f"{verbs}\n\n"
        "facevae submit VERB ... runs a verb on a Ray cluster; facevae submit --help says how.\n"
        "facevae VERB --help lists the settings of a verb, --print_config prints them as YAML,\n"
        "--dry_run prints what the verb would take of the cluster, and runs nothing."
    )


if __name__ == "__main__":
    sys.exit(main())
