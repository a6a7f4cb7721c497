"""`facevae shards` for `ray job submit --working-dir . -- python jobs/shards.py ...`."""

import sys

from facevae.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("shards", sys.argv[1:]))
