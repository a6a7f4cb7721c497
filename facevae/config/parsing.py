"""Settings from YAML files and the command line; what is wrong with them is one plain line."""

import argparse
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from facevae.config.base import OLD_NAMES, Settings
from facevae.errors import UserError

DRY_RUN = ("--dry_run", "--dry-run")
MAX_SETTINGS_LENGTH, MAX_DEPTH = 100_000, 20
MAX_FOUND = 80
"""characters of a wrong value that are quoted"""
SHORT_NAMES = {"sharding.align": "align"}
"""settings that an option names without their group"""
_NEW_NAMES = {old: name for name, old in OLD_NAMES.items()}


class _Loader(yaml.BaseLoader):
    """YAML whose values are texts or null; pydantic makes of them what a setting takes."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^(null|~|)$"), ["n", "~", ""])
_Loader.add_constructor("tag:yaml.org,2002:null", lambda *_: None)


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
        SystemExit: help or the settings were asked for, and are printed.
    """
    schemas = dict(_schemas(model))
    options = _read_options(schemas, command, purpose, arguments, model.WORDS)
    is_printed = options.pop("print_config")
    values: dict[str, Any] = {}
    for name in options.pop("config"):
        _merge(values, _read_file(name))
    for key, text in options.items():
        value: Any = text if isinstance(text, list) else _option_value(text)
        for part in reversed(key.split(".")):
            value = {part: value}
        _merge(values, value)
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    missing = [name for name in required if name not in values]
    if missing and not is_printed:
        raise UserError("missing " + " and ".join(f"--{name}" for name in missing))
    try:
        settings = model.model_validate(values | dict.fromkeys(missing, "missing"))
    except ValidationError as error:
        problems = dict(_problem(each, schemas) for each in reversed(error.errors()))
        raise UserError("; ".join(reversed(problems.values()))) from error
    if is_printed:
        values = settings.model_dump(mode="json") | dict.fromkeys(missing)
        print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")
        raise SystemExit(0)
    return settings


def _schemas(model: type[Settings], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON schemas of all settings by dotted name, each group's before those of its members."""
    properties = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        key, group = prefix + name, field.annotation
        if isinstance(group, type) and issubclass(group, Settings):
            what = field.description or (group.__doc__ or "").splitlines()[0]
            yield key, {"type": "object", "description": what}
            yield from _schemas(group, f"{key}.")
        else:
            yield key, properties[name]


def _read_options(
    schemas: Mapping[str, Any],
    command: str,
    purpose: str,
    arguments: Sequence[str],
    words_of: str | None,
) -> dict[str, Any]:
    """The values of the options that are given, and those of `config` and `print_config`.

    Words NAME=AMOUNT without an option are a list, the value of the setting `words_of`, if any.
    """
    amounts = " [NAME=AMOUNT ...]" if words_of else ""
    parser = argparse.ArgumentParser(
        usage=f"facevae {command} [--config FILE.yaml] [--KEY VALUE ...] [--dry_run]{amounts}",
        description=purpose,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        exit_on_error=False,
    )
    add = parser.add_argument
    add("--config", metavar="FILE.yaml", action="append", default=[], help="file of settings")
    add("--print_config", action="store_true", default=False, help="print the settings as YAML")
    groups: dict[str, Any] = {"": parser}
    for key, schema in schemas.items():
        group, dot, name = key.rpartition(".")
        if schema.get("type") == "object":
            groups[key] = parser.add_argument_group(key, schema["description"])
            continue
        names = [f"{group}{dot}{each}" for each in (name, OLD_NAMES.get(name)) if each]
        if key in SHORT_NAMES:
            names.append(SHORT_NAMES[key])
        default = json.dumps(schema["default"]) if "default" in schema else "none, it is required"
        facts = f"{schema['description']} ({_expected(schema)}; default: {default})"
        groups[group].add_argument(
            *(f"--{each}" for each in names),
            dest=key,
            **({"nargs": "?", "const": "true"} if schema.get("type") == "boolean" else {}),
            metavar="VALUE",
            help=facts.replace("%", "%%"),
        )
    try:
        options, others = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UserError(str(error).removeprefix("argument ")) from error
    words = [
        word for word in others if words_of and "=" in word and not word.startswith(("-", "="))
    ]
    if words and words_of in vars(options):
        raise UserError(f"{words[0]} and --{words_of} both say what to add; leave one of them out")
    for option in (word.partition("=")[0] for word in others if word not in words):
        known = [*DRY_RUN, *(f"--{key}" for key in (*schemas, "config", "print_config", "help"))]
        raise UserError(f"unknown option {option}{nearest(option, known)}")
    return vars(options) | ({words_of: words} if words and words_of else {})


def _option_value(text: str) -> Any:
    """The value of an option: a list as in YAML, else the text as it is, or null."""
    return _read_yaml(text, text) if text.startswith("[") else None if text == "null" else text


def _read_file(name: str) -> Any:
    """The settings in a YAML file."""
    if not name:
        raise UserError("--config is empty: name a file of settings")
    try:
        value = _read_yaml(name, Path(name).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"no such file of settings: {name}") from error
    except (OSError, UnicodeError) as error:
        raise UserError(f"{name} cannot be read as YAML: {error}") from error
    if not isinstance(value, dict):
        found = repr(value)[:40]
        raise UserError(f"{name} holds no settings: expected lines 'key: value', found {found}")
    return value


def _read_yaml(where: str, text: str) -> Any:
    """The value of a YAML text.

    What makes a small text a huge value is refused: references, which multiply, and deep nesting.
    So is a setting that is given twice, of which YAML keeps the last.
    """
    if len(text) > MAX_SETTINGS_LENGTH:
        raise UserError(
            f"{where} has {len(text)} characters, settings have {MAX_SETTINGS_LENGTH} at most: is "
            "it the right file?"
        )
    depth = 0
    try:
        for event in yaml.parse(text, _Loader):
            place = f"{where}, line {event.start_mark.line + 1 if event.start_mark else 1}"
            if isinstance(event, yaml.AliasEvent):
                raise UserError(f"{place}: settings cannot refer to others by '*': repeat them")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise UserError(f"{place}: settings are nested too deep")
        _check_names(yaml.compose(text, _Loader), where)
        return yaml.load(text, _Loader)  # noqa: S506  (it makes nothing but texts)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split()).replace('in "<unicode string>", ', "at ")
        raise UserError(f"{where} cannot be read as YAML: {reason}") from error


def _check_names(node: yaml.Node | None, where: str, above: str = "") -> None:
    """Check that all settings have names, and each its own.

    Args:
        node: what YAML found.
        where: the file.
        above: the names of the groups that hold it, each with a dot behind it.

    Raises:
        UserError: one has no name, or is given twice; names the lines.
    """
    lines: dict[str, int] = {}
    for entry in node.value if isinstance(node, yaml.CollectionNode) else []:
        if not isinstance(entry, tuple):
            _check_names(entry, where, above)
            continue
        key, value = entry
        line = key.start_mark.line + 1
        if key.tag == "tag:yaml.org,2002:null":
            raise UserError(
                f"{where}, line {line}: a setting has no name before its ':' (an empty one, null "
                "and ~ are none): write 'key: value'"
            )
        if isinstance(key, yaml.ScalarNode):
            name = str(_NEW_NAMES.get(key.value, key.value))
            if name in lines:
                raise UserError(
                    f"{where}, line {line}: {above}{name} is given a second time, after line "
                    f"{lines[name]}: leave one of them, with all that belongs into it"
                )
            lines[name] = line
            _check_names(value, where, f"{above}{name}.")


def _merge(values: dict[str, Any], others: Mapping[str, Any]) -> None:
    """Replace settings by others, group by group."""
    for name, value in others.items():
        if isinstance(value, dict) and isinstance(values.get(name), dict):
            _merge(values[name], value)
        else:
            values[name] = value


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the known name meant; one with the same last part needs no other likeness."""
    plain = {key.lstrip("-"): key for key in known}
    name = name.lstrip("-")
    same_end = [key for key in plain if key.rpartition(".")[2] == name.rpartition(".")[2]]
    cutoff = 0 if same_end else 0.5
    close = difflib.get_close_matches(name, same_end or list(plain), n=1, cutoff=cutoff)
    return f", did you mean {plain[close[0]]}?" if close else ""


def _problem(error: Any, schemas: Mapping[str, Any]) -> tuple[str, str]:
    """Where pydantic found something wrong, and the line that says so."""
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        is_in_list = any(isinstance(part, int) for part in error["loc"])
        name = str(error["loc"][-1]) if is_in_list else where
        return where, f"unknown setting {where}{nearest(name, schemas)}"
    # Behind the name of the setting may be one of its types, and a place in a list.
    key = next((key for key in reversed([*schemas]) if f"{where}.".startswith(f"{key}.")), where)
    if error["type"] == "value_error" or key not in schemas:
        message = str(error["msg"]).removeprefix("Value error, ")
        return where, f"{where}: {message}" if where else message
    if "$ref" in schemas[key].get("items", {}) and where.removeprefix(f"{key}.").count("."):
        return where, f"{where}: {error['msg']}, found {_found(error['input'])}"
    return key, f"{key}: expected {_expected(schemas[key])}, found {_found(error['input'])}"


def _found(value: Any) -> str:
    """A wrong value as it was read."""
    if value is None:
        return (
            "null, as which an empty value, null and ~ are read: write a value, or leave the "
            "setting out (a text of that name stands in quotes)"
        )
    text = repr(value)
    return text if len(text) <= MAX_FOUND else f"{text[:MAX_FOUND]}..."


_WORDS = {
    **{"integer": "a whole number", "number": "a finite number", "string": "a text"},
    **{"boolean": "true or false", "null": "null", "object": "a group of settings"},
    **{"minimum": "at least {}", "exclusiveMinimum": "above {}", "minLength": "not empty"},
    **{"maximum": "at most {}", "exclusiveMaximum": "below {}"},
}
"""the types and limits of a JSON schema, and what the user calls them"""


def _expected(schema: Mapping[str, Any]) -> str:
    """The values that a JSON schema allows, in words."""
    if "$ref" in schema:
        return "a group of settings"
    if "anyOf" in schema:
        return " or ".join(map(_expected, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " or ".join(map(repr, schema.get("enum") or [schema["const"]]))
    if schema["type"] == "array":
        size = schema.get("maxItems") or f"at least {schema.get('minItems', 0)}"
        each = schema["items"] if "items" in schema else schema["prefixItems"][0]
        return f"a list of {size}, each {_expected(each)}"
    limits = [words.format(schema[name]) for name, words in _WORDS.items() if name in schema]
    return ", ".join([_WORDS[schema["type"]], *limits])
