"""`facevae quickstart` for `ray job submit --working-dir . -- python jobs/quickstart.py ...`."""

import sys

from facevae.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("quickstart", sys.argv[1:]))
