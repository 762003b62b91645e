"""A narrow, deep CIFAR-style ResNet for 8x8 digits: the demo's teacher."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from hast_cuda.data import digits
from hast_cuda.data.image_set import DIGITS
from hast_cuda.data.input_spec import InputSpec
from hast_cuda.teachers.library import Arguments

WEIGHTS = Path(__file__).parent / "digits.safetensors"
WIDTHS = (6, 8, 10)
BLOCKS_PER_STAGE = 6


class BasicBlock(nn.Module):
    """relu(body(x) + shortcut(x)), body = conv-BN-ReLU-conv-BN, whose first convolution has the stride."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        # One module per activation, so that replacing modules reaches every one of them.
        self.activ = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """float [N, in_channels, H, W] -> float [N, out_channels, H/stride, W/stride]."""
        result: Tensor = self.activ(self.body(x) + self.shortcut(x))
        return result


class DigitsResNet(nn.Module):
    """Ten-class ResNet for 1x8x8 digits, of three stages at 8x8, 4x4 and 2x2 pixels.

    Narrow and deep on purpose: rounding errors of few channels do not average out and add up over
    the depth, so that plain rounding to 3 bits visibly loses accuracy and the demo has something
    to win back.
    """

    in_size = (8, 8)
    num_classes = 10

    def __init__(self, widths: tuple[int, int, int] = WIDTHS, blocks_per_stage: int = BLOCKS_PER_STAGE) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        blocks: list[nn.Module] = []
        channels = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks_per_stage):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(BasicBlock(channels, width, stride))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.output = nn.Linear(channels, self.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """float [N, 1, 8, 8] -> logits float [N, 10]."""
        result: Tensor = self.output(self.pool(self.blocks(self.stem(x))).flatten(1))
        return result


def load_digits_network() -> DigitsResNet:
    """The trained network in eval mode: float32 [N, 1, 8, 8] normalised -> logits [N, 10]."""
    network = DigitsResNet()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()


def names() -> list[str]:
    """The one network of this library."""
    return [DIGITS]


def build(name: str, arguments: Arguments, num_classes: int | None = None) -> nn.Module:  # noqa: ARG001
    """The architecture with random weights."""
    return DigitsResNet(**arguments)


def trained(name: str, arguments: Arguments) -> nn.Module:  # noqa: ARG001
    """The network with the weights of the package."""
    if arguments:
        raise ValueError(f"the weights of the package are for the network as it is: leave {dict(arguments)} away")
    return load_digits_network()


def spec(name: str, arguments: Arguments) -> InputSpec:  # noqa: ARG001
    """The digits as it was trained on them."""
    return InputSpec(1, 8, 8, DigitsResNet.num_classes, digits.MEAN, digits.STD)
