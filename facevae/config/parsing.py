"""Settings from a YAML file and the command line; what is wrong with them is one plain line."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from facevae.config.base import Settings
from facevae.errors import UserError

DRY_RUN = ("--dry_run", "--dry-run")


def parse_config(
    model: type[Settings], command: str, purpose: str, arguments: Sequence[str]
) -> Settings:
    """The settings of a command, from `--config FILE.yaml` and from options, which beat the file.

    Args:
        model: the command's settings.
        command: its name, for the help.
        purpose: what it is for, for the help.
        arguments: the words after the command's name.

    Raises:
        UserError: an unknown key, or a value out of range; names the nearest valid one.
    """
    from jsonargparse import ArgumentError, ArgumentParser
    from pydantic import ValidationError

    parser = ArgumentParser(
        usage=f"facevae {command} [--config FILE.yaml] [--KEY VALUE ...] [--dry_run]",
        description=purpose,
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
            raise UserError(f"unknown option {option}{nearest(option, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
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
        return f"unknown setting {key}{nearest(key, keys)}"
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
