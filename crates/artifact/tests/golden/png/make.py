"""Pictures of every kind that data sets hold, and what Pillow reads from them.

    python make.py        (pillow 13, numpy 2, scikit-image 0.26, which nnU-Net's NaturalImage2DIO reads with)

Writes a picture of each kind and values.json: [channel][y][x] as NaturalImage2DIO of nnU-Net 2.8.1 gives it. It refuses grey
of 8 bits with opacity, of which the grey is kept here.
"""
import json
import struct
import warnings
import zlib
from pathlib import Path
import numpy as np
from PIL import Image
from skimage import io

here = Path(__file__).parent
rng = np.random.default_rng(1234)
h, w = 3, 5
grey8 = rng.integers(0, 256, (h, w), dtype=np.uint8)
grey16 = rng.integers(0, 65536, (h, w), dtype=np.uint16)
rgb = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
rgba = rng.integers(0, 256, (h, w, 4), dtype=np.uint8)
pictures = {
    "grey8": Image.fromarray(grey8),
    "grey16": Image.fromarray(grey16),
    "rgb": Image.fromarray(rgb),
    "rgba": Image.fromarray(rgba),
    "palette": Image.fromarray(rgb).quantize(4),
    "bits": Image.fromarray(grey8 > 127),
}
for name, picture in pictures.items():
    picture.save(here / f"{name}.png")
# Opacity of single colours, which isn't that of pixels.
pictures["palette"].save(here / "palette_opacity.png", transparency=bytes([0, 128, 255]))
pictures["rgb"].save(here / "rgb_opacity.png", transparency=tuple(int(v) for v in rgb[0, 0]))
pictures["grey8"].save(here / "grey_opacity.png", transparency=int(grey8[0, 0]))
pictures["bits"].save(here / "bits_opacity.png", transparency=1)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write(name, colour, depth, rows):
    """What Pillow doesn't write."""
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data, 9)), chunk(b"IEND", b"")]
    (here / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


grey_alpha = rng.integers(0, 256, (h, w, 2), dtype=np.uint8)
write("grey_alpha", 4, 8, grey_alpha)
write("rgb16", 2, 16, rng.integers(0, 65536, (h, w, 3)).astype(">u2"))
write("rgba16", 6, 16, rng.integers(0, 65536, (h, w, 4)).astype(">u2"))
write("grey2", 0, 2, rng.integers(0, 256, (h, (w * 2 + 7) // 8), dtype=np.uint8))
write("grey4", 0, 4, rng.integers(0, 256, (h, (w * 4 + 7) // 8), dtype=np.uint8))

values = {}
for path in sorted(here.glob("*.png")):
    warnings.simplefilter("ignore")
    # As NaturalImage2DIO.read_images does.
    array = grey_alpha[..., 0] if path.stem == "grey_alpha" else io.imread(path)
    array = array.astype(int)
    values[path.stem] = (array[None] if array.ndim == 2 else array.transpose(2, 0, 1)).tolist()
(here / "values.json").write_text(json.dumps(values) + "\n")
