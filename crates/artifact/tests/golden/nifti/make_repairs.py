#!/usr/bin/env python3
"""Headers that are wrong in one field or two, and what SimpleITK makes of them (SimpleITK 2.5.7, NumPy 2.4).

    python3 make_repairs.py        # writes repairs.json beside this script

repairs.json holds one sound file (hexadecimal) and per case the bytes that differ from it, with what ITK reads: voxels
(null: as in the sound file), spacing, origin, direction; or null where it refuses the file.
"""

import json
import math
import struct
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

nan, inf = math.nan, math.inf
SPACING = (2, 3, 4)


def sound():
    h = bytearray(352)
    struct.pack_into("<i", h, 0, 348)
    struct.pack_into("<8h", h, 40, 3, 3, 4, 5, 1, 1, 1, 1)
    struct.pack_into("<hh", h, 70, 2, 8)
    struct.pack_into("<8f", h, 76, 1, *SPACING, 1, 1, 1, 1)
    struct.pack_into("<3f", h, 108, 352, 1, 0)
    h[123] = 2
    struct.pack_into("<hh", h, 252, 0, 1)
    struct.pack_into("<6f", h, 256, 0, 0, 0, 7, 8, 9)
    for row, (size, offset) in enumerate(zip(SPACING, (10, 20, 30))):
        struct.pack_into("<4f", h, 280 + 16 * row, *[size * (row == c) for c in range(3)], offset)
    h[344:348] = b"n+1\0"
    return bytes(h) + bytes(range(1, 61))


def dim(*n):
    return [(40, struct.pack("<8h", *n))]


def pixdim(*p):
    return [(76, struct.pack("<4f", *p))]


def codes(q, s):
    return [(252, struct.pack("<hh", q, s))]


def srow(*rows):
    return [(280 + 16 * i, struct.pack("<4f", *row)) for i, row in enumerate(rows)]


CASES = {}
for n in [
    (4, 3, 4, 5, 0, 0, 0, 0), (5, 3, 4, 5, 1, 0, 0, 0), (7, 3, 4, 5, 0, 0, 0, 0), (4, 3, 4, 5, -1, 0, 0, 0),
    (5, 3, 4, 5, 0, 1, 0, 0), (3, 3, 4, 0, 1, 1, 1, 1), (3, 3, 4, -5, 1, 1, 1, 1), (3, 3, 0, 5, 1, 1, 1, 1),
    (3, 0, 4, 5, 1, 1, 1, 1), (3, -3, 4, 5, 1, 1, 1, 1), (0, 3, 4, 5, 1, 1, 1, 1), (8, 3, 4, 5, 1, 1, 1, 1),
    (-3, 3, 4, 5, 1, 1, 1, 1), (1, 60, 1, 1, 1, 1, 1, 1), (2, 3, 4, 0, 0, 0, 0, 0), (2, 3, 4, 5, 1, 1, 1, 1),
    (2, 3, 0, 0, 0, 0, 0, 0), (3, 3, 4, 5, 0, 0, 0, 0), (3, 3, 4, 5, -1, -1, -1, -1), (7, 3, 4, 5, 1, 1, 1, 1),
    (3, 12, 5, 1, 1, 1, 1, 1), (4, 3, 4, 5, 1, 9, 9, 9),
]:
    CASES[f"dim {n}"] = dim(*n)
for v in [0, -1, -352, 1, 100, 347, 348, 349, 351, 352.5, nan]:
    CASES[f"vox_offset {v}"] = [(108, struct.pack("<f", v))]
for slope in [0, nan, inf, -inf, 1e-40, 1, 2, -1, 1e-30, 1e-7]:
    for inter in [0, 5, -1024, nan, inf, -inf]:
        CASES[f"slope {slope} intercept {inter}"] = [(112, struct.pack("<ff", slope, inter))]
for p in [
    (0, 2, 3, 4), (nan, 2, 3, 4), (-1, 2, 3, 4), (0.5, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0), (1, 0, 0, 0),
    (1, -2, 3, 4), (1, 2, -3, 4), (1, 2, 3, -4), (-1, -2, -3, -4), (1, nan, 3, 4), (1, 2, 3, nan), (1, inf, 3, 4),
    (1, 2, -inf, 4), (1, nan, nan, nan), (1, 1e-3, 1e-3, 1e-3), (1, -0.0, 3, 4),
]:
    for q, s in [(0, 0), (1, 0), (0, 1), (1, 1)]:
        CASES[f"pixdim {p} qform {q} sform {s}"] = pixdim(*p) + codes(q, s)
for unit in [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 16, 18, 26, 255]:
    for q, s in [(0, 0), (1, 0), (0, 1)]:
        CASES[f"xyzt_units {unit} qform {q} sform {s}"] = [(123, bytes([unit]))] + codes(q, s)
SFORMS = {
    "zero": [(0, 0, 0, 0)] * 3,
    "zero with offset": [(0, 0, 0, 1), (0, 0, 0, 2), (0, 0, 0, 3)],
    "NaN": [(nan, 0, 0, 0), (0, 3, 0, 0), (0, 0, 4, 0)],
    "NaN offset": [(2, 0, 0, nan), (0, 3, 0, 0), (0, 0, 4, 0)],
    "infinite": [(inf, 0, 0, 0), (0, 3, 0, 0), (0, 0, 4, 0)],
    "sheared": [(2, 1, 0, 1), (0, 3, 0, 2), (0, 0, 4, 3)],
    "hardly sheared": [(2, 0.0001, 0, 1), (0, 3, 0, 2), (0, 0, 4, 3)],
    "other sizes": [(5, 0, 0, 1), (0, 5, 0, 2), (0, 0, 5, 3)],
    "plane": [(2, 0, 0, 1), (0, 3, 0, 2), (0, 0, 0, 3)],
    "mirrored": [(-2, 0, 0, 1), (0, 3, 0, 2), (0, 0, 4, 3)],
    "turned": [(0, 3, 0, 1), (2, 0, 0, 2), (0, 0, 4, 3)],
}
for name, rows in SFORMS.items():
    for q, s in [(0, 1), (0, 2), (0, 0), (1, 1), (1, 2), (2, 1), (1, 0), (5, 5), (-1, 1), (0, -1), (1, -1)]:
        CASES[f"sform {name} qform_code {q} sform_code {s}"] = srow(*rows) + codes(q, s)
for quaternion in [(nan, 0, 0), (2, 0, 0), (0.7071068, 0.7071068, 0.1), (1, 0, 0), (0, 0, 1), (inf, 0, 0)]:
    for q, s in [(1, 0), (1, 1), (1, 2)]:
        patch = [(256, struct.pack("<3f", *quaternion))]
        CASES[f"quaternion {quaternion} qform {q} sform {s}"] = patch + codes(q, s)
for offset in [(nan, 0, 0), (0, inf, 0)]:
    for q, s in [(1, 0), (1, 1), (1, 2)]:
        patch = [(268, struct.pack("<3f", *offset))]
        CASES[f"qoffset {offset} qform {q} sform {s}"] = patch + codes(q, s)
for intent in [3, 1001, 1002, 1003, 1005, 1007, 2003, -5]:
    CASES[f"intent_code {intent}"] = [(68, struct.pack("<h", intent))]
for bits in [0, 16, -8]:
    CASES[f"bitpix {bits}"] = [(72, struct.pack("<h", bits))]
for magic in [b"n+1\1", b"n+2\0", b"ni1\0", b"\0\0\0\0", b"n+1 ", b"N+1\0"]:
    CASES[f"magic {magic.hex()}"] = [(344, magic)]
CASES["extension flag without extension"] = [(348, b"\1\0\0\0")]
CASES["cal_max below cal_min, slices 9 to 2"] = [(124, struct.pack("<ff", -9, 9)), (74, struct.pack("<h", 9)), (120, struct.pack("<h", 2))]


def read(path):
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError:
        return None
    array = sitk.GetArrayFromImage(image)
    if not np.isfinite([*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()]).all():
        return "not finite"
    voxels = array.astype(np.float32)
    as_sound = voxels.size == 60 and (voxels.ravel() == np.arange(1, 61)).all()
    return {
        "shape": list(array.shape),
        "voxels": None if as_sound else [float(v) for v in voxels.ravel()],
        "spacing": list(image.GetSpacing()),
        "origin": list(image.GetOrigin()),
        "direction": list(image.GetDirection()),
    }


def main():
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    cases = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.nii"
        for name, patches in CASES.items():
            content = bytearray(sound())
            for at, patch in patches:
                content[at : at + len(patch)] = patch
            path.write_bytes(content)
            cases[name] = {"patches": [[at, patch.hex()] for at, patch in patches], "itk": read(path)}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
    text = f'{{"sound": "{sound().hex()}", "cases": {{\n{lines}\n}}}}\n'
    (Path(__file__).parent / "repairs.json").write_text(text)
    print(len(cases), "cases")


if __name__ == "__main__":
    main()
