"""ResNet for CIFAR-10 (He et al. 2015, section 4.2), shortcut option A: baselines and teachers.

    x -> 3 x 3 conv -> 3 stages of n blocks (16, 32, 64 channels; 32, 16, 8 places a side) -> mean -> logits

A block is two 3 x 3 convolutions with BatchNorm, ReLU between and after the sum. Option A: where the shape
changes, the skip takes every second place and fills the new channels with zeros, half before and half after.
Depth is 6 n + 2. Yerlan Idelbayev's weights (akamaster/pytorch_resnet_cifar10) reach 91.73, 92.63, 93.10 and
93.39 % on the test set for depth 20, 32, 44 and 56; their author selected them there.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from isopatch.errors import UsageError
from isopatch.nn.checks import positive
from isopatch.nn.classifier import Classifier
from isopatch.nn.head import Head
from isopatch.nn.norms import batch_norm
from isopatch.nn.staged import Staged
from isopatch.nn.strided import StridedConv2d


def convolution(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    """3 x 3, no bias."""
    return StridedConv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)


class Stem(nn.Module):
    """Convolution, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, channels: int) -> None:
        """Build the stem."""
        super().__init__()
        self.conv = convolution(in_channels, channels)
        self.norm = batch_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the picture's size."""
        return F.relu(self.norm(self.conv(x)))


class BasicBlock(nn.Module):
    """Two convolutions and a skip of option A."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        """stride: 2 in the first block of a stage that halves the map."""
        super().__init__()
        self.stride = stride
        self.added = channels - in_channels
        self.conv1 = convolution(in_channels, channels, stride)
        self.norm1 = batch_norm(channels)
        self.conv2 = convolution(channels, channels)
        self.norm2 = batch_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to the skip."""
        skip = x[:, :, :: self.stride, :: self.stride]
        skip = F.pad(skip, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        x = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(x)) + skip)


def cifar_resnet(
    *,
    depth: int,
    image_size: int | tuple[int, int] = 32,
    width: int = 16,
    num_classes: int = 10,
    in_channels: int = 3,
) -> Classifier:
    """Build a CIFAR ResNet.

    depth: 6 n + 2. width: channels of the first stage. image_size: what pictures are prepared to; the model
    takes any. Initialisation: He-normal. Raises UsageError for another depth.
    """
    positive(depth=depth, width=width, in_channels=in_channels)
    if depth < 8 or depth % 6 != 2:
        raise UsageError(f"depth {depth}: a CIFAR ResNet has 6 n + 2 layers, for example 20, 32, 44 or 56")
    stages = []
    channels = width
    for index in range(3):
        out = width * 2**index
        first = BasicBlock(channels, out, stride=1 if index == 0 else 2)
        others = [BasicBlock(out, out, stride=1) for _ in range((depth - 2) // 6 - 1)]
        stages.append(nn.Sequential(first, *others))
        channels = out
    model = Staged(
        stem=Stem(in_channels, width),
        stages=stages,
        norm=nn.Identity(),
        heads={"cls": Head(channels, num_classes)},
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return model


def no_weight_decay(model: Classifier) -> set[str]:
    """Nothing beside biases and 1-D tensors."""
    return set()
