#!/usr/bin/env python3
"""Copies what `cargo test --no-run --message-format=json` (on stdin) built and a card can run: gpu_collect.py TESTS PROGRAMS EXAMPLES

TESTS gets the test executables that ask for a card, as CRATE.TARGET; PROGRAMS the programs that they start,
and EXAMPLES the examples that measure something on a card.
"""

import json
import pathlib
import shutil
import sys

EXAMPLES = {"device_time"}
SWITCH = b"NNU_TEST_CUDA"


def main():
    tests, programs, examples = map(pathlib.Path, sys.argv[1:])
    built, asking = {}, b""
    for line in sys.stdin:
        artifact = json.loads(line) if line.startswith("{") else {}
        executable = artifact.get("executable")
        if not executable:
            continue
        crate = artifact["package_id"].split("#")[0].rstrip("/").split("/")[-1]
        name, kind = artifact["target"]["name"], artifact["target"]["kind"]
        if kind == ["example"] and name in EXAMPLES:
            shutil.copy2(executable, examples / name)
        elif not artifact["profile"]["test"]:
            built[name] = executable
        elif SWITCH in (content := pathlib.Path(executable).read_bytes()):
            shutil.copy2(executable, tests / f"{crate}.{name if kind == ['test'] else 'lib'}")
            asking += content
    for name, executable in built.items():
        if f"/{programs}/{name}".encode() in asking:
            shutil.copy2(executable, programs / name)


if __name__ == "__main__":
    main()
