"""Makes the .npz files beside this script: NumPy's own, and some whose headers lie behind a right checksum.

Run: python make_golden.py   (versions in PROVENANCE.toml)
"""

import io
import zipfile

import numpy as np

arrays = {"layer.0.weight": np.arange(6, dtype="<f4").reshape(2, 3), "bias": np.array([0.5, -1], "<f4")}


def packed(name, entry, compression=zipfile.ZIP_STORED):
    """One fixed time for every entry, so that the script gives the same bytes again."""
    with zipfile.ZipFile(name, "w", compression) as archive:
        for key, data in entry.items():
            info = zipfile.ZipInfo(f"{key}.npy", (1980, 1, 1, 0, 0, 0))
            info.compress_type = compression
            archive.writestr(info, data)


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


packed("savez.npz", {k: npy(v) for k, v in arrays.items()})
packed("savez_compressed.npz", {k: npy(v) for k, v in arrays.items()}, zipfile.ZIP_DEFLATED)
packed("double.npz", {"a": npy(np.zeros(1))})
packed("fortran.npz", {"a": npy(np.asfortranarray(np.zeros((2, 3), "<f4")))})
lie = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,), }\n"
packed("huge.npz", {"a": b"\x93NUMPY\x01\x00" + len(lie).to_bytes(2, "little") + lie + bytes(8)})
