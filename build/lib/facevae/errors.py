"""The one exception for a user's mistake; everything else is ours and shows a traceback."""


class UserError(ValueError):
    """A mistake the user can mend; its message is one line.

    The line says what was expected, what was found, where, and what to do. The command line prints
    it without a traceback and exits with code 2.
    """
