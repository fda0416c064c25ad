"""Networks of NSGA-Net phases, with the residual decoder or the dense one (NSGA-Net's final networks).

Keep this module to torch and the standard library: ``export`` copies its source, after that of ``ops``, into
stand-alone files that rebuild a network without this package. All a network needs is the literal arguments of
``PhasesNetwork``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from evo_robust.spaces.ops import Normalize

Decoder = Literal["residual", "dense"]
Inputs = Sequence[Sequence[int]]


class PhasesNetwork(nn.Module):
    """Phases one after the other, max pooling between them, global average pooling and a linear classifier.

    Args:
        phases: for each phase ``(inputs, skip)``. ``inputs[i]`` are the nodes that node i+1 reads, numbered in
            topological order; 0 is the phase's input. ``skip`` sends the phase's input to its output.
        decoder: ``residual`` (phase k has ``channels``·2^k channels, k = 0, 1, …) or ``dense`` (all have ``channels``).
        channels: channels of the first phase.
        n_classes: number of logits.
        in_shape: ``(c, h, w)`` of the images, h and w at least 3.
    """

    def __init__(
        self,
        phases: Sequence[tuple[Inputs, bool]],
        decoder: Decoder,
        channels: int,
        n_classes: int,
        in_shape: tuple[int, int, int],
    ) -> None:
        super().__init__()
        if min(in_shape[1:]) < 3:
            raise ValueError(f"expected images of at least 3×3 pixels, got {in_shape[1]}×{in_shape[2]}")
        width, height, breadth = in_shape[0], in_shape[1] - 2, in_shape[2] - 2  # the first convolution has no padding
        self.normalize = Normalize(width)
        layers: list[nn.Module] = []
        for k, (inputs, skip) in enumerate(phases):
            if k and min(height, breadth) > 1:  # no pool over a single pixel, which would leave nothing
                layers.append(nn.MaxPool2d(2))
                height, breadth = height // 2, breadth // 2
            out_channels = channels * 2**k if decoder == "residual" else channels
            stem = nn.Conv2d(width, out_channels, 1 if k else 3, bias=False)
            layers += [stem, Phase(inputs, skip, out_channels, decoder)]
            width = out_channels
        self.features = nn.Sequential(*layers)
        self.pool = nn.AvgPool2d((height, breadth))
        self.classifier = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, n_classes)`` of images ``(n, c, h, w)`` in [0,1]."""
        return self.classifier(self.pool(self.features(self.normalize(x))).flatten(1))


class Phase(nn.Module):
    """The graph of one phase. Every node computes once, and its value is released after its last reader."""

    def __init__(self, inputs: Inputs, skip: bool, channels: int, decoder: Decoder) -> None:
        super().__init__()
        self.inputs = tuple(tuple(sources) for sources in inputs)
        read = {source for sources in self.inputs for source in sources}
        sinks = [node for node in range(1, len(self.inputs) + 1) if node not in read]
        self.outputs = ([0] if skip else []) + sinks
        last = {source: node for node, sources in enumerate(self.inputs, 1) for source in sources}
        self.finished = [
            [source for source in sorted(read - set(self.outputs)) if last[source] == node]
            for node in range(1, len(self.inputs) + 1)
        ]
        if decoder == "residual":
            self.nodes = nn.ModuleList(residual_node(sources, channels) for sources in self.inputs)
            self.output = residual_output(self.outputs, channels)
        else:
            self.nodes = nn.ModuleList(dense_node(sources, channels) for sources in self.inputs)
            self.output = dense_output(self.outputs, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Output ``(n, channels, h, w)`` of a phase input of the same shape."""
        values = {0: x}
        for number, node in enumerate(self.nodes, 1):
            values[number] = node(join([values[source] for source in self.inputs[number - 1]]))
            for source in self.finished[number - 1]:
                del values[source]
        return self.output(join([values[source] for source in self.outputs]))


def join(values: list[Tensor]) -> Tensor:
    """Values concatenated along the channels."""
    return values[0] if len(values) == 1 else torch.cat(values, 1)


def residual_node(sources: Sequence[int], channels: int) -> nn.Sequential:
    """1×1 convolution where several values come in, then 3×3 convolution – BN – ReLU."""
    convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return nn.Sequential(*_mix(sources, channels), convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def residual_output(sources: Sequence[int], channels: int) -> nn.Sequential:
    """1×1 convolution where several values come in, then BN – ReLU."""
    return nn.Sequential(*_mix(sources, channels), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def _mix(sources: Sequence[int], channels: int) -> list[nn.Module]:
    several = len(sources) > 1
    return [nn.Conv2d(len(sources) * channels, channels, 1, bias=False)] if several else []


def dense_node(sources: Sequence[int], channels: int) -> nn.Sequential:
    """BN – ReLU – 1×1 (→ 2·channels) – BN – ReLU – 3×3 (→ channels/2): 256 and 64 for NSGA-Net's 128."""
    width, bottleneck, growth = _dense_width(sources, channels), 2 * channels, channels // 2
    return nn.Sequential(
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, bottleneck, 1, bias=False),
        nn.BatchNorm2d(bottleneck),
        nn.ReLU(inplace=True),
        nn.Conv2d(bottleneck, growth, 3, padding=1, bias=False),
    )


def dense_output(sources: Sequence[int], channels: int) -> nn.Sequential:
    """1×1 convolution – BN – ReLU."""
    convolution = nn.Conv2d(_dense_width(sources, channels), channels, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def _dense_width(sources: Sequence[int], channels: int) -> int:
    return sum(channels // 2 if source else channels for source in sources)
