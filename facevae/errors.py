"""The exceptions for a user's mistakes; everything else is ours and shows a traceback."""

import pickle
import struct
import zipfile
import zlib


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
