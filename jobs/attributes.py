"""`facevae attributes` for `ray job submit --working-dir . -- python jobs/attributes.py ...`."""

import sys

from facevae.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("attributes", sys.argv[1:]))
