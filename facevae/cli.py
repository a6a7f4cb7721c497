"""The `facevae` command: `jobs/<command>.py` are the same commands for Ray Jobs.

Settings come from `--config FILE.yaml` and from options named as the YAML's keys are. A mistake of
the user's is one line and exit code 2. A command ends with one line per metric, `name value`, or
`name n/a` for one that there is none of.
"""

import atexit
import gc
import json
import math
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

from facevae.config.parsing import DRY_RUN, nearest, parse_config
from facevae.errors import UserError
from facevae.runs.home import provide_home
from facevae.runs.stopping import EXIT_CODE, stopping


class Command(NamedTuple):
    """A command: what it is for, the names of its configuration and of what runs it."""

    purpose: str
    config: str
    function: str

    def run(self, name: str, config: Any) -> dict[str, float]:
        """Run it; its module is imported only now, so that `facevae --help` answers at once."""
        metrics: dict[str, float] = getattr(
            import_module(f"facevae.commands.{name.replace('-', '_')}"), self.function
        )(config)
        return metrics


COMMANDS = {
    "align": Command("photographs to faces, found and cut out", "AlignConfig", "align_photographs"),
    "shards": Command("images and labels to Parquet shards", "ShardsConfig", "shard_faces"),
    "train": Command("shards to a trained VAE", "TrainConfig", "train_model"),
    "attributes": Command(
        "a VAE and shards to attribute vectors", "AttributesConfig", "compute_attributes"
    ),
    "vectors": Command(
        "stored latents to vectors anew: images withdrawn, labels corrected",
        "VectorsConfig",
        "derive_vectors",
    ),
    "edit": Command(
        "stored faces or photos, and vectors, to edited faces", "EditConfig", "edit_faces"
    ),
    "evaluate": Command(
        "a VAE and its vectors to measures on held-out images", "EvaluateConfig", "evaluate_model"
    ),
    "compare": Command(
        "evaluated models to a ranking with intervals", "CompareConfig", "compare_models"
    ),
    "import-facenet": Command(
        "the original's checkpoint to a model", "ImportFacenetConfig", "import_facenet"
    ),
    "benchmark": Command("how fast all of this is here", "BenchmarkConfig", "benchmark"),
    "quickstart": Command(
        "all of it in one command, on synthetic faces", "QuickstartConfig", "quickstart"
    ),
}
"""by name, which is that of their module in `facevae.commands`, with `_` for `-`"""
OBJECTS_A_COLLECTION = 50_000
STOPPED = "stopped; the same command goes on from here"


def _plan(name: str, config: Any) -> list[str]:
    from facevae.commands.plan import dry_run

    return dry_run(name, config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `facevae <command> ...`; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else 2
    if words[0] == "--version":
        from facevae import __version__

        print(f"facevae {__version__}")
        return 0
    if words[0] == "submit":
        return submit_command(words[1:])
    return run_command(words[0], words[1:])


def _collect_seldom() -> None:
    """Leave the search for garbage among imported packages out: a third of what `edit` takes."""
    gc.set_threshold(OBJECTS_A_COLLECTION)
    atexit.register(gc.freeze)  # or it is done once more when the process ends


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Run a command with its options; returns the exit code.

    0, or 2 for the user's mistakes, 130 and 143 for SIGINT and SIGTERM.
    """
    _collect_seldom()
    try:
        provide_home()
        options = [word for word in arguments if word not in DRY_RUN]
        config = parse(name, options)
        if len(options) < len(arguments):
            print("\n".join(_plan(name, config)))
            return 0
        with stopping(lambda: None):
            metrics = COMMANDS[name].run(name, config)
    except UserError as error:
        print(f"facevae {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"facevae {name}: {STOPPED}", file=sys.stderr)
        return 130
    except SystemExit as end:
        if end.code not in (EXIT_CODE, signal.SIGTERM):  # the second is Ray's, as it starts
            raise
        print(f"facevae {name}: {STOPPED}", file=sys.stderr)
        return EXIT_CODE
    for key, value in metrics.items():
        print(f"{key} {value:.6g}" if math.isfinite(value) else f"{key} n/a")
    return 0


def _runs_as_option(words: Sequence[str]) -> list[str]:
    """The options of `compare`, whose runs may be given as words before all others."""
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    runs = [f"--runs={json.dumps(words[:count], ensure_ascii=False)}"] if count else []
    return [*runs, *words[count:]]


def parse(name: str, arguments: Sequence[str]) -> Any:
    """The frozen configuration of a command.

    Raises:
        UserError: an unknown command or key, or a value out of range; names the nearest valid one.
    """
    if name not in COMMANDS:
        raise UserError(f"no command '{name}'{nearest(name, COMMANDS)}; see facevae --help")
    from facevae import config

    command = COMMANDS[name]
    if name == "compare":
        arguments = _runs_as_option(arguments)
    return parse_config(getattr(config, command.config), name, command.purpose, arguments)


def submit_command(words: Sequence[str]) -> int:
    """Run `facevae submit ...`; returns the job's exit code, or 2 for the user's mistakes."""
    provide_home()
    from facevae.commands import submit

    if list(words) in ([], ["-h"], ["--help"]):
        print(submit.options_parser().format_help())
        return 0 if words else 2
    try:
        options = submit.read_options(words)
        config = parse(options.command, options.arguments) if options.command else None
        return submit.run(options, config)
    except UserError as error:
        print(f"facevae submit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("facevae submit: interrupted", file=sys.stderr)
        return 130


def _help() -> str:
    commands = "\n".join(f"  {name:<16}{command.purpose}" for name, command in COMMANDS.items())
    return (
        "usage: facevae COMMAND [--config FILE.yaml] [--output DIR] [--KEY VALUE ...]\n\n"
        f"{commands}\n\n"
        "facevae submit COMMAND ... runs it on a Ray cluster; facevae submit --help says how.\n"
        "facevae COMMAND --help lists its settings, --print_config prints them as YAML,\n"
        "--dry_run prints what the command would take of the cluster, and runs nothing."
    )


if __name__ == "__main__":
    sys.exit(main())
