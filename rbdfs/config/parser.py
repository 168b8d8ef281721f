"""What argparse is given beside its own: errors as UserError, help from the tables, values."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from rbdfs.config import option_values
from rbdfs.errors import EXIT_USAGE, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)", EXIT_USAGE)


class Help(argparse.Action):
    """Prints the help of a command (const), or of all there is, and ends the process."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        _namespace: argparse.Namespace,
        _values: str | Sequence[Any] | None,
        _option: str | None = None,
    ) -> NoReturn:
        # A mount has no use for all these words.
        from rbdfs.config.help_text import help_text

        sys.stdout.write(help_text(self.const))
        parser.exit()


def _argument(read: Callable[[str], Any], refusal: str) -> Callable[[str], Any]:
    """Return *read*, of option_values, for argparse: *refusal* has a place for the text."""

    def parsed(text: str) -> Any:
        try:
            return read(text)
        except ValueError:
            raise argparse.ArgumentTypeError(refusal.format(text)) from None

    return parsed


level = _argument(option_values.log_level, "not debug, info, warning or error: {}")
client = _argument(option_values.client, "not the id of a client: {!a}")
seconds = _argument(option_values.parse_seconds, "not a number of seconds above 0, up to 86400: {}")
address = _argument(
    option_values.listen_address,
    f"not ADDR:PORT or a path of up to {option_values.SOCKET_PATH_BYTES} bytes: {{}}",
)
