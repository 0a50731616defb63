#!/usr/bin/env python3
"""Golden values of three small networks with residual encoders, and of the losses over regions and with an ignore label.

    python make_residual.py    # writes residual_2d.npz, residual_isotropic.npz, residual_anisotropic.npz beside this file

The networks are dynamic_network_architectures' ResidualEncoderUNet, the losses nnunetv2's DC_and_CE_loss and
DC_and_BCE_loss under its DeepSupervisionWrapper; all in float64 (their Dice sums in float32), from weights and images
that are float32 numbers. Keys of the .npz as in make_golden.py, by nnu's names of the parameters.
"""

import re

import numpy
import torch
from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss, get_tp_fp_fn_tn
from torch import nn
from torch.nn import functional as F

from make_golden import SEED, write

NETS = {
    # A true Conv2d network; its arrays get a z axis of length 1. The last stage pools its skip without a convolution.
    "residual_2d": dict(
        channels=1, labels=4, regions=[(1, 2, 3), (2, 3), (3,)], ignore=False, features=[4, 8, 8], patch=[12, 8], batch=3,
        deep=True, kernels=[[3, 3]] * 3, strides=[[1, 1], [2, 2], [2, 1]], blocks=[1, 2, 2], decoder=[1, 1],
        batch_dice=True,
    ),
    # Stage 2 convolves its skip without pooling, stage 3 takes it as it is.
    "residual_isotropic": dict(
        channels=2, labels=2, regions=None, ignore=True, features=[4, 6, 5, 5], patch=[4, 6, 8], batch=2, deep=False,
        kernels=[[3, 3, 3]] * 4, strides=[[1, 1, 1], [2, 2, 2], [1, 1, 1], [1, 1, 1]], blocks=[2, 1, 1, 1],
        decoder=[1, 1, 2], batch_dice=False,
    ),
    "residual_anisotropic": dict(
        channels=1, labels=3, regions=[(1, 2), (2,)], ignore=True, features=[3, 4, 6, 5], patch=[4, 8, 16], batch=2,
        deep=True, kernels=[[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides=[[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 1, 2]], blocks=[1, 2, 1, 2], decoder=[1, 2, 1], batch_dice=True,
    ),
}


def build(n):
    flat = len(n["patch"]) == 2
    net = ResidualEncoderUNet(
        n["channels"], len(n["features"]), n["features"], nn.Conv2d if flat else nn.Conv3d, n["kernels"], n["strides"],
        n["blocks"], len(n["regions"] or range(n["labels"])), n["decoder"][::-1], conv_bias=True,
        norm_op=nn.InstanceNorm2d if flat else nn.InstanceNorm3d, norm_op_kwargs=dict(eps=1e-5, affine=True),
        nonlin=nn.LeakyReLU, nonlin_kwargs=dict(inplace=True), deep_supervision=True,
    )
    return net.double()


def ours(name, stages):
    """nnu's name of a parameter."""
    def decoder(match):
        return f"decoder.{stages - 2 - int(match[2])}.{dict(transpconvs='up', seg_layers='head', stages='')[match[1]]}"

    name = re.sub(r"decoder\.(transpconvs|seg_layers|stages)\.(\d+)", decoder, name)
    name = re.sub(r"\.\.?convs\.(\d+)\.(conv|norm)", r".\2.\1", name).replace("stem.conv.0", "stem.conv")
    name = re.sub(r"blocks\.(\d+)\.conv(\d)\.(conv|norm)", lambda m: f"block.{m[1]}.{m[3]}.{int(m[2]) - 1}", name)
    name = re.sub(r"blocks\.(\d+)\.skip\.\d\.", r"block.\1.skip.", name)
    return name.replace("encoder.stages.", "encoder.").replace("stem.norm.0", "stem.norm")


def targets(label, shape, n):
    """As nnU-Net hands a label map to its losses, at one resolution."""
    small = F.interpolate(label[:, None].double(), shape, mode="nearest-exact").long()
    if n["regions"] is None:
        return small
    regions = n["regions"] + ([(n["labels"],)] if n["ignore"] else [])
    convert = ConvertSegmentationToRegionsTransform(regions, 0)
    return torch.stack([convert(segmentation=one)["segmentation"] for one in small]).double()


def loss(outputs, label, n, weights):
    """nnU-Net's loss with factors (cross-entropy, Dice)."""
    ce, dice = weights
    options = dict(batch_dice=n["batch_dice"], smooth=1e-5, ddp=False)
    if n["regions"] is None:
        function = DC_and_CE_loss(
            dict(options, do_bg=False), {}, weight_ce=ce, weight_dice=dice,
            ignore_label=n["labels"] if n["ignore"] else None, dice_class=MemoryEfficientSoftDiceLoss,
        )
    else:
        function = DC_and_BCE_loss(
            {}, dict(options, do_bg=True), weight_ce=ce, weight_dice=dice, use_ignore_label=n["ignore"],
            dice_class=MemoryEfficientSoftDiceLoss,
        )
    if not n["deep"]:
        return function(outputs[0], targets(label, outputs[0].shape[2:], n))
    factors = numpy.array([1 / 2**i for i in range(len(outputs))])
    factors[-1] = 0
    function = DeepSupervisionWrapper(function, factors / factors.sum())
    return function(outputs, [targets(label, o.shape[2:], n) for o in outputs])


def counts(logits, label, n):
    """As nnUNetTrainer.validation_step counts; class 0 of a softmax included."""
    axes = [0, *range(2, logits.ndim)]
    mask = (label != n["labels"])[:, None].double()
    if n["regions"] is None:
        truth = torch.where(label == n["labels"], 0, label)[:, None]
        guess = torch.zeros_like(logits).scatter_(1, logits.argmax(1)[:, None], 1)
    else:
        truth = targets(label, logits.shape[2:], n)[:, : logits.shape[1]]
        guess = (torch.sigmoid(logits) > 0.5).double()
    tp, fp, fn, _ = get_tp_fp_fn_tn(guess, truth, axes=axes, mask=mask)
    return torch.stack([tp, fp, fn], 1)


def after_steps(n, state, image, label, make, clip):
    """Total loss after five steps."""
    net = build(n)
    net.load_state_dict(state)
    optimiser = make(net.parameters())
    for _ in range(5):
        optimiser.zero_grad()
        loss(net(image), label, n, (1, 1)).backward()
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimiser.step()
    return loss(net(image), label, n, (1, 1)).item()


def make(name, n):
    generator = torch.Generator().manual_seed(SEED)
    net = build(n)
    with torch.no_grad():
        for key, p in net.named_parameters():
            p.copy_((torch.randn(p.shape, generator=generator) * 0.2).float())
            if "norm" in key and key.endswith("weight"):
                p.add_(1.0)
                p.copy_(p.float())
    image = torch.randn(n["batch"], n["channels"], *n["patch"], generator=generator).double()
    label = torch.randint(0, n["labels"] + n["ignore"], (n["batch"], *n["patch"]), generator=generator)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    outputs = net(image)
    values = [loss(outputs, label, n, w) for w in [(1, 1), (0, 1), (1, 0)]]
    values[0].backward()
    adam = lambda p: torch.optim.Adam(p, 1e-2, weight_decay=3e-5, amsgrad=True)
    sgd = lambda p: torch.optim.SGD(p, 1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5)
    flat = len(n["patch"]) == 2
    deep = lambda array: array[:, None] if flat else array
    wide = lambda array: array[:, :, None] if flat and array.ndim == 4 else array
    arrays = {
        "image": wide(image.float().numpy()),
        "target": deep(label.numpy()),
        "logits": wide(outputs[0].detach().numpy()),
        "loss": numpy.array([v.item() for v in values]),
        "counts": counts(outputs[0].detach(), label, n).numpy(),
        "after_adam": numpy.array([after_steps(n, state, image, label, adam, None)]),
        "after_sgd": numpy.array([after_steps(n, state, image, label, sgd, 1.0)]),
    }
    for key, p in net.named_parameters():
        key = ours(key, len(n["features"]))
        arrays[f"parameter/{key}"] = wide(p.detach().numpy())
        # The weight-0 head of deep supervision and unused heads get no gradient from PyTorch: 0.
        gradient = torch.zeros_like(p) if p.grad is None else p.grad
        arrays[f"gradient/{key}"] = wide(gradient.numpy())
    write(name, arrays)


if __name__ == "__main__":
    for name, n in NETS.items():
        make(name, n)
