"""An artifact opened for serving: tokenizer, device and engine, which every face of serving shares."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from warploom.runtime.artifact import Artifact, load
from warploom.runtime.beam_engine import BeamEngine
from warploom.runtime.device import Device
from warploom.runtime.devices import DeviceKind, DeviceOptions, open_device
from warploom.runtime.guide import GuideCompiler
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.speculative_config import SpeculativeConfig
from warploom.runtime.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What serving needs of an artifact; `default_params` are its authors'."""

    artifact: Artifact
    tokenizer: Tokenizer
    default_params: SamplingParams
    device: Device
    engine: BeamEngine


def open_model(
    artifact: Artifact | str | os.PathLike[str],
    device: Device | DeviceKind | None,
    options: DeviceOptions,
    speculation: SpeculativeConfig | None = None,
) -> ServedModel:
    """Open an artifact or a path to one; for the arguments see `LLM`, which also names the errors."""
    artifact = artifact if isinstance(artifact, Artifact) else load(artifact)
    if speculation is not None:
        options = replace(options, num_drafts=speculation.num_speculative_tokens)
    manifest = artifact.manifest
    tokenizer = Tokenizer.from_artifact(artifact)
    if device is None or isinstance(device, str):
        device = open_device(artifact, device, options)
    ends = manifest.tokenizer.eos_token_ids
    engine = BeamEngine(
        device,
        vocab_size=manifest.vocab_size,
        max_context=manifest.max_context,
        eos_token_ids=ends,
        guides=GuideCompiler(manifest.vocab_size, tokenizer.token_bytes, ends),
        speculation=speculation,
    )
    return ServedModel(artifact, tokenizer, SamplingParams.from_generation(manifest.generation), device, engine)
