#!/usr/bin/env python3
"""Golden values of three small U-Nets, computed by PyTorch in float64 from weights and images that are float32 numbers.

    python make_golden.py          # writes 2d.npz, 3d_isotropic.npz, 3d_anisotropic.npz beside this file

Each .npz holds: parameter/NAME, gradient/NAME, image, target, logits, loss = [total, dice, cross-entropy],
counts [class, (tp, fp, fn)]; and after_adam, after_sgd: the total loss after five steps of either optimiser.
All arrays are float32.
"""

import io
import pathlib
import zipfile

import numpy
import torch
from torch import nn
from torch.nn import functional as F

SEED = 20180410

NETS = {
    "2d": dict(
        channels=1, classes=3, features=[4, 8, 6], patch=[1, 12, 8], batch=3, deep=False,
        kernels=[[1, 3, 3]] * 3, strides=[[1, 1, 1], [1, 2, 2], [1, 2, 2]],
        encoder=[2, 2, 2], decoder=[2, 2], batch_dice=True, background=False,
    ),
    "3d_isotropic": dict(
        channels=2, classes=2, features=[5, 8], patch=[4, 6, 8], batch=2, deep=False,
        kernels=[[3, 3, 3]] * 2, strides=[[1, 1, 1], [2, 2, 2]],
        encoder=[2, 2], decoder=[2], batch_dice=False, background=True,
    ),
    "3d_anisotropic": dict(
        channels=1, classes=4, features=[4, 6, 7, 5], patch=[4, 8, 16], batch=2, deep=True,
        kernels=[[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides=[[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 1, 2]],
        encoder=[1, 2, 3, 2], decoder=[1, 3, 2], batch_dice=True, background=False,
    ),
}


class Block(nn.Module):
    """Convolutions, each with instance norm and leaky ReLU; parameters conv.I and norm.I."""

    def __init__(self, inputs, outputs, count, kernel, stride):
        super().__init__()
        self.conv, self.norm = nn.ModuleList(), nn.ModuleList()
        pad = [(k - 1) // 2 for k in kernel]
        for i in range(count):
            step = stride if i == 0 else 1
            self.conv.append(nn.Conv3d(inputs if i == 0 else outputs, outputs, kernel, step, pad))
            self.norm.append(nn.InstanceNorm3d(outputs, eps=1e-5, affine=True))

    def forward(self, x):
        for conv, norm in zip(self.conv, self.norm):
            x = F.leaky_relu(norm(conv(x)), 0.01)
        return x


class Up(Block):
    """A decoder step; adds up and head."""

    def __init__(self, below, outputs, count, kernel, stride, classes):
        super().__init__(2 * outputs, outputs, count, kernel, 1)
        self.up = nn.ConvTranspose3d(below, outputs, stride, stride)
        self.head = nn.Conv3d(outputs, classes, 1)

    def forward(self, x, skip):
        return super().forward(torch.cat([self.up(x), skip], 1))


class UNet(nn.Module):
    def __init__(self, n):
        super().__init__()
        f = n["features"]
        inputs = [n["channels"], *f]
        self.encoder = nn.ModuleList(
            Block(inputs[s], f[s], n["encoder"][s], n["kernels"][s], n["strides"][s]) for s in range(len(f))
        )
        self.decoder = nn.ModuleList(
            Up(f[s + 1], f[s], n["decoder"][s], n["kernels"][s], n["strides"][s + 1], n["classes"])
            for s in range(len(f) - 1)
        )

    def forward(self, x):
        """Logits per decoder stage, full resolution first."""
        skips = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
        outputs = []
        for s in reversed(range(len(self.decoder))):
            x = self.decoder[s](x, skips[s])
            outputs.insert(0, self.decoder[s].head(x))
        return outputs


def terms(logits, target, n):
    """Dice and cross-entropy of one resolution."""
    u = torch.softmax(logits, 1)
    v = F.one_hot(target, n["classes"]).movedim(-1, 1).to(u)
    axes = (0, 2, 3, 4) if n["batch_dice"] else (2, 3, 4)
    s = 1e-5
    dc = (2 * (u * v).sum(axes) + s) / torch.clip(u.sum(axes) + v.sum(axes) + s, 1e-8)
    if not n["background"]:
        dc = dc[..., 1:]
    return -dc.mean(), F.cross_entropy(logits, target)


def loss(outputs, target, n):
    weights = [0.5**i for i in range(len(outputs))] if n["deep"] else [1.0] + [0.0] * (len(outputs) - 1)
    if n["deep"] and len(outputs) > 1:
        weights[-1] = 0.0
    dice = entropy = 0.0
    for logits, weight in zip(outputs, weights):
        small = F.interpolate(target[:, None].to(torch.float64), logits.shape[2:], mode="nearest-exact")[:, 0].long()
        d, e = terms(logits, small, n)
        dice = dice + weight / sum(weights) * d
        entropy = entropy + weight / sum(weights) * e
    return dice + entropy, dice, entropy


def after_steps(n, state, image, target, make, clip):
    """Total loss after five steps."""
    net = UNet(n).double()
    net.load_state_dict(state)
    optimiser = make(net.parameters())
    for _ in range(5):
        optimiser.zero_grad()
        loss(net(image), target, n)[0].backward()
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimiser.step()
    return loss(net(image), target, n)[0].item()


def make(name, n):
    generator = torch.Generator().manual_seed(SEED)
    net = UNet(n).double()
    with torch.no_grad():
        for key, p in net.named_parameters():
            p.copy_((torch.randn(p.shape, generator=generator) * 0.2).float())
            if ".norm." in key and key.endswith("weight"):
                p.add_(1.0)
                p.copy_(p.float())
    image = torch.randn(n["batch"], n["channels"], *n["patch"], generator=generator).double()
    target = torch.randint(0, n["classes"], (n["batch"], *n["patch"]), generator=generator)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    outputs = net(image)
    values = loss(outputs, target, n)
    values[0].backward()
    guess = outputs[0].argmax(1)
    counts = [
        [((guess == c) & (target == c)).sum(), ((guess == c) & (target != c)).sum(), ((guess != c) & (target == c)).sum()]
        for c in range(n["classes"])
    ]
    adam = lambda p: torch.optim.Adam(p, 1e-2, weight_decay=3e-5, amsgrad=True)
    sgd = lambda p: torch.optim.SGD(p, 1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5)
    arrays = {
        "image": image.float().numpy(),
        "target": target.numpy(),
        "logits": outputs[0].detach().numpy(),
        "loss": numpy.array([v.item() for v in values]),
        "counts": numpy.array(counts),
        "after_adam": numpy.array([after_steps(n, state, image, target, adam, None)]),
        "after_sgd": numpy.array([after_steps(n, state, image, target, sgd, 1.0)]),
    }
    for key, p in net.named_parameters():
        arrays[f"parameter/{key}"] = p.detach().numpy()
        # The weight-0 head of deep supervision and unused heads get no gradient from PyTorch: 0.
        gradient = torch.zeros_like(p) if p.grad is None else p.grad
        arrays[f"gradient/{key}"] = gradient.numpy()
    write(name, arrays)


def write(name, arrays):
    """NAME.npz beside this file; not by numpy.savez, so that order and time stamps are pinned."""
    path = pathlib.Path(__file__).parent / f"{name}.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for key in sorted(arrays):
            buffer = io.BytesIO()
            numpy.save(buffer, numpy.ascontiguousarray(arrays[key], dtype="<f4"))
            archive.writestr(zipfile.ZipInfo(f"{key}.npy"), buffer.getvalue())


if __name__ == "__main__":
    for name, n in NETS.items():
        make(name, n)
