"""What the user did wrong, told in one line."""

from __future__ import annotations

EXIT_FAILURE = 1
EXIT_USAGE = 2


class UserError(Exception):
    """Something that the user can mend: told in one line, without a traceback.

    Attributes:
        exit_code: what the process exits with: EXIT_USAGE for a command line that
            cannot mean anything, EXIT_FAILURE for everything else.
    """

    def __init__(self, message: str, exit_code: int = EXIT_FAILURE) -> None:
        super().__init__(message)
        self.exit_code = exit_code
