"""Fast copies of a network for gradient attacks: folded batch normalisation, bfloat16."""

from __future__ import annotations

import copy
import math
import time
from typing import Literal, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from evo_robust.inference.checks import check_images, check_network, slope
from evo_robust.inference.predictions import eval_mode

Precision = Literal["float32", "bf16", "auto"]


class _Crafter(nn.Module):
    """A network with another number format and memory layout; its logits are float32 again."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network.to(dtype).to(memory_format=torch.channels_last)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, n_classes)`` in float32, for images ``(n, c, h, w)``."""
        logits: Tensor = self.network(x.to(dtype=self.dtype, memory_format=torch.channels_last))
        return logits.float()


def for_attack(model: nn.Module, sample: Tensor, precision: Precision = "float32") -> nn.Module:
    """A copy of ``model`` in eval mode that is fast to differentiate with respect to its images.

    Its parameters need no gradient, and its memory is channels-last. Batch normalisation after a convolution is folded
    into it, if the graph can be traced and the folded network gives the same logits on ``sample``. Since rounding
    differs, ``model`` has to confirm the adversarial images.

    Args:
        model: network from images in [0,1] to logits; it is not changed.
        sample: images ``(n, c, h, w)`` like those to attack, n >= 1.
        precision: ``float32``; ``bf16``; or ``auto``, whichever of the two is measured as faster on ``sample``, so that
            the choice may differ from run to run (on most CPUs bfloat16 is not faster for depthwise convolutions).

    Raises:
        ValueError: the precision is unknown, or ``sample`` is wrong.
    """
    check_network(model)
    check_images(sample)
    if precision not in get_args(Precision) or len(sample) == 0:
        wanted = f"precision {' or '.join(get_args(Precision))} and at least 1 image"
        raise ValueError(f"expected {wanted}, got {precision!r} and {len(sample)}")
    with eval_mode(model):
        network = fold_batch_norm(model, sample)
    if precision == "float32":
        return _Crafter(network, torch.float32)
    if precision == "bf16":
        return _Crafter(network, torch.bfloat16)
    choices = [_Crafter(copy.deepcopy(network), dtype) for dtype in (torch.float32, torch.bfloat16)]
    return min(choices, key=lambda choice: _seconds(choice, sample))


def fold_batch_norm(network: nn.Module, sample: Tensor) -> nn.Module:
    """A copy of ``network`` (in eval mode); each batch norm fed by a single convolution is folded into it.

    If the network cannot be traced, or its folded form gives other logits on ``sample`` ``(n, c, h, w)``, this is a
    plain copy. No parameter of the copy needs a gradient.
    """
    try:
        # modules that the graph does not use, such as idle operations of a supernet, are not copied
        graph = copy.deepcopy(_traced(network))
    except Exception:  # tracing runs the network's own code on proxies, which may raise anything
        return copy.deepcopy(network).requires_grad_(False)
    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        feeder = node.args[0] if node.op == "call_module" and len(node.args) == 1 else None
        if not isinstance(feeder, fx.Node) or feeder.op != "call_module" or len(feeder.users) > 1:
            continue
        conv, norm = modules[str(feeder.target)], modules[str(node.target)]
        used_once = sum(n.target in (feeder.target, node.target) for n in graph.graph.nodes) == 2
        if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_mean is not None and used_once:
            graph.set_submodule(str(feeder.target), fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(feeder)
            graph.graph.erase_node(node)
    graph.recompile()
    graph.delete_all_unused_submodules()
    folded = graph.eval().requires_grad_(False)
    return folded if _same_logits(network, folded, sample) else copy.deepcopy(network).requires_grad_(False)


def _traced(network: nn.Module) -> fx.GraphModule:
    """The graph of a network; tracing leaves nothing in its modules (constants, attributes set by ``forward``)."""
    before = [(module, dict(vars(module))) for module in network.modules()]
    try:
        return fx.symbolic_trace(network)
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


@torch.no_grad()
def _same_logits(one: nn.Module, other: nn.Module, sample: Tensor) -> bool:
    """Whether two networks agree within float32 rounding."""
    expected, got = one(sample), other(sample)
    scale = expected.abs().amax().item()
    if not math.isfinite(scale):  # such a network cannot be compared, so it is used unfolded
        return False
    return torch.allclose(expected, got, rtol=1e-3, atol=1e-3 * max(scale, 1e-6))


def _seconds(network: nn.Module, sample: Tensor, repeats: int = 3) -> float:
    """Shortest time of one attack step (forward and backward to the image)."""
    times = []
    for _ in range(repeats + 1):  # the first one is a warm-up
        began = time.perf_counter()
        with torch.enable_grad():
            x = sample.detach().clone().requires_grad_()
            gradient = slope(network(x).sum(), x)
        gradient.flatten()[0].item()  # waits for a device
        times.append(time.perf_counter() - began)
    return min(times[1:])
