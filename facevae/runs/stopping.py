"""SIGTERM, as `ray job stop` sends it: the work is made safe, then the program ends."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM


@contextlib.contextmanager
def stopping(make_safe: Callable[[], None]) -> Iterator[None]:
    """A block that SIGTERM ends with exit code 143, when `make_safe` has run; a second one at once.

    Outside the main thread, where signals do not arrive, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_asked, is_ending = threading.Event(), threading.Event()

    def make_safe_and_end() -> None:
        try:
            make_safe()
        finally:
            if not is_ending.is_set():
                os.kill(os.getpid(), signal.SIGTERM)  # it ends what the main thread waits for

    def handle(_number: int, _frame: FrameType | None) -> None:
        if is_asked.is_set():
            is_ending.set()
            raise SystemExit(EXIT_CODE)
        is_asked.set()
        threading.Thread(target=make_safe_and_end, daemon=True).start()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    except BaseException:
        if is_ending.is_set():  # whatever Ray made of it
            raise SystemExit(EXIT_CODE) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
