"""Every error a user can meet. Each names what was wrong, what was expected, what was found, and what to do next.

This module is a leaf: it imports nothing of ours, so that every room can raise these errors.
"""

from __future__ import annotations


class WarploomError(Exception):
    """Base of all our errors.

    Args:
        what: what was wrong, one sentence, naming the thing (a file, a field, a tensor).
        expected: what would have been right.
        found: what was there instead.
        fix: what the user can do next.
    """

    def __init__(
        self, what: str, *, expected: str | None = None, found: str | None = None, fix: str | None = None
    ) -> None:
        self.what, self.expected, self.found, self.fix = what, expected, found, fix
        rows = (("expected", expected), ("found", found), ("fix", fix))
        super().__init__("\n".join([what, *(f"  {label}: {text}" for label, text in rows if text)]))


class ModelNotFoundError(WarploomError):
    """The model id or path names nothing that can be read, or the hub cannot be reached."""


class UnsupportedModelError(WarploomError):
    """The architecture, a config field, or a tensor format is one that we do not compile."""


class CheckpointError(WarploomError):
    """A checkpoint file is missing, truncated, corrupt, or holds a tensor of the wrong shape or dtype."""


class IRError(WarploomError):
    """An IR program is malformed: wrong types, an undecidable dimension, an unknown op."""


class CompileError(WarploomError):
    """Code generation failed: a missing tool, an unsupported target, a group without a kernel."""


class ArtifactError(WarploomError):
    """An artifact cannot be written, or is corrupt, newer than this runtime, or made for another machine."""


class InvalidRequestError(WarploomError, ValueError):
    """A prompt or a sampling parameter is outside what the model or the engine accepts.

    Attributes:
        param: the parameter at fault, if it is a single one.
    """

    def __init__(
        self,
        what: str,
        *,
        expected: str | None = None,
        found: str | None = None,
        fix: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(what, expected=expected, found=found, fix=fix)
        self.param = param


class EngineError(WarploomError):
    """The engine cannot take or finish a request."""


class DeviceError(WarploomError):
    """The machine has no GPU that can run the artifact, or its driver or memory does not do."""


class QueueFullError(EngineError):
    """The engine has as many unfinished requests as it takes; HTTP 429.

    Attributes:
        retry_after_s: seconds after which a place is likely to be free.
    """

    def __init__(self, what: str, *, retry_after_s: float, found: str | None = None) -> None:
        super().__init__(what, found=found, fix=f"try again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


class DeadlineError(EngineError):
    """A request was not finished within the time that its sender gave it."""


class EngineDeadError(EngineError):
    """A device step failed or never ended; the engine takes and finishes nothing more."""
