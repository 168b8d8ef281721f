"""The process that fuzzes one target in Python: engine.py TARGET [OPTION OF LIBFUZZER...]

Run by the Python of .venv, with atheris on its path.
"""

from __future__ import annotations

import logging
import shlex
import sys

import atheris

from fuzzing.targets import check_of


def main() -> None:
    target, *options = sys.argv[1:]
    # What is said of each input would be all that there is to read.
    logging.disable()
    with atheris.instrument_imports(include=["rbdfs"]):
        check = check_of(target)
    # libFuzzer merges in processes of its own, and has a shell start them.
    again = shlex.join([sys.executable, __file__, target])
    atheris.Setup([again, *options], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
