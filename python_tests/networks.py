"""Networks small enough to run whole loops on in a test."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CHANNELS, SIZE, CLASSES = 3, 8, 5


class TinyNet(nn.Module):
    """Two convolutions with BatchNorm and ReLU; [N, 3, 8, 8] -> logits [N, 5]."""

    num_classes = CLASSES

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(CHANNELS, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.output = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.output(self.features(x).mean((2, 3)))
        return result


def draw_batch_norms(network: nn.Module) -> None:
    """Statistics and parameters worth matching."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, 0, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)


def tiny(device: torch.device | str = "cpu") -> TinyNet:
    """The same TinyNet at every call, in eval mode, with BatchNorm statistics worth matching."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = TinyNet()
        draw_batch_norms(network)
        network.output.weight.data *= 4
    return network.eval().to(device)


def without_batch_norm() -> nn.Module:
    """A network that zero-shot synthesis cannot work with."""
    return nn.Sequential(
        nn.Conv2d(CHANNELS, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)
    ).eval()


class Branching(nn.Module):
    """Control flow that depends on the data, which torch.fx cannot follow; [N, 3, H, W] -> [N, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return (self.relu(y) if x.detach().sum() > 0 else y).mean((2, 3))


class DoubledNorm(nn.BatchNorm2d):
    """A BatchNorm that does more."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


def hooked_norm(channels: int) -> nn.BatchNorm2d:
    """One whose hook doubles its output."""
    norm = nn.BatchNorm2d(channels)
    norm.register_forward_hook(lambda _module, _args, output: 2 * output)
    return norm


def pictures(count: int, device: torch.device | str = "cpu") -> Tensor:
    """The same images for TinyNet at every call."""
    random = torch.Generator().manual_seed(5)
    return torch.randn(count, CHANNELS, SIZE, SIZE, generator=random).to(device)


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict."""
    return {k: v.detach().clone() for k, v in network.state_dict().items()}


def same_state(network: nn.Module, before: dict[str, Tensor]) -> bool:
    """Whether every parameter and buffer still has the very bits of ``before``."""
    now = network.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[k], v) for k, v in before.items())


def outputs_of(network: nn.Module, layers: list[str], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the outputs of some layers, by plain hooks."""
    maps: list[Tensor] = []
    hooks = [network.get_submodule(name).register_forward_hook(lambda _m, _i, o: maps.append(o)) for name in layers]
    logits = network(x)
    for hook in hooks:
        hook.remove()
    return logits, maps


def ten_classes() -> nn.Module:
    """A network for images like CIFAR-10's."""
    network = tiny()
    network.num_classes = 10
    network.output = nn.Linear(network.output.in_features, 10)
    return network


def of_width(width: int, classes: int = CLASSES) -> nn.Module:
    """The same network at every call with these arguments."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(width)
        network = nn.Sequential(
            nn.Conv2d(CHANNELS, width, 3),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, classes),
        )
        draw_batch_norms(network)
        return network
