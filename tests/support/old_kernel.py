"""rbdfs on a kernel that numbers no mount for good (before 6.8): `python FILE ARGUMENT...`.

The ARGUMENTS are those of rbdfs.
"""

from __future__ import annotations

import sys

from rbdfs.keeper import server_process
from rbdfs.kernel import mount

if __name__ == "__main__":
    mount._STATX_MNT_ID_UNIQUE = 0
    if sys.argv[1] == "rbdfs.server":
        from rbdfs.server.__main__ import main as serve

        del sys.argv[1]
        sys.exit(serve())
    from rbdfs.cli import main

    server_process.SERVER = [sys.executable, __file__, "rbdfs.server"]
    sys.exit(main(sys.argv[1:]))
