"""`facevae edit` for `ray job submit --working-dir . -- python jobs/edit.py ...`."""

import sys

from facevae.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("edit", sys.argv[1:]))
