"""rbdfs whose keeper loses its patience at once: `python tests/support/impatient.py ARGUMENT...`.

Between deaths of servers in a row it does not wait. The ARGUMENTS are those of rbdfs.
"""

from __future__ import annotations

import sys

from rbdfs.keeper import endurance

if __name__ == "__main__":
    from rbdfs.cli import main

    endurance._PAUSES_S = (0.0,) * len(endurance._PAUSES_S)  # type: ignore[assignment]
    sys.exit(main(sys.argv[1:]))
