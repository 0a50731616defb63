"""nnU-Net's plain U-Net and its loss in PyTorch, under the names of nnU-Net's own classes: their weights load here and back."""

import torch
from torch import nn
from torch.nn import functional as F


class ConvNormReLU(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, stride, 1)
        self.norm = nn.InstanceNorm3d(outputs, eps=1e-5, affine=True)
        self.nonlin = nn.LeakyReLU(0.01, inplace=True)
        self.all_modules = nn.Sequential(self.conv, self.norm, self.nonlin)

    def forward(self, x):
        return self.all_modules(x)


class Block(nn.Module):
    """Two convolutions, the first of them strided."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.convs = nn.Sequential(ConvNormReLU(inputs, outputs, stride), ConvNormReLU(outputs, outputs, 1))

    def forward(self, x):
        return self.convs(x)


class Encoder(nn.Module):
    def __init__(self, features, channels):
        super().__init__()
        inputs = [channels, *features]
        stages = [nn.Sequential(Block(inputs[s], f, 1 if s == 0 else 2)) for s, f in enumerate(features)]
        self.stages = nn.Sequential(*stages)

    def forward(self, x):
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        return skips


class Decoder(nn.Module):
    def __init__(self, encoder, features, classes):
        super().__init__()
        self.encoder = encoder
        below = list(zip(features[:0:-1], features[-2::-1]))
        self.stages = nn.ModuleList(Block(2 * out, out, 1) for _, out in below)
        self.transpconvs = nn.ModuleList(nn.ConvTranspose3d(inputs, out, 2, 2) for inputs, out in below)
        self.seg_layers = nn.ModuleList(nn.Conv3d(out, classes, 1) for _, out in below)


class UNet(nn.Module):
    """Kernel 3, stride 2, two convolutions a stage. With deep supervision logits of every decoder stage, finest first."""

    def __init__(self, features, channels=1, classes=3, deep_supervision=False):
        super().__init__()
        self.encoder = Encoder(features, channels)
        self.decoder = Decoder(self.encoder, features, classes)
        self.deep_supervision = deep_supervision
        for module in self.modules():
            if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
                nn.init.kaiming_normal_(module.weight, a=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x):
        skips = self.encoder(x)
        x, logits = skips.pop(), []
        d = self.decoder
        for up, stage, head in zip(d.transpconvs, d.stages, d.seg_layers):
            x = stage(torch.cat((up(x), skips.pop()), 1))
            if self.deep_supervision or head is d.seg_layers[-1]:
                logits.append(head(x))
        return logits[::-1] if self.deep_supervision else logits[0]


def soft_dice(logits, target, batch_dice=True):
    """Mean over the classes but the background; per sample, or over the batch. Target int64 [n, z, y, x]."""
    u = torch.softmax(logits, 1)
    v = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device).scatter_(1, target[:, None], True)
    axes = (0, 2, 3, 4) if batch_dice else (2, 3, 4)
    u, v = u[:, 1:], v[:, 1:]
    return ((2 * (u * v).sum(axes) + 1e-5) / torch.clip(u.sum(axes) + v.sum(axes) + 1e-5, 1e-8)).mean()


def dice_and_cross_entropy(logits, target, dice=soft_dice):
    """nnU-Net's loss; logits [n, class, z, y, x]."""
    return F.cross_entropy(logits, target) - dice(logits, target)


def deeply_supervised(logits, targets, dice=soft_dice):
    """The loss at every resolution, weighted 1, ½, ¼, …, the deepest 0, normalised."""
    weights = [0.5**i for i in range(len(logits) - 1)] or [1.0]
    terms = (w * dice_and_cross_entropy(x, t, dice) for w, x, t in zip(weights, logits, targets))
    return sum(terms) / sum(weights)
