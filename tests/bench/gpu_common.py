"""What the scripts behind gpu.sh share: options, timing, plans as nnU-Net writes them, and nnU-Net itself where it imports."""

import argparse
import importlib.abc
import importlib.machinery
import json
import pathlib
import statistics
import subprocess
import sys
import time
import types

import torch

# What nnU-Net imports at its start but never calls on the way from one NIfTI file to another.
UNUSED = {"SimpleITK", "cc3d", "blosc2", "tifffile", "imagecodecs"}


def options(description, **more):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="folder of nnu's programs")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for intermediate files")
    parser.add_argument("--json", type=pathlib.Path, required=True, help="where the results go")
    parser.add_argument("--seconds", type=float, default=1e9, help="time there is; what comes late is left out")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, all of it on the CPU")
    for name, default in more.items():
        parser.add_argument(f"--{name}", default=default)
    found = parser.parse_args()
    found.bin, found.work = found.bin.resolve(), found.work.resolve()
    found.work.mkdir(parents=True, exist_ok=True)
    found.device = torch.device("cpu" if found.rehearse else "cuda")
    found.ends = time.monotonic() + found.seconds
    if found.rehearse:
        torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    return found


def left(found):
    """Seconds left."""
    return found.ends - time.monotonic()


def write(path, results):
    """Called whenever there is more, so that a script that is stopped leaves what it had."""
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def ours(found, program, *arguments, device=False, precision="bf16"):
    """Runs a program of nnu; returns its stdout, stderr and seconds."""
    command = [str(found.bin / program), *map(str, arguments)]
    if device:
        command += ["--device", "cpu"] if found.rehearse else ["--device", "cuda:0", "--precision", precision]
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - begun
    print(f"+ {' '.join(command)}    # {seconds:.2f} s\n{done.stdout}{done.stderr}", flush=True)
    if done.returncode:
        raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout, done.stderr, seconds


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(device, call, repetitions):
    """Seconds of each call."""
    times = []
    for _ in range(repetitions):
        wait(device)
        begun = time.perf_counter()
        call()
        wait(device)
        times.append(time.perf_counter() - begun)
    return times


def summary(times):
    return {"median": statistics.median(times), "least": min(times), "most": max(times), "count": len(times)}


class Unused(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of UNUSED where they aren't installed, last of all; any name is in them."""

    class Module(types.ModuleType):
        __path__ = []

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {"__getattr__": lambda _, n: n})

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in UNUSED:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return self.Module(spec.name)

    def exec_module(self, module):
        pass


def nnunet(*modules):
    """Modules of nnU-Net, or None and a line that says what is missing."""
    sys.meta_path.append(Unused())
    try:
        return [importlib.import_module(f"nnunetv2.{module}") for module in modules], None
    except Exception as error:  # whatever another version of NumPy or PyTorch breaks
        print(f"nnU-Net cannot be imported: {error!r}", flush=True)
        return None, f"nnU-Net cannot be imported: {error!r}"
    finally:
        sys.meta_path.pop()


DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "a": 1, "b": 2},
    "numTraining": 5,
    "file_ending": ".nii.gz",
}


def plans(features, patch, batch, spacing=(1.0, 1.0, 1.0), shape=None):
    """A plans.json with one configuration, 3d_fullres, of a plain U-Net with kernel 3 and stride 2."""
    stages = len(features)
    resample = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(features),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    kind = "resample_data_or_seg_to_shape"
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": batch,
        "patch_size": list(patch),
        "median_image_size_in_voxels": [float(n) for n in shape or patch],
        "spacing": list(spacing),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": kind,
        "resampling_fn_seg": kind,
        "resampling_fn_probabilities": kind,
        "resampling_fn_data_kwargs": resample,
        "resampling_fn_seg_kwargs": {**resample, "is_seg": True, "order": 1},
        "resampling_fn_probabilities_kwargs": {**resample, "order": 1},
        "architecture": architecture,
        "batch_dice": True,
    }
    intensities = {
        "mean": 60.0, "std": 150.0, "median": 50.0, "min": -1000.0, "max": 1500.0,
        "percentile_00_5": -500.0, "percentile_99_5": 600.0,
    }
    return {
        "dataset_name": "Dataset900_Benchmark",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": list(spacing),
        "original_median_shape_after_transp": list(shape or patch),
        "image_reader_writer": "NibabelIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
        "configurations": {"3d_fullres": configuration},
    }


def write_plans(found, folder, document):
    """plans.json, dataset.json, and plan.toml made of them by nnu-plan."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(document))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    sources = ["--plans", folder / "plans.json", "--dataset-json", folder / "dataset.json"]
    ours(found, "nnu-plan", "import", *sources, "--out", folder / "plan.toml")
    return folder / "plan.toml"
