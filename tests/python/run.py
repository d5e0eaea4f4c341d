# Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
"""python3 run.py <examples/python> <libropewalk.so> [--example picture.png | test ...]: the tests of the Python binding,
or its example; 77 where NumPy is not installed, which CTest reports as skipped."""

import os
import pathlib
import sys

try:
    import numpy  # noqa: F401
except ImportError:
    print("skipped: python3 has no numpy (Debian: python3-numpy)")
    sys.exit(77)

os.environ["ROPEWALK_LIBRARY"] = sys.argv[2]
sys.path[:0] = [sys.argv[1], str(pathlib.Path(__file__).parent)]
sys.dont_write_bytecode = True

if __name__ == "__main__":
    if sys.argv[3:4] == ["--example"]:
        import rotate_arrays

        rotate_arrays.main([rotate_arrays.CONFIG, *sys.argv[4:]])
        sys.exit(0)
    import unittest

    unittest.main(module="arrays", argv=["arrays", *sys.argv[3:]], verbosity=1)
