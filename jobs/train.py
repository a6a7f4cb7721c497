"""`facevae train` for `ray job submit --working-dir . -- python jobs/train.py ...`."""

import sys

from facevae.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("train", sys.argv[1:]))
