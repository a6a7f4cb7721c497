"""`facevae vectors` for `ray job submit --working-dir . -- python jobs/vectors.py ...`."""

import sys

from facevae.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("vectors", sys.argv[1:]))
