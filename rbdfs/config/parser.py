"""What argparse is given beside its own: errors as UserError, help from the tables, values."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from rbdfs.config import option_values
from rbdfs.errors import EXIT_USAGE, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence


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


def level(text: str) -> str:
    try:
        return option_values.log_level(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not debug, info, warning or error: {text}") from None


def client(text: str) -> str:
    try:
        return option_values.client(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not the id of a client: {text!a}") from None


def address(text: str) -> str:
    try:
        return option_values.listen_address(text)
    except ValueError:
        path = f"a path of up to {option_values.SOCKET_PATH_BYTES} bytes"
        raise argparse.ArgumentTypeError(f"not ADDR:PORT or {path}: {text}") from None
