"""Reference networks and published genotypes, by name.

Every network takes images in [0,1] of any size from 8×8 up and normalises inside. Sizes, at ``width=1``:

================ ===========================================================================================
``lenet``        LeNet-5 (LeCun et al. 1998) with ReLU and max pooling: 6-16 channels, 120-84 hidden units
``resnet``       ResNet-20 (He et al. 2016, section 4.2): 16-32-64 channels, three basic blocks each
``resnet-18``    64-128-256-512 channels, two basic blocks each
``resnet-50``    the same widths in bottleneck blocks, 3-4-6-3 of them
``wrn-28-10``    wide ResNet (Zagoruyko & Komodakis 2016): 160-320-640 channels, four blocks each; 36.48M
``wrn-34-10``    the same with five blocks each: 46.16M
``densenet``     DenseNet-BC of 40 layers (Huang et al. 2017): growth 12, three blocks of six layers
``densenet-121`` growth 32, blocks of 6, 12, 24 and 16 layers
``vgg-16``       13 convolutions of 64 to 512 channels with batch normalisation, global pooling, one linear layer
``vgg-19``       the same with 16 convolutions
================ ===========================================================================================

Networks that papers published, found by their searches:

==================== =======================================================================================
``robnet-small``     RobNet (Guo et al. 2020): 20 cells that share one α, 36 channels; 4.41M with 100 classes
``robnet-medium``    5.67M with 100 classes, as the paper's. Its cell was never published: this one is ours
``robnet-large``     the same with more operations: 6.89M
``robnet-large-v2``  the large cell, 33 times, 64 channels: 33.42M
``robnet-free``      20 cells, each with an α of its own, 36 channels: 5.49M
``darts-v1``         DARTS, first order (Liu et al. 2019): 20 cells, 36 channels; 3.17M with 10 classes, as below
``darts-v2``         DARTS, second order: 3.35M
``pc-darts``         PC-DARTS (Xu et al. 2020): 3.63M
``racl``             RACL (Dong et al. 2020): 3.57M
``advrush``          AdvRush (Mok et al. 2021): 4.16M
``pvll``             PVLL (Li et al. 2020): 3.51M
``wsr-basic``        Wsr-NAS Basic, which is Robust's too (Cheng et al. 2023), 45 channels: 4.54M
``wsr-plus``         Wsr-NAS Plus, 46 channels: 4.74M
``roco-table5``      RoCo-NAS (2021), Table V, with the 32 channels of its final training: 1.35M. With
                     ``channels=16``, 32,223,744 FLOPs by NSGA-Net's rule, as printed
==================== =======================================================================================

Blocks and layers of the reference networks are torchvision's where it has them. Up to 64×64 pixels residual and dense
networks begin with one 3×3 convolution of stride 1 (the usual stem for CIFAR); above, with torchvision's 7×7 stem,
published genotypes with three convolutions of stride 2. ``stem`` chooses otherwise. Poolings of VGG that would leave
nothing of a small image are left out (two on 8×8 digits). ``width`` multiplies the channels, for images that need no
more; LeNet, small as it is, is never narrowed. :class:`Network` describes what else can be chosen: ``channels``,
``layers``, ``stem``, and blocks that denoise features (``denoise``).
"""

from __future__ import annotations

from evo_robust.zoo.denoising import DenoisingBlock
from evo_robust.zoo.network import (
    Denoise,
    Network,
    Stem,
    build,
    check_denoise,
    check_name,
    denoise_found,
    from_text,
    names,
    told,
)
from evo_robust.zoo.plan import SMALL_SIDE

__all__ = [
    "SMALL_SIDE",
    "Denoise",
    "DenoisingBlock",
    "Network",
    "Stem",
    "build",
    "check_denoise",
    "check_name",
    "denoise_found",
    "from_text",
    "names",
    "told",
]
