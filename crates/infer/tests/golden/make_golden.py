"""Predictions of nnU-Net v2 itself, for tests/nnunet.rs.

Builds a results folder as nnU-Net's training leaves it (plans.json, dataset.json, checkpoint_final.pth) for four small
networks, predicts two phantoms with nnU-Net's own predictor, and leaves here what nnu-infer needs to do the same: images,
the results folder's files, and the label maps to be found. The networks are trained on the phantoms for a moment: with
drawn weights two classes are about equally likely everywhere, and nnU-Net's rounding of sums to f16 decides.

CASE.nii.gz is what nnU-Net predicts, CASE_f32.nii.gz the same with its sums in f32.

    pip install nnunetv2==2.8.1 nibabel
    python make_golden.py [WORK_FOLDER]

With WORK_FOLDER the results folder stays there, for comparisons by hand.

    python make_golden.py reoriented

leaves all that as it is, and makes only reoriented/: the smaller phantom stored in other orientations (each channel and the
first stage's map in another one, a little oblique), and what the same networks predict where plans.json names a reader that
turns images to RAS.
"""

import json
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path

for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ.setdefault(name, tempfile.gettempdir())

import nibabel
import numpy as np
import torch
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

HERE = Path(__file__).parent
SEED = 4
FEATURES = [4, 8, 12]
CHANNELS = 2
STEPS = 200

LABELS = {"background": 0, "organ": 1, "lesion": 2}
REGIONS = {"background": 0, "whole": [1, 2], "lesion": 2}


def architecture(dims, kernels, strides):
    conv = f"torch.nn.modules.conv.Conv{dims}d"
    norm = f"torch.nn.modules.instancenorm.InstanceNorm{dims}d"
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": len(FEATURES), "features_per_stage": FEATURES, "conv_op": conv, "kernel_sizes": kernels,
            "strides": strides, "n_conv_per_stage": [2, 2, 2], "n_conv_per_stage_decoder": [2, 2], "conv_bias": True,
            "norm_op": norm, "norm_op_kwargs": {"eps": 1e-05, "affine": True}, "dropout_op": None,
            "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def configuration(name, patch, spacing, kernels, strides, **more):
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    one = {
        "data_identifier": f"nnUNetPlans_{name}", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
        "patch_size": patch, "median_image_size_in_voxels": [20.0, 40.0, 40.0][-len(patch):], "spacing": spacing,
        "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
        "use_mask_for_norm": [False, False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": architecture(len(patch), kernels, strides), "batch_dice": True,
    }
    return {**one, **more}


DEEP = ([[1, 3, 3], [3, 3, 3], [3, 3, 3]], [[1, 1, 1], [1, 2, 2], [2, 2, 2]])
FLAT = ([[3, 3]] * 3, [[1, 1], [2, 2], [2, 2]])
SPACING = [3.0, 1.1, 1.0]


def plans():
    full = configuration("3d_fullres", [8, 24, 20], SPACING, *DEEP)
    intensity = {"mean": 120.0, "std": 60.0, "median": 110.0, "min": -50.0, "max": 400.0,
                 "percentile_00_5": -20.0, "percentile_99_5": 300.0}
    return {
        "dataset_name": "Dataset001_Phantom", "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": SPACING, "original_median_shape_after_transp": [20, 40, 40],
        "image_reader_writer": "SimpleITKIO", "transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2],
        "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensity, "1": intensity},
        "configurations": {
            "2d": configuration("2d", [24, 20], SPACING[1:], *FLAT),
            "3d_fullres": full,
            "3d_lowres": {
                **full, "data_identifier": "nnUNetPlans_3d_lowres", "next_stage": "3d_cascade_fullres"},
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
    }


def dataset(labels):
    one = {"channel_names": {"0": "CT", "1": "T1"}, "labels": labels, "numTraining": 10, "file_ending": ".nii.gz"}
    return {**one, "regions_class_order": [1, 2]} if labels is REGIONS else one


def phantom(rng, shape, spacing):
    """An ellipsoid with a ball in it, two channels, surrounded by zeros on some sides."""
    at = np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing)], indexing="ij"))
    extent = np.array(shape) * spacing
    away = lambda centre, radii: np.sqrt((((at.T - centre * extent) / (radii * extent)) ** 2).sum(-1)).T
    organ = away(np.array([0.5, 0.45, 0.5]), np.array([0.35, 0.3, 0.33])) < 1
    lesion = away(np.array([0.55, 0.4, 0.45]), np.array([0.2, 0.2, 0.2])) < 1
    waves = sum(np.sin(at[a] / rng.uniform(3, 7) + rng.uniform(0, 6)) for a in range(3))
    image = np.stack([60 + 90 * organ + 120 * lesion + 15 * waves, 200 - 80 * organ + 60 * lesion + 25 * waves[::-1]])
    image = np.round(image + rng.normal(0, 6, image.shape))
    image[:, :3], image[:, :, :, -5:], image[:, :, :1] = 0, 0, 0
    return image.astype(np.int16), (organ.astype(np.uint8) + (organ & lesion))


def save(path, array, spacing):
    affine = np.diag([spacing[2], spacing[1], spacing[0], 1.0])
    affine[:3, 3] = [-20.0, 15.5, 7.0]
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(array.T), affine), path)


@contextmanager
def f32_sums():
    """nnU-Net's predictor names the type of its sums twice."""
    half, gaussian = torch.half, predict_from_raw_data.compute_gaussian
    torch.half = torch.float32
    predict_from_raw_data.compute_gaussian = lru_cache(maxsize=2)(
        lambda *args, **kwargs: gaussian(*args, **kwargs, dtype=torch.float32))
    try:
        yield
    finally:
        torch.half, predict_from_raw_data.compute_gaussian = half, gaussian


def train(net, manager, one, labels, cases, cascade):
    """Cross-entropy on random patches of the phantoms, preprocessed by nnU-Net."""
    described = dataset(labels)
    data = []
    for case in cases:
        files = [str(HERE / "images" / f"{case}_{channel:04}.nii.gz") for channel in range(CHANNELS)]
        previous = HERE / "previous" / f"{case}.nii.gz"
        image, label, _ = one.preprocessor_class(verbose=False).run_case(files, str(previous), manager, one, described)
        image, label = torch.from_numpy(image), torch.from_numpy(np.maximum(label[0], 0)).long()
        if cascade:
            # Blurred by noise: the second stage must look at the image too.
            given = torch.where(torch.rand(label.shape) < 0.3, 0, label)
            image = torch.cat([image, torch.stack([given == 1, given == 2]).float()])
        pad = [(0, max(0, p - n)) for n, p in zip(label.shape[-len(one.patch_size):], one.patch_size)][::-1]
        pad = [edge for both in pad for edge in both]
        data.append((torch.nn.functional.pad(image, pad), torch.nn.functional.pad(label, pad)))
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    net.train()
    for _ in range(STEPS):
        patches = []
        for image, label in data:
            patch = [1] * (3 - len(one.patch_size)) + list(one.patch_size)
            at = [int(torch.randint(n - p + 1, ())) for n, p in zip(label.shape, patch)]
            part = tuple(slice(a, a + p) for a, p in zip(at, patch))
            x, y = image[(slice(None), *part)], label[part]
            patches.append((x[:, 0], y[0]) if len(one.patch_size) == 2 else (x, y))
        logits, target = net(torch.stack([x for x, _ in patches])), torch.stack([y for _, y in patches])
        if labels is REGIONS:
            both = torch.stack([target > 0, target == 2], 1).float()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, both)
        else:
            loss = torch.nn.functional.cross_entropy(logits, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print("loss", loss.item())


def stored_as(source, code, path):
    """The image in another voxel order, tilted in space by 8°, so that no axis is exactly the body's."""
    image = nibabel.load(source)
    to = nibabel.orientations.axcodes2ornt(code)
    image = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), to))
    tilt = np.eye(4)
    c, s = np.cos(np.deg2rad(8)), np.sin(np.deg2rad(8))
    tilt[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = tilt @ image.affine
    image = nibabel.Nifti1Image(np.asarray(image.dataobj), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    nibabel.save(image, path)


def reoriented():
    torch.set_num_threads(2)
    here = HERE / "reoriented"
    shutil.rmtree(here, ignore_errors=True)
    for folder in ("images", "previous"):
        (here / folder).mkdir(parents=True)
    stored_as(HERE / "images" / "small_0000.nii.gz", "PIR", here / "images" / "small_0000.nii.gz")
    stored_as(HERE / "images" / "small_0001.nii.gz", "LSP", here / "images" / "small_0001.nii.gz")
    stored_as(HERE / "previous" / "small.nii.gz", "IAL", here / "previous" / "small.nii.gz")
    for name in ("2d", "3d_fullres", "3d_cascade_fullres"):
        cascade = name == "3d_cascade_fullres"
        with tempfile.TemporaryDirectory() as work:
            found = {}
            for reader in ("SimpleITKIOWithReorient", "NibabelIOWithReorient"):
                model = Path(work) / reader
                (model / "fold_0").mkdir(parents=True)
                told = json.loads((HERE / "plans.json").read_text()) | {"image_reader_writer": reader}
                (model / "plans.json").write_text(json.dumps(told))
                shutil.copy(HERE / name / "dataset.json", model)
                shutil.copy(HERE / name / "checkpoint_final.pth", model / "fold_0")
                predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
                predictor.initialize_from_trained_model_folder(str(model), use_folds=(0,))
                out = Path(work) / f"{reader}_out"
                out.mkdir()
                with f32_sums():
                    predictor.predict_from_files_sequential(
                        str(here / "images"), str(out),
                        folder_with_segs_from_prev_stage=str(here / "previous") if cascade else None)
                # The SimpleITK reader writes in the last channel's axes, nibabel's in the first's.
                turned = nibabel.as_closest_canonical(nibabel.load(out / "small.nii.gz"))
                found[reader] = np.asarray(turned.dataobj)
            a, b = found.values()
            print(name, a.shape, np.bincount(a.ravel(), minlength=3), "readers differ", int((a != b).sum()))
            assert (a == b).all() and (np.bincount(a.ravel(), minlength=3) > 0).all()
            shutil.copy(out / "small.nii.gz", here / f"{name}.nii.gz")


def main():
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    rng = np.random.default_rng(SEED)
    keep = len(sys.argv) > 1
    work = Path(sys.argv[1] if keep else tempfile.mkdtemp())
    for folder in ("images", "previous"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
        (HERE / folder).mkdir(parents=True)
    # In the plan's axes the first is anisotropic beyond 3; the second is smaller than the patch along one axis.
    cases = {"coarse": ((34, 14, 42), (1.25, 3.5, 0.9)), "small": ((19, 16, 38), (1.0, 2.6, 1.2))}
    for case, (shape, spacing) in cases.items():
        image, label = phantom(rng, shape, np.array(spacing))
        for channel in range(CHANNELS):
            save(HERE / "images" / f"{case}_{channel:04}.nii.gz", image[channel], spacing)
        save(HERE / "previous" / f"{case}.nii.gz", label, spacing)
    manager = PlansManager(plans())
    runs = [("2d", "2d", LABELS), ("3d_fullres", "3d_fullres", LABELS), ("regions", "3d_fullres", REGIONS),
            ("3d_cascade_fullres", "3d_cascade_fullres", LABELS)]
    for name, config, labels in runs:
        cascade = config == "3d_cascade_fullres"
        one = manager.get_configuration(config)
        net = get_network_from_plans(
            one.network_arch_class_name, one.network_arch_init_kwargs, one.network_arch_init_kwargs_req_import,
            CHANNELS + 2 * cascade, 2 if labels is REGIONS else 3, deep_supervision=False)
        train(net, manager, one, labels, cases, cascade)
        folder = work / name
        (folder / "fold_0").mkdir(parents=True, exist_ok=True)
        (folder / "plans.json").write_text(json.dumps(plans(), indent=1))
        (folder / "dataset.json").write_text(json.dumps(dataset(labels), indent=1))
        flat = config == "2d"
        torch.save({
            "network_weights": net.state_dict(), "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": config},
            "inference_allowed_mirroring_axes": (0, 1) if flat else (0, 1, 2),
        }, folder / "fold_0" / "checkpoint_final.pth")
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), use_folds=(0,))
        previous = str(HERE / "previous") if cascade else None
        (HERE / name).mkdir(exist_ok=True)
        maps = {}
        for ending in ("", "_f32"):
            predicted = folder / f"predicted{ending}"
            predicted.mkdir(exist_ok=True)
            with f32_sums() if ending else nullcontext():
                predictor.predict_from_files_sequential(
                    str(HERE / "images"), str(predicted), folder_with_segs_from_prev_stage=previous)
            for case in cases:
                label = np.asarray(nibabel.load(predicted / f"{case}.nii.gz").dataobj)
                counts = np.bincount(label.ravel(), minlength=3)
                print(name, case, label.shape, counts, "differ", int((maps.setdefault(case, label) != label).sum()))
                assert (counts > 0).all(), "every label should occur"
                shutil.copy(predicted / f"{case}.nii.gz", HERE / name / f"{case}{ending}.nii.gz")
        shutil.copy(folder / "dataset.json", HERE / name)
        shutil.copy(folder / "fold_0" / "checkpoint_final.pth", HERE / name)
        shutil.copy(folder / "plans.json", HERE)
    if not keep:
        shutil.rmtree(work)


if __name__ == "__main__":
    reoriented() if sys.argv[1:] == ["reoriented"] else main()
