"""FP8 rows that the kernel `round_rows` wrote, on any device of torch: they are what their meaning allows, to the bit.

Rounding is exact, but the last f32 bits of a norm before it depend on the order of a sum: one in tens of thousands of
normed values lies so near the middle of two bf16 that these bits decide. There both neighbours are right; everywhere
else one number is.
"""

from __future__ import annotations

from typing import Any

import torch

LARGEST = 448  # of f8
LAST_BITS = 2**-20  # relative: a sum of thousands of f32 in any order, a quotient, a root and two products


def scales_of(rows: torch.Tensor) -> torch.Tensor:
    """[T] max|x| / 448 of f32 rows. A quotient of tensors: for a plain number, torch's CUDA multiplies by 1 / 448.

    That is not IEEE's quotient: the last bit may differ, which decides all ties of a row, and a row whose max|x| is a
    multiple of 7 can have many.
    """
    peaks = rows.abs().amax(-1)
    return peaks / torch.full_like(peaks, LARGEST)


def wrong_rows(x: torch.Tensor, norm: dict[str, Any] | None, gain: torch.Tensor, made: list[torch.Tensor]) -> list[str]:
    """What is wrong with rounded rows.

    Args:
        x: [T, k], what was normed and rounded.
        norm: its `eps`; None: there is none.
        gain: [k], of the norm.
        made: f8 [T, k] and f32 scales [T].
    """
    codes, scale = made[0].float(), made[1]
    low = high = x.float()
    if norm is not None:
        wide = x.double()
        normed = wide / (wide.square().mean(-1, keepdim=True) + norm["eps"]).sqrt() * gain.double()
        low, high = ((normed * (1 + error)).bfloat16().float() for error in (-LAST_BITS, LAST_BITS))
    failures = []
    if not ((scale == scales_of(low)) | (scale == scales_of(high))).all():
        failures.append("scales are not max|x| / 448")
    nearest = [(rows / scale[:, None]).to(torch.float8_e4m3fn).float() for rows in (low, high)]
    if wrong := int(((codes != nearest[0]) & (codes != nearest[1])).sum()):
        failures.append(f"{wrong} rounded values are not the nearest")
    return failures
