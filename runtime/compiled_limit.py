"""What a device may be asked for: no more than its artifact was compiled for."""

from __future__ import annotations

from warploom.errors import EngineError
from warploom.runtime.plan import DimRange


def compiled_limit(name: str, given: int | None, default: int, compiled: DimRange) -> int:
    """Return the limit asked for, or the default within what was compiled.

    Args:
        name: of the option, such as `max_num_seqs`.

    Raises:
        EngineError: more is asked for than was compiled, or less than 1.
    """
    if given is None:
        return min(default, compiled.max)
    if not 1 <= given <= compiled.max:
        raise EngineError(
            f"The device cannot take {name}",
            expected=f"1..{compiled.max}, the most that the artifact was compiled for",
            found=str(given),
        )
    return given
