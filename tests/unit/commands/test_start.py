"""A process starts without packages that it does not use: each costs a part of a second or more."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

HEAVY = {"torch", "ray", "mlflow", "matplotlib", "scipy.cluster", "pandas"}


def imported(code: str) -> set[str]:
    """The heavy packages that a fresh Python has after it ran this code."""
    program = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return HEAVY & set(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("from facevae.cli import main; main(['--help'])", set()),
        ("from facevae.cli import parse; parse('edit', '--model m --vectors v'.split())", set()),
        ("import facevae.commands.edit", {"torch", "mlflow", "pandas"}),  # MLflow imports pandas
        ("from facevae.data.order import ReadWindow", set()),  # a reader of training images
    ],
)
def test_it_imports_what_it_uses(code, allowed):
    assert imported(code) <= allowed


def test_garbage_is_not_looked_for_among_imports():
    code = (
        "import atexit, gc, facevae.cli as cli\n"
        "atexit.register(lambda: print('frozen', gc.get_freeze_count() > 0))\n"
        "cli.run_command('edit', ['--no_such_option'])\n"
        "print('threshold', gc.get_threshold()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["threshold", "50000", "frozen", "True"]
