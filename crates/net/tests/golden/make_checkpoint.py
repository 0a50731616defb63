#!/usr/bin/env python3
"""Checkpoints as nnU-Net saves them, of small networks that its own get_network_from_plans builds, with their logits.

    python make_checkpoint.py    # writes to checkpoint/: NAME.pth, NAME.npz (image, logits), NAME.json

plain           3D, anisotropic, names as nnUNetTrainer saves them
plain_module    the same tensors under DistributedDataParallel's prefix, decoder.encoder and all_modules apart from
                their originals (torch.save of copies), weights in float16, bfloat16 and float64, one of them transposed
residual        2D (Conv2d), under torch.compile's prefix
All weights are float32 numbers that float16 and bfloat16 hold exactly. NAME.json: {"plans": …, "dataset": …} as inside the checkpoint.
"""

import json
import pathlib

import numpy
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from make_golden import SEED, write

FOLDER = pathlib.Path(__file__).with_name("checkpoint")
DATASET = {
    "channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 5, "file_ending": ".nii.gz",
}


def plans(configuration, kind, dimensions, patch, stages):
    convs = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    architecture = dict(
        network_class_name=f"dynamic_network_architectures.architectures.unet.{kind}",
        arch_kwargs=dict(
            n_stages=len(stages["features_per_stage"]), **{k: v for k, v in stages.items() if k != "encoder"},
            **{convs: stages["encoder"]},
            conv_op=f"torch.nn.modules.conv.Conv{dimensions}d", conv_bias=True,
            norm_op=f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d", norm_op_kwargs=dict(eps=1e-5, affine=True),
            dropout_op=None, dropout_op_kwargs=None, nonlin="torch.nn.LeakyReLU", nonlin_kwargs=dict(inplace=True),
        ),
        _kw_requires_import=["conv_op", "norm_op", "dropout_op", "nonlin"],
    )
    resample = dict(is_seg=False, order=3, order_z=0, force_separate_z=None)
    return {
        "dataset_name": "Dataset999_Small", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0], "original_median_shape_after_transp": [8, 16, 16],
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": dict(max=9.5, mean=1.0, median=1.0, min=-3.25, percentile_00_5=-2.0, percentile_99_5=8.0, std=1.5)
        },
        "configurations": {
            configuration: dict(
                data_identifier=f"nnUNetPlans_{configuration}", preprocessor_name="DefaultPreprocessor", batch_size=2,
                patch_size=patch, median_image_size_in_voxels=[float(p) for p in patch], spacing=[1.0] * dimensions,
                normalization_schemes=["ZScoreNormalization"], use_mask_for_norm=[False],
                resampling_fn_data="resample_data_or_seg_to_shape", resampling_fn_seg="resample_data_or_seg_to_shape",
                resampling_fn_data_kwargs=resample, resampling_fn_seg_kwargs=dict(resample, is_seg=True, order=1),
                resampling_fn_probabilities="resample_data_or_seg_to_shape",
                resampling_fn_probabilities_kwargs=dict(resample, order=1), architecture=architecture, batch_dice=False,
            )
        },
    }


PLAIN = plans("3d_fullres", "PlainConvUNet", 3, [4, 8, 8], dict(
    features_per_stage=[4, 6, 8], kernel_sizes=[[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]], encoder=[2, 2, 1], n_conv_per_stage_decoder=[1, 2],
))
RESIDUAL = plans("2d", "ResidualEncoderUNet", 2, [16, 12], dict(
    features_per_stage=[4, 6, 6], kernel_sizes=[[3, 3]] * 3, strides=[[1, 1], [2, 2], [2, 1]], encoder=[1, 2, 1],
    n_conv_per_stage_decoder=[1, 1],
))


def network(plan, configuration):
    c = PlansManager(plan).get_configuration(configuration)
    return get_network_from_plans(
        c.network_arch_class_name, c.network_arch_init_kwargs, c.network_arch_init_kwargs_req_import, 1, 3,
        deep_supervision=True,
    )


def checkpoint(net, weights, plan, configuration):
    """The keys of nnUNetTrainer.save_checkpoint, after one step of its optimiser."""
    optimiser = torch.optim.SGD(net.parameters(), 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True)
    names = ["train_losses", "val_losses", "mean_fg_dice", "ema_fg_dice", "lrs"]
    logging = {name: [numpy.float64(0.5), numpy.float32(0.25)] for name in names}
    logging["dice_per_class_or_region"] = [[numpy.float64(0.5), numpy.nan]] * 2
    return {
        "network_weights": weights, "optimizer_state": optimiser.state_dict(),
        "grad_scaler_state": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3}, "logging": logging,
        "_best_ema": numpy.float64(0.75), "current_epoch": 7,
        "init_args": {
            "plans": plan, "configuration": configuration, "fold": 3, "dataset_json": DATASET,
            "device": torch.device("cuda", 0),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": tuple(range(len(plan["configurations"][configuration]["patch_size"]))),
    }


def save(name, net, weights, plan, configuration):
    torch.save(checkpoint(net, weights, plan, configuration), FOLDER / f"{name}.pth")


def save_logits(name, net, plan, image):
    with torch.no_grad():
        logits = net.double()(image.double())[0]
    wide = lambda a: a.numpy()[:, :, None] if a.ndim == 4 else a.numpy()
    write(f"checkpoint/{name}", {"image": wide(image), "logits": wide(logits)})
    text = json.dumps({"plans": plan, "dataset": DATASET}, indent=1)
    (FOLDER / f"{name}.json").write_text(text + "\n")


def randomise(net, generator):
    with torch.no_grad():
        for key, p in net.named_parameters():
            scale = 1.0 if "norm" in key and key.endswith("weight") else 0.0
            # Sixteenths of at most four bits: exact in every format.
            p.copy_(torch.randint(-8, 9, p.shape, generator=generator) / 16 + scale)


def apart(weights):
    """Every tensor with bytes of its own, in turn float16, bfloat16, float64 and a transposed float32."""
    out = {}
    for i, (key, value) in enumerate(weights.items()):
        kinds = [torch.float16, torch.bfloat16, torch.float64, torch.float32]
        value = value.detach().clone().to(kinds[i % 4])
        if i % 4 == 3 and value.ndim > 1:
            value = value.transpose(0, -1).contiguous().transpose(0, -1)
        out[f"module.{key}"] = value
    return out


if __name__ == "__main__":
    generator = torch.Generator().manual_seed(SEED)
    net = network(PLAIN, "3d_fullres")
    randomise(net, generator)
    image = torch.randn(2, 1, 4, 8, 8, generator=generator)
    save("plain", net, net.state_dict(), PLAIN, "3d_fullres")
    save("plain_module", net, apart(net.state_dict()), PLAIN, "3d_fullres")
    save_logits("plain", net, PLAIN, image)
    net = network(RESIDUAL, "2d")
    randomise(net, generator)
    image = torch.randn(2, 1, 16, 12, generator=generator)
    weights = type(net.state_dict())((f"_orig_mod.{k}", v) for k, v in net.state_dict().items())
    save("residual", net, weights, RESIDUAL, "2d")
    save_logits("residual", net, RESIDUAL, image)
