"""Answers on stdout."""

from __future__ import annotations

import json


def print_json(answer: object) -> None:
    """Print *answer* as people read JSON, too."""
    print(json.dumps(answer, indent=2))
