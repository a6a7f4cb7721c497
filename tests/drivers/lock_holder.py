"""A driver that holds a folder's lock, says `held`, and waits: `lock_holder.py FOLDER`."""

import sys
import time

from facevae.runs.lock import run_lock

with run_lock(sys.argv[1], "facevae train", "job-7"):
    print("held", flush=True)
    time.sleep(100)
