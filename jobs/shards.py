"""`facevae shards` for `ray job submit --working-dir . -- python jobs/shards.py ...`."""

import sys

from facevae.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("shards", sys.argv[1:]))
