"""Fast copies of networks for level attacks: without normalisation, without gradients, with fast pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evo_robust.attacks.fast import for_attack
from evo_robust.attacks.level.encoding import Tone
from evo_robust.spaces.ops import Normalize


class HalvingMaxPool(nn.Module):
    """Max pooling of 2×2 pixels with stride 2, as maxima of slices.

    torch's own kernel also finds the position of the maximum, which only gradients need. For few channels on a CPU it
    takes 3 to 10 times as long, a third of LeNet's whole time. Results are equal to the bit.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, h, w)`` → ``(n, c, h // 2, w // 2)``."""
        rows, columns = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
        x = torch.maximum(x[:, :, 0:rows:2], x[:, :, 1:rows:2])
        return torch.maximum(x[..., 0:columns:2], x[..., 1:columns:2])


def for_queries(model: nn.Module, pixels: Tensor) -> tuple[Tone, nn.Module]:
    """A fast copy of ``model`` (in eval mode), and the map from grey values 0..255 to the input of that copy.

    Args:
        model: network from images in [0,1] to logits; it is not changed. If its first module is ``Normalize``, the copy
            has none, since normalising each candidate takes as long as a layer of a small network.
        pixels: some uint8 images ``(n, c, h, w)``, n >= 1.
    """
    tone, body = _split(model, pixels.shape[1], pixels.device)
    sample = tone(pixels.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    fast = for_attack(body, sample)
    if pixels.device.type == "cpu":
        pools = [name for name, module in fast.named_modules() if _halves(module)]
        for name in pools:
            fast.set_submodule(name, HalvingMaxPool())
    return tone, fast


def _split(model: nn.Module, channels: int, device: torch.device) -> tuple[Tone, nn.Module]:
    scale, shift = torch.full((channels,), 1 / 255, device=device), torch.zeros(channels, device=device)
    parts = list(model.children())
    if type(model) is not nn.Sequential or not parts or not isinstance(parts[0], Normalize):
        return Tone(scale, shift), model
    mean, std = parts[0].mean.flatten(), parts[0].std.flatten()
    return Tone(scale / std, -mean / std), nn.Sequential(*parts[1:])


def _halves(module: nn.Module) -> bool:
    """Whether a module is max pooling of 2×2 pixels with stride 2."""
    if type(module) is not nn.MaxPool2d or module.ceil_mode or module.return_indices:
        return False
    kernel, stride = (tuple(v) if isinstance(v, tuple) else (v, v) for v in (module.kernel_size, module.stride))
    return kernel == stride == (2, 2) and module.padding in (0, (0, 0)) and module.dilation in (1, (1, 1))
