"""Tiny NIfTI files and what nibabel (values) and SimpleITK (place) read from them.

    python make_golden.py      # numpy, nibabel, SimpleITK; writes beside itself
"""
import gzip
import json
import pathlib
import struct

import nibabel as nib
import numpy as np
import SimpleITK as sitk

HERE = pathlib.Path(__file__).parent
RNG = np.random.default_rng(20)
SHAPE = (3, 4, 2)  # x, y, z
TURN = np.array([[0.0, -0.8, 0.6], [1.0, 0.0, 0.0], [0.0, 0.6, 0.8]])
expected = {}


def header(cls, dtype, shape, **set_to):
    h = cls(endianness=np.dtype(dtype).byteorder.replace("=", "<").replace("|", "<"))
    h.set_data_dtype(dtype)
    h.set_data_shape(shape)
    h["pixdim"][: len(shape) + 1] = [1, 2, 3, 4, 5, 6][: len(shape) + 1]
    for key, value in set_to.items():
        h[key] = value
    return h


def qform(h, turn=TURN, code=1, offset=(-7.5, 8.25, 9.0)):
    q = nib.quaternions.mat2quat(turn)
    h["qform_code"], h["quatern_b"], h["quatern_c"], h["quatern_d"] = code, q[1], q[2], q[3]
    h["qoffset_x"], h["qoffset_y"], h["qoffset_z"] = offset
    return h


def sform(h, turn=TURN, code=1, offset=(-7.5, 8.25, 9.0)):
    h["sform_code"] = code
    for row, name in enumerate(["srow_x", "srow_y", "srow_z"]):
        h[name] = [*(turn[row] * np.array([2, 3, 4])), offset[row]]
    return h


def values(dtype, shape):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return RNG.normal(0, 1000, shape).astype(dtype)
    info = np.iinfo(dtype)
    return RNG.integers(max(info.min, -(2**31)), min(info.max, 2**31), shape).astype(dtype)


def single(h, data, pad=b"\0\0\0\0"):
    magic = b"n+1" if h["sizeof_hdr"] == 348 else b"n+2"
    h["magic"], h["vox_offset"] = magic, len(h.binaryblock) + len(pad)
    return h.binaryblock + pad + data.tobytes(order="F")


def note(name, itk=True):
    image = nib.load(HERE / name)
    data = np.asarray(image.dataobj, dtype=np.float64)
    entry = {"shape": list(data.shape), "values": data.flatten(order="F").tolist()}
    if itk:
        read = sitk.ReadImage(str(HERE / name))
        entry["spacing"], entry["origin"] = read.GetSpacing(), read.GetOrigin()
        entry["direction"] = read.GetDirection()
    expected[name] = entry


def write(name, content, itk=True):
    (HERE / name).write_bytes(content)
    note(name, itk)


for dtype in ["u1", "i1", "<i2", ">i2", "<u2", ">u2", "<i4", ">i4", "<u4", ">u4", "<i8", ">i8", "<u8", ">u8",
              "<f4", ">f4", "<f8", ">f8"]:
    name = dtype.replace("<", "little_").replace(">", "big_")
    h = sform(header(nib.Nifti1Header, dtype, SHAPE, scl_slope=1))
    write(f"type_{name}.nii", single(h, values(dtype, SHAPE)))

for name, slope, inter, dtype in [("nan", np.nan, np.nan, "<i2"), ("zero", 0, 0, "<i2"), ("scaled", 0.5, -10, ">i2"),
                                  ("wide", 1e-6, 3, "<i4"), ("double", 3, 0.125, "<f8"), ("inf", np.inf, 0, "<i2")]:
    h = qform(header(nib.Nifti1Header, dtype, SHAPE, scl_slope=slope, scl_inter=inter))
    write(f"slope_{name}.nii", single(h, values(dtype, SHAPE)))

small = values("i2", SHAPE)
other = np.eye(3)
places = {
    "none": lambda h: h,
    "q": lambda h: qform(h),
    "s": lambda h: sform(h, code=2),
    "q1_s1": lambda h: sform(qform(h, other, 1), code=1),
    "q1_s2": lambda h: sform(qform(h, other, 1), code=2),
    "q2_s3_same": lambda h: sform(qform(h, TURN, 2), code=3),
    "q_half_turn": lambda h: qform(h, np.diag([-1.0, -1.0, 1.0])),
    "sheared_with_q": lambda h: sform(qform(h), TURN + [[0, 0.1, 0], [0, 0, 0], [0, 0, 0]]),
}
for name, place in places.items():
    write(f"place_{name}.nii", single(place(header(nib.Nifti1Header, "<i2", SHAPE)), small))
for name, change in {"qfac": {"pixdim": [-1, 2, 3, 4, 0, 0, 0, 0]}, "negative": {"pixdim": [1, -2, 3, 4, 0, 0, 0, 0]},
                     "zero": {"pixdim": [1, 0, 3, np.nan, 0, 0, 0, 0]}, "metre": {"xyzt_units": 1},
                     "micron": {"xyzt_units": 3}}.items():
    write(f"pixdim_{name}.nii", single(qform(header(nib.Nifti1Header, "<i2", SHAPE, **change)), small))

for name, shape in {"2d": (3, 4), "4d": (3, 4, 2, 3), "4d_one": (3, 4, 2, 1), "5d_vector": (3, 4, 2, 1, 2)}.items():
    write(f"dims_{name}.nii", single(sform(header(nib.Nifti1Header, "<i2", shape)), values("i2", shape)))

h = sform(header(nib.Nifti1Header, "<i2", SHAPE))
write("extension.nii", single(h, small, pad=b"\1\0\0\0" + struct.pack("<ii", 32, 6) + b"a comment".ljust(24, b"\0")))
whole = single(sform(header(nib.Nifti1Header, "<i2", SHAPE)), small)
pack = lambda b: gzip.compress(b, mtime=0)
write("gzip_one.nii.gz", pack(whole))
write("gzip_three_members.nii.gz", pack(whole[:100]) + pack(whole[100:360]) + pack(whole[360:]))
write("gzip_padded.nii.gz", pack(whole) + b"\0" * 512)
for order in "<>":
    data = values(order + "i2", (3, 4, 2, 2))
    h = sform(header(nib.Nifti2Header, order + "i2", data.shape, scl_slope=2, scl_inter=1))
    write(f"nifti2_{'little' if order == '<' else 'big'}.nii", single(h, data), itk=False)

pair = qform(header(nib.nifti1.Nifti1PairHeader, ">i2", SHAPE, magic=b"ni1", vox_offset=16))
(HERE / "pair.img").write_bytes(b"\7" * 16 + small.astype(">i2").tobytes(order="F"))
write("pair.hdr", pair.binaryblock)
expected["pair.img"] = expected["pair.hdr"]
(HERE / "packed.img.gz").write_bytes(pack((HERE / "pair.img").read_bytes()))
(HERE / "packed.hdr").write_bytes(pair.binaryblock)
expected["packed.hdr"] = expected["pair.hdr"]  # nibabel doesn't look for a packed half

(HERE / "expected.json").write_text(json.dumps(expected))
versions = {"numpy": np.__version__, "nibabel": nib.__version__, "SimpleITK": sitk.Version().VersionString()}
lines = [f'{name} = "{version}"' for name, version in versions.items()]
(HERE / "PROVENANCE.toml").write_text('made_by = "make_golden.py"\nseed = 20\n\n[with]\n' + "\n".join(lines) + "\n")
