"""SIGTERM, as `ray job stop` sends it: the work is made safe, then the program ends."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM


@contextlib.contextmanager
def stopping(make_safe: Callable[[], None]) -> Iterator[None]:
    """A block that SIGTERM ends with exit code 143, when `make_safe` has run; a second one at once.

    Python runs its own handlers late, up to a second while it waits for Ray; of the three seconds
    that a stopped job has this would be too much, so a thread hears of the signal by itself.
    Outside the main thread, where signals do not arrive, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_safe = threading.Event()
    here, there = socket.socketpair()
    there.setblocking(False)

    def end(_number: int, _frame: FrameType | None) -> None:
        if is_safe.is_set():
            raise SystemExit(EXIT_CODE)

    def end_now() -> None:
        if not is_safe.is_set():
            is_safe.set()
            os.kill(os.getpid(), signal.SIGTERM)

    def make_safe_and_end() -> None:
        try:
            make_safe()
        finally:
            end_now()

    def hear() -> None:
        is_first = True
        while heard := here.recv(1):
            if heard[0] == signal.SIGTERM and is_first:
                is_first = False
                threading.Thread(target=make_safe_and_end, daemon=True).start()
            elif heard[0] == signal.SIGTERM:
                end_now()

    before = signal.signal(signal.SIGTERM, end)
    woken = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=hear, daemon=True)
    listener.start()
    try:
        yield
    except BaseException:
        if is_safe.is_set():  # whatever Ray made of it
            raise SystemExit(EXIT_CODE) from None
        raise
    finally:
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGTERM, before)
        there.close()
        listener.join()
        here.close()
