"""Build the native data path, if Cython and the headers of librbd and librados are there.

rbdfs works without it, through pyfuse3 alone.
"""

import sys
from pathlib import Path
from typing import Any

from setuptools import Extension, setup

PACKAGE = Path("rbdfs/datapath")
# It reads what the kernel and the cluster send, and mostly as root: a mistake in it shall end the
# process, and not run what somebody has sent.
HARDENED = ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong"]


def extensions() -> Any:
    try:
        from Cython.Build import cythonize
    except ImportError:
        sys.stderr.write("rbdfs: Cython is missing, the native data path is not built\n")
        return []
    native = Extension(
        "rbdfs.datapath.native",
        sources=[str(PACKAGE / "native.pyx"), *map(str, sorted(PACKAGE.glob("src/*.c")))],
        depends=[
            str(path) for name in ("*.pxi", "*.pxd", "src/*.h") for path in PACKAGE.glob(name)
        ],
        include_dirs=[str(PACKAGE)],
        libraries=["rbd", "rados"],
        extra_compile_args=["-std=gnu11", "-O2", "-pthread", *HARDENED],
        extra_link_args=["-pthread", "-Wl,-z,relro,-z,now"],
    )
    built = cythonize([native], build_dir="build/cython")
    for extension in built:
        # Without a compiler or the headers: a warning of setuptools, and rbdfs without it. It is
        # set here because cythonize() does not keep it.
        extension.optional = True
    return built


setup(ext_modules=extensions())
