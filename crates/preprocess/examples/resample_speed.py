"""Times scikit-image on what resample_speed.rs does, the way nnU-Net calls it: python resample_speed.py"""

import time

import numpy as np
from skimage.transform import resize

SHAPE, TARGET = (150, 512, 512), (188, 448, 448)


def scale(x, order):
    return resize(x, TARGET, order, mode="edge", anti_aliasing=False)


def main():
    z, y, x = np.ogrid[:150, :512, :512]
    noise = (z * 7919 + y * 104729 + x * 1299709) % 1009
    image = 300 * np.sin(z / 7.5) * np.sin(y / 25.6) * np.sin(x / 25.6) + noise
    radius = np.sqrt((3 * z - 240) ** 2 + (y - 240) ** 2 + (x - 240) ** 2)
    label = np.array([3, 2, 1, 0])[np.minimum(radius / 60, 3).astype(int)]
    begun = time.perf_counter()
    scale(image, 3)
    image_s = time.perf_counter() - begun
    begun = time.perf_counter()
    out = np.zeros(TARGET, np.int16)
    for value in np.unique(label):
        out[scale((label == value).astype(float), 1) >= 0.5] = value
    print(f"image {image_s:.2f} s, label {time.perf_counter() - begun:.2f} s")


if __name__ == "__main__":
    main()
