"""Libraries that only some features need, and an installation may be without."""

from __future__ import annotations

import importlib.util

from rbdfs.errors import UserError


def require(module: str, what: str, extra: str, package: str) -> None:
    """Raise UserError unless *module* is there: *what* needs it, and who brings it along."""
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"{what} needs {module}, which is not installed: apt-get install {package}, or with"
            f" pip rbdfs[{extra}]"
        )


def require_metrics(what: str) -> None:
    """Raise UserError unless there is what *what* needs to show metrics."""
    require("prometheus_client", what, "metrics", "python3-prometheus-client")
