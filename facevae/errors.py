"""The exceptions for a user's mistakes; everything else is ours and shows a traceback."""

import contextlib
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator


class UserError(ValueError):
    """A mistake the user can mend; its message is one line.

    The line says what was expected, what was found, where, and what to do. The command line prints
    it without a traceback and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        # What it quotes of a user's file may hold any of the characters that end a line.
        super().__init__(" ".join(message.splitlines()))


class TooSmallError(UserError):
    """The cluster does not hold what was asked for."""


class UnreachableError(UserError):
    """A store does not answer, or not as it should; it may a moment later."""


UNREADABLE = (
    *(OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, AssertionError, MemoryError, SyntaxError, pickle.UnpicklingError),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)
"""what readers of binary files (torch, numpy, h5py, Arrow) raise for damaged ones: it depends on
where they trip; a UserError is among them"""


@contextlib.contextmanager
def refuse_damaged(what: str, remedy: str, *, missing: str | None = None) -> Iterator[None]:
    """A block that reads a binary file; what damage makes the reader raise becomes one line.

    Args:
        what: what is damaged, and where: the beginning of the line.
        remedy: what to do.
        missing: the line for a file that is not there; none: it counts as damaged.

    Raises:
        UserError: the file is damaged or missing.
    """
    try:
        yield
    except UserError:
        raise
    except UNREADABLE as error:
        if missing is not None and isinstance(error, FileNotFoundError | IsADirectoryError):
            raise UserError(missing) from error
        reason = " ".join(str(error).split())
        raise UserError(f"{what} ({reason}); {remedy}") from error
