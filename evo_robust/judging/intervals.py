"""How sure an accuracy on some images is."""

from __future__ import annotations

import math

Z = 1.959963984540054
"""97.5 % quantile of the normal distribution: two-sided 95 %."""


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, of which ``right`` of ``n`` independent images were seen (Wilson, 1927).

    It stays inside [0, 1] and is no point at 0 or n, unlike the normal interval.

    Example:
        >>> tuple(round(end, 3) for end in wilson(90, 100))
        (0.826, 0.945)

    Raises:
        ValueError: not 0 <= right <= n, or no images.
    """
    if not (n >= 1 and 0 <= right <= n):
        raise ValueError(f"expected 0 <= right <= n and n >= 1, got {right} of {n}")
    share = right / n
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    # at 0 and n the ends are exact; rounding would put the share itself outside
    return max(0.0, middle - half) if right else 0.0, min(1.0, middle + half) if right < n else 1.0
