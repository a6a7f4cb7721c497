"""`facevae evaluate` for `ray job submit --working-dir . -- python jobs/evaluate.py ...`."""

import sys

from facevae.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("evaluate", sys.argv[1:]))
