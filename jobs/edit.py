"""`facevae edit` for `ray job submit --working-dir . -- python jobs/edit.py ...`."""

import sys

from facevae.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("edit", sys.argv[1:]))
