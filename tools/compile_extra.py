"""What only an installation with the compiler can do says so."""

from __future__ import annotations

from importlib.util import find_spec

from warploom.errors import CompileError


def require_compiler(what: str) -> None:
    """Raise a CompileError if this installation cannot do `what` because it can only serve artifacts."""
    missing = next((name for name in ("mlir", "ml_dtypes") if find_spec(name) is None), None)
    if missing is not None:
        raise CompileError(
            f"This installation of warploom can serve artifacts but not {what}",
            expected="the packages of the extra [compile]",
            found=f"no package {missing}",
            fix="pip install 'warploom[compile]'",
        )
