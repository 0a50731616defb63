#!/usr/bin/env python3
"""rustc for `gpu.sh build`: tests look for fixtures and programs below a path that a machine without the sources can have.

cargo calls this with rustc's path and arguments; NNU_ROOT is the checkout, NNU_LINK what stands for it in the tests, and
NNU_PROGRAMS the folder, below it, of the programs that tests start.
"""

import os
import sys

root, link, programs = (os.environ[name] for name in ("NNU_ROOT", "NNU_LINK", "NNU_PROGRAMS"))
for name, value in os.environ.items():
    if name.startswith("CARGO_BIN_EXE_"):
        os.environ[name] = f"{link}/{programs}/{os.path.basename(value)}"
    elif name == "CARGO_MANIFEST_DIR" and value.startswith(root):
        os.environ[name] = link + value[len(root):]
os.execvp(sys.argv[1], sys.argv[1:])
