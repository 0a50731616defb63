"""Pictures of every kind that data sets hold, and what Pillow reads from them.

    python make.py        (pillow 13, numpy 2)

Writes grey8.png, grey16.png, rgb.png, rgba.png, palette.png, bits.png and values.json: [channel][y][x] as nnU-Net would
see it (colour kinds expanded, opacity dropped).
"""
import json
from pathlib import Path
import numpy as np
from PIL import Image

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
values = {}
for name, picture in pictures.items():
    path = here / f"{name}.png"
    picture.save(path)
    read = Image.open(path)
    if name == "palette":
        read = read.convert("RGB")
    # One bit reads as bool, hence 0 and 1, as it does through skimage.io.imread.
    array = np.asarray(read).astype(int)
    array = array[None] if array.ndim == 2 else np.moveaxis(array[..., :3], -1, 0)
    values[name] = array.tolist()
(here / "values.json").write_text(json.dumps(values) + "\n")
