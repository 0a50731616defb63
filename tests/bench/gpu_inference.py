"""From an image file to a written segmentation: nnu-infer beside nnU-Net's own predictor and PyTorch by hand, same weights.

A CT-like volume of 300×512×512 voxels, 3 classes, patches of 128³ at half steps, 8 mirrorings. Three sides:
- nnu-infer, the whole program, from its start;
- nnU-Net's predictor as it comes (float16, image, sums and weights on the card), without imports and the model's loading;
- by hand: the same rules in PyTorch in the fastest of four ways (float16 or bfloat16, either memory layout), nothing else.
Once more with a coarser image, which the first two resample to the plan's grid, and the prediction back.
"""

import gzip
import itertools
import re
import shutil
import struct
import time

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

import unet
from gpu_common import DATASET, left, nnunet, options, ours, plans, seconds, summary, wait, write, write_plans

SIZE = {"features": [32, 64, 128, 256, 320, 320], "patch": (128, 128, 128), "shape": (300, 512, 512)}
TINY = {"features": [4, 8], "patch": (16, 16, 16), "shape": (20, 28, 20)}
SPACING = (1.0, 0.75, 0.75)
COARSER = 1.25
WAYS = [("fp16", "contiguous"), ("bf16", "contiguous"), ("fp16", "channels last"), ("bf16", "channels last")]


def nifti(path, voxels, spacing):
    """Writes int16 [z, y, x]."""
    header = bytearray(352)
    z, y, x = spacing
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *voxels.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 4, 16)
    struct.pack_into("<8f", header, 76, 1, x, y, z, 1, 1, 1, 1)
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    header[123] = 2
    struct.pack_into("<h", header, 254, 1)
    struct.pack_into("<12f", header, 280, x, 0, 0, 0, 0, y, 0, 0, 0, 0, z, 0)
    header[344:348] = b"n+1\0"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(bytes(header) + voxels.tobytes(), 1))


def voxels(path):
    """Reads whole numbers [z, y, x]."""
    data = gzip.decompress(path.read_bytes())
    shape = struct.unpack_from("<3h", data, 42)[::-1]
    kinds = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 512: "<u2", 768: "<u4"}
    (kind,), (offset,) = struct.unpack_from("<h", data, 70), struct.unpack_from("<f", data, 108)
    return np.frombuffer(data, kinds[kind], np.prod(shape), int(offset)).reshape(shape).astype(np.int16)


def phantom(shape):
    """A body with organs and noise, Hounsfield units."""
    grid = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]

    def ball(middle, radius):
        return sum(((g - m) / r) ** 2 for g, m, r in zip(grid, middle, radius)) < 1

    image = np.full(shape, -1000, np.int16)
    image[ball((0, 0, 0), (1.5, 0.7, 0.9))] = 40
    image[ball((0.1, 0, 0.4), (0.5, 0.3, 0.3))] = 120
    image[ball((0, 0.4, 0), (2, 0.12, 0.12))] = 700
    return image + np.random.default_rng(0).normal(0, 15, shape).astype(np.int16)


def models(found, folder, size):
    """A network with drawn weights: as a PyTorch module, and as model folders of nnU-Net and of nnu."""
    document = plans(size["features"], size["patch"], 2, SPACING, size["shape"])
    plan = write_plans(found, folder, document)
    net = unet.UNet(size["features"], classes=len(DATASET["labels"]), deep_supervision=True)
    weights = folder / "fold_0" / "checkpoint_final.pth"
    weights.parent.mkdir()
    init = {"plans": document, "configuration": "3d_fullres", "fold": 0, "dataset_json": DATASET}
    content = {
        "network_weights": net.state_dict(),
        "current_epoch": 1,
        "init_args": init,
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(content, weights)
    # The plan's name of the configuration stands above the fold, as training leaves it.
    model = folder / "3d_fullres" / "fold_0"
    ours(found, "nnu-net", "import", "--checkpoint", weights, "--plan", plan, "--model", model)
    net.deep_supervision = False
    return net.to(found.device).eval(), document, model


class Window:
    """nnU-Net's sliding window: half steps, Gaussian weights, the mean over 8 mirrorings, sums in float16."""

    def __init__(self, net, device, patch, way):
        precision, layout = way
        self.net, self.device, self.patch, self.name = net, device, patch, ", ".join(way)
        self.dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        self.format = torch.channels_last_3d if layout == "channels last" else torch.contiguous_format
        one = np.zeros(patch)
        one[tuple(n // 2 for n in patch)] = 1
        weight = gaussian_filter(one, [n / 8 for n in patch], mode="constant")
        weight = torch.from_numpy(weight / weight.max() * 10).to(device, torch.half)
        weight[weight == 0] = weight[weight > 0].min()
        self.weight = weight

    def corners(self, shape):
        axes = []
        for n, patch in zip(shape, self.patch):
            count = int(np.ceil((n - patch) / (patch / 2))) + 1
            axes.append([round((n - patch) / max(count - 1, 1) * i) for i in range(count)])
        return list(itertools.product(*axes))

    def tile(self, x):
        x = x.contiguous(memory_format=self.format)
        total = self.net(x)
        for count in (1, 2, 3):
            for axes in itertools.combinations((2, 3, 4), count):
                total += torch.flip(self.net(torch.flip(x, axes)), axes)
        return total[0] / 8

    @torch.inference_mode()
    def __call__(self, image, first=None):
        """Logits float16 [class, z, y, x] of an image [z, y, x], which is at least as large as a patch."""
        self.net.to(memory_format=self.format)
        image = image.to(self.device)
        sums = torch.zeros((len(DATASET["labels"]), *image.shape), dtype=torch.half, device=self.device)
        weights = torch.zeros(image.shape, dtype=torch.half, device=self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            for corner in self.corners(image.shape)[:first]:
                place = tuple(slice(c, c + n) for c, n in zip(corner, self.patch))
                sums[(slice(None), *place)] += self.tile(image[place][None, None]) * self.weight
                weights[place] += self.weight
        return sums / weights


def by_hand(window, source, target, document):
    """Seconds of reading, clipping and normalising, predicting, deciding and writing; and those of predicting."""
    statistics = document["foreground_intensity_properties_per_channel"]["0"]
    begun = time.perf_counter()
    image = torch.from_numpy(voxels(source)).to(window.device).float()
    image = image.clip(statistics["percentile_00_5"], statistics["percentile_99_5"])
    image = (image - statistics["mean"]) / statistics["std"]
    wait(window.device)
    predicting = time.perf_counter()
    logits = window(image)
    wait(window.device)
    predicted = time.perf_counter()
    nifti(target, logits.argmax(0).short().cpu().numpy(), SPACING)
    return time.perf_counter() - begun, predicted - predicting


def predictor(found, modules, folder):
    p = modules[0].nnUNetPredictor(
        tile_step_size=0.5, use_gaussian=True, use_mirroring=True, perform_everything_on_device=True,
        device=found.device, verbose=False, allow_tqdm=False,
    )
    p.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
    return p


def agreement(a, b):
    """Share of voxels with the same label, and Dice of each foreground class, None where neither has it."""
    a, b = voxels(a), voxels(b)
    dice = []
    for label in range(1, len(DATASET["labels"])):
        one, other = a == label, b == label
        size = int(one.sum() + other.sum())
        dice.append(2 * int((one & other).sum()) / size if size else None)
    return {"voxels": float((a == b).mean()), "dice": dice}


def case(found, name, spacing, shape, parts, results, save):
    """One image through every side."""
    result = results["images"][name] = {"shape": list(shape), "spacing": list(spacing)}
    source = found.work / name / "case_0000.nii.gz"
    nifti(source, phantom(shape), spacing)
    times = []
    for i in range(1 if found.rehearse else 2):
        out = found.work / name / f"ours_{i}"
        arguments = ["--model", parts["model"], "--image", source, "--id", "case", "--out", out]
        _, log, spent = ours(found, "nnu-infer", *arguments, device=True)
        times.append(spent)
    result["ours"], result["log"] = summary(times), log.splitlines()
    save()
    if parts["window"] and spacing == SPACING:
        target = found.work / name / "by_hand.nii.gz"
        whole, window = by_hand(parts["window"], source, target, parts["document"])
        result["by hand"] = {"way": parts["window"].name, "seconds": whole, "window": window}
        result["by hand"]["agreement"] = agreement(out / "case" / "segmentation.nii.gz", target)
        save()
    if not parts["predictor"]:
        result["nnU-Net"] = None
    elif left(found) < 75 and spacing != SPACING and not found.rehearse:
        result["nnU-Net"] = "no time left"
    else:
        target = found.work / name / "nnunet"
        begun = time.perf_counter()
        parts["predictor"].predict_from_files_sequential([[str(source)]], [str(target)], overwrite=True)
        spent = time.perf_counter() - begun
        target = target.with_name(target.name + ".nii.gz")
        theirs = agreement(out / "case" / "segmentation.nii.gz", target)
        result["nnU-Net"] = {"seconds": spent, "agreement": theirs}
    save()


def fastest(found, net, size, results):
    """The fastest way over a few tiles; the network takes its layout."""
    image = torch.randn(size["shape"])
    for way in WAYS:
        window = Window(net, found.device, size["patch"], way)
        window(image, 1)
        results["ways"][window.name] = summary(seconds(found.device, lambda: window(image, 4), 2))["median"] / 4
    best = min(WAYS, key=lambda way: results["ways"][", ".join(way)])
    return Window(net, found.device, size["patch"], best)


def main():
    found = options(__doc__)
    size = TINY if found.rehearse else SIZE
    folder = found.work / "nnunet"
    shutil.rmtree(folder, ignore_errors=True)
    net, document, model = models(found, folder, size)
    results = {"ways": {}, "images": {}}
    modules, missing = nnunet("inference.predict_from_raw_data")
    results["nnU-Net"] = missing or "its own predictor"
    parts = {"document": document, "model": model, "predictor": None}
    parts["predictor"] = predictor(found, modules, folder) if modules else None
    parts["window"] = fastest(found, net, size, results)
    if found.rehearse and parts["predictor"]:
        # On the CPU nnU-Net doesn't autocast: by hand neither.
        window, image = parts["window"], torch.randn(size["shape"])
        window.dtype, net_dtype = torch.float32, window.dtype
        expected = parts["predictor"].predict_sliding_window_return_logits(image[None])
        torch.testing.assert_close(window(image), expected, rtol=1e-2, atol=1e-2)
        window.dtype = net_dtype
    save = lambda: write(found.json, results)
    case(found, "same_grid", SPACING, size["shape"], parts, results, save)
    coarser = tuple(s * COARSER for s in SPACING)
    shape = tuple(round(n / COARSER) for n in size["shape"])
    case(found, "coarser", coarser, shape, parts, results, save)


if __name__ == "__main__":
    main()
