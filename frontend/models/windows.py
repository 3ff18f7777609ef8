"""Which layers see a window only."""

from __future__ import annotations

from collections.abc import Callable

from warploom.frontend.models.config import ConfigReader

FULL, SLIDING = "full_attention", "sliding_attention"


def read_layer_types(read: ConfigReader, layers: int, sliding: Callable[[int], bool]) -> list[str]:
    """`layer_types`, one per layer; without the field, `sliding` says it of an index.

    Raises:
        UnsupportedModelError: another number of them, or other types.
    """
    types = read.items("layer_types") or [SLIDING if sliding(i) else FULL for i in range(layers)]
    if len(types) != layers or any(one not in (FULL, SLIDING) for one in types):
        raise read.refusal("layer_types", f"{layers} of {FULL} and {SLIDING}")
    return types


def read_windows(
    read: ConfigReader, layers: int, *, default: int | None = None, sliding: Callable[[int], bool] = lambda index: True
) -> list[int]:
    """The window of each layer, 0 where it sees everything.

    Args:
        read: of the config.
        layers: how many.
        default: what `sliding_window` is where the config does not state it; None: no window.
        sliding: which layers slide where the config does not state `layer_types`.
    """
    window = read.stated("sliding_window", default) or 0
    if not isinstance(window, int) or isinstance(window, bool) or window < 0:
        raise read.refusal("sliding_window", "a positive integer, or null")
    types = read_layer_types(read, layers, lambda index: bool(window) and sliding(index))
    return [window if kind == SLIDING else 0 for kind in types]
