"""What nnU-Net's own readers make of NIfTI headers: shape, spacing, and where each voxel comes to lie.

    python make_golden.py      # numpy, nibabel, SimpleITK, nnunetv2 2.8.1; writes expected.json beside itself

Every image is 2 × 3 × 4 voxels (x, y, z) numbered in the order of the file; only headers differ. Where a reader scales
them, or turns the image, all values are listed in its order. Readers that refuse a
header have null.
"""
import contextlib
import io
import itertools
import json
import os
import pathlib
import tempfile

for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ.setdefault(name, tempfile.gettempdir())

import nibabel as nib
import numpy as np
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient

HERE = pathlib.Path(__file__).parent
SHAPE = (2, 3, 4)
SIZES = np.array([1.25, 0.7, 3.0])
READERS = {"simple_itk": SimpleITKIO, "simple_itk_ras": SimpleITKIOWithReorient,
           "nibabel": NibabelIO, "nibabel_ras": NibabelIOWithReorient}
DATA = np.arange(24, dtype=np.int16).reshape(SHAPE, order="F")


def header(cls=nib.Nifti1Header, sizes=SIZES, offset=(-31.5, 12.25, 70.0), q=None, s=None, codes=(1, 1), **fields):
    """q: a rotation (determinant ±1); s: any 3 × 3 matrix whose columns are scaled by the sizes."""
    h = cls()
    h.set_data_dtype(np.int16)
    h.set_data_shape(SHAPE)
    h["pixdim"][1:4] = sizes
    if q is not None:
        turn = np.array(q, float)
        h["pixdim"][0] = 1 if np.linalg.det(turn) > 0 else -1
        turn[:, 2] *= h["pixdim"][0]
        quaternion = nib.quaternions.mat2quat(turn)
        h["qform_code"] = codes[0]
        h["quatern_b"], h["quatern_c"], h["quatern_d"] = quaternion[1:]
        h["qoffset_x"], h["qoffset_y"], h["qoffset_z"] = offset
    if s is not None:
        h["sform_code"] = codes[1]
        for row, name in enumerate(["srow_x", "srow_y", "srow_z"]):
            h[name] = [*(np.array(s, float)[row] * sizes), offset[row]]
    for key, value in fields.items():
        h[key] = value
    return h


def rotation(rng, most=None):
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    if most is None:
        return q
    axis = q[:, 0]
    angle = rng.uniform(0.5, 1) * np.deg2rad(most)
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def headers():
    rng = np.random.default_rng(11)
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product([1, -1], repeat=3):
            turn = np.zeros((3, 3))
            turn[list(axes), range(3)] = flips
            code = "".join("RAS"[a] if f > 0 else "LPI"[a] for a, f in zip(axes, flips))
            yield code, header(q=turn, s=turn)
    for i in range(8):
        base = np.eye(3)[:, rng.permutation(3)] * rng.choice([1, -1], 3)
        yield f"oblique {i}", header(q=(turn := rotation(rng, 40) @ base), s=turn)
        yield f"anyhow {i}", header(q=(turn := rotation(rng)), s=turn)
    half = np.sqrt(0.5)
    yield "45 degrees", header(s=[[half, -half, 0], [half, half, 0], [0, 0, 1]])
    turn, other = rotation(rng, 30), rotation(rng, 30) @ np.diag([-1.0, -1.0, 1.0])
    shear = np.array([[1.0, 0.35, 0.1], [0.0, 0.9, -0.2], [0.1, 0.0, 1.0]])
    yield "no codes", header()
    yield "no codes, odd pixdim", header(sizes=[0.0, -2.0, 1.5])
    yield "qform only", header(q=other)
    yield "sform only", header(s=other)
    yield "sform of another place", header(q=turn, s=other, codes=(1, 2))
    yield "sform trusted by both", header(q=turn, s=other, codes=(2, 1))
    yield "sheared with qform", header(q=turn, s=shear @ turn)
    yield "sheared", header(s=shear @ np.diag([-1.0, 1.0, -1.0]))
    yield "pixdim isn't the sform's", header(s=other @ np.diag([1.1, 0.5, 2.0]))
    yield "pixdim isn't the RAS sform's", header(s=np.diag([1.1, 0.5, 2.0]))
    yield "metres", header(q=other, s=other, xyzt_units=1)
    yield "microns", header(s=turn, xyzt_units=3)
    yield "NIfTI-2", header(nib.Nifti2Header, sizes=[0.1, 0.3, 1 / 3], q=other, s=other)
    yield "half turn", header(q=np.diag([-1.0, -1.0, 1.0]))
    yield "in a plane", header(s=[[1, 1, 0], [0, 0, 0], [0, 0, 1]])
    # Readers that know no such code place the image by what is left; every other axis of `other` runs elsewhere.
    for codes in itertools.product([-1, 0, 5, 6, 9], repeat=2):
        yield f"codes {codes[0]} {codes[1]}", header(q=turn, s=other, codes=codes)
    # Exact in f32, in which ITK scales.
    nan, inf = float("nan"), float("inf")
    scales = [(0, -1024), (-0.0, 3), (nan, -1024), (inf, 3), (-inf, 3), (1e-20, 3), (1e-42, 3), (2, 1), (-1, 0), (1, 5),
              (0, nan), (0, 0), (1, nan), (2, inf), (nan, nan), (0.5, -inf)]
    for cls, version in [(nib.Nifti1Header, ""), (nib.Nifti2Header, ", NIfTI-2")]:
        for slope, inter in scales:
            yield f"slope {slope:g} intercept {inter:g}{version}", header(cls, q=other, s=other, scl_slope=slope, scl_inter=inter)


def read(reader, path):
    io_class = reader()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            image, properties = io_class.read_images([path])
    except Exception as error:
        print("refused:", reader.__name__, str(error).splitlines()[-1][:90])
        return None
    found = {"shape": image.shape[1:], "spacing": [float(s) for s in properties["spacing"]]}
    scaled = not np.array_equal(np.sort(image, axis=None), DATA.ravel(order="F"))
    if "Reorient" in reader.__name__ or scaled:
        found["voxels"] = [float(v) if v % 1 else int(v) for v in image.ravel()]
    if "Reorient" in reader.__name__ and not scaled:
        # Writing undoes reading.
        back = path.replace(".nii", "_back.nii")
        io_class.write_seg(image[0].astype(np.uint8), back, properties)
        assert np.array_equal(np.asarray(nib.load(back).dataobj), DATA), path
    elif not scaled:
        assert np.array_equal(image[0].T, DATA)
    return found


def main():
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, h) in enumerate(headers()):
            h["magic"], h["vox_offset"] = h.single_magic, len(h.binaryblock) + 4
            path = f"{folder}/{number}.nii"
            pathlib.Path(path).write_bytes(h.binaryblock + bytes(4) + DATA.tobytes(order="F"))
            print(name)
            # ITK knows no NIfTI-2.
            readers = {k: r for k, r in READERS.items() if h.single_magic[:3] == b"n+1" or k.startswith("nibabel")}
            found = {k: read(r, path) for k, r in readers.items()}
            cases.append({"name": name, "header": h.binaryblock.hex(), **found})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (HERE / "expected.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
