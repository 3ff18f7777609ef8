"""Warploom: compile a Hugging Face model ahead of time, serve the artifact without PyTorch.

    import warploom

    artifact = warploom.compile("HuggingFaceTB/SmolLM2-135M-Instruct", out="smollm2")
    llm = warploom.LLM(artifact)
    print(llm.chat([{"role": "user", "content": "Why is the sky blue?"}]).text)

Names are imported on first use: `import warploom` is cheap, and serving never loads the compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from warploom import errors
from warploom.version import __version__

if TYPE_CHECKING:
    from warploom.compiler import compile
    from warploom.runtime.artifact import Artifact, load
    from warploom.runtime.async_llm import AsyncLLM
    from warploom.runtime.beam_search import BeamSearchParams
    from warploom.runtime.guide import Guide
    from warploom.runtime.llm import LLM
    from warploom.runtime.sampling_params import SamplingParams
    from warploom.runtime.speculative_config import SpeculativeConfig

_HOMES = {
    "compile": "warploom.compiler",
    "load": "warploom.runtime.artifact",
    "Artifact": "warploom.runtime.artifact",
    "BeamSearchParams": "warploom.runtime.beam_search",
    "Guide": "warploom.runtime.guide",
    "LLM": "warploom.runtime.llm",
    "AsyncLLM": "warploom.runtime.async_llm",
    "SamplingParams": "warploom.runtime.sampling_params",
    "SpeculativeConfig": "warploom.runtime.speculative_config",
}

__all__ = [
    "LLM", "Artifact", "AsyncLLM", "BeamSearchParams", "Guide", "SamplingParams", "SpeculativeConfig", "__version__",
    "compile", "errors", "load",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'warploom' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
