"""The error that a user can fix."""


class UserError(ValueError):
    """An error that only the user can fix. The command line prints a line for each message, without a traceback.

    A message names the key, file or row, and the fix.
    """

    def __str__(self) -> str:
        return "\n".join(self.args)


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error, or its type if it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
