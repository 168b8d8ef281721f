"""``python3 -m rbdfs``: the same as rbdfs."""

from __future__ import annotations

import sys

from rbdfs.cli import main

if __name__ == "__main__":
    sys.exit(main())
