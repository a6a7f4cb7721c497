"""`facevae align` for `ray job submit --working-dir . -- python jobs/align.py ...`."""

import sys

from facevae.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("align", sys.argv[1:]))
