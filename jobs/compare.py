"""`facevae compare` for `ray job submit --working-dir . -- python jobs/compare.py ...`."""

import sys

from facevae.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("compare", sys.argv[1:]))
