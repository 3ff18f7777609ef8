"""An artifact opened for serving: tokenizer, device and engine, which every face of serving shares."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from warploom.errors import ArtifactError
from warploom.runtime.artifact import Artifact, load
from warploom.runtime.beam_engine import BeamEngine
from warploom.runtime.device import Device
from warploom.runtime.devices import DeviceKind, DeviceOptions, open_device
from warploom.runtime.draft_model import Drafter
from warploom.runtime.guide import GuideCompiler
from warploom.runtime.manifest import Manifest
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.speculative_config import SpeculativeConfig
from warploom.runtime.tokenizer import Tokenizer

_DRAFT_TOKENS = 1 << 17  # in the cache of a model that drafts: few requests do at once


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What serving needs of an artifact; `default_params` are its authors'."""

    artifact: Artifact
    tokenizer: Tokenizer
    default_params: SamplingParams
    device: Device
    engine: BeamEngine
    drafter: Drafter | None = None

    def close(self) -> None:
        """Free the devices."""
        self.device.close()
        if self.drafter is not None:
            self.drafter.device.close()


def open_model(
    artifact: Artifact | str | os.PathLike[str],
    device: Device | DeviceKind | None,
    options: DeviceOptions,
    speculation: SpeculativeConfig | None = None,
) -> ServedModel:
    """Open an artifact or a path to one; for the arguments see `LLM`, which also names the errors."""
    artifact = artifact if isinstance(artifact, Artifact) else load(artifact)
    drafter: Drafter | None = None
    if speculation is not None:
        kind = device if isinstance(device, str) else None
        drafter = _open_drafter(speculation, artifact.manifest, kind, options)
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
        drafter=drafter,
    )
    default_params = SamplingParams.from_generation(manifest.generation)
    return ServedModel(artifact, tokenizer, default_params, device, engine, drafter)


def _open_drafter(
    speculation: SpeculativeConfig, manifest: Manifest, kind: DeviceKind | None, options: DeviceOptions
) -> Drafter | None:
    """Open the model that drafts, before the one that is served, which takes what is left of a GPU's memory."""
    if speculation.model is None:
        return None
    artifact = load(speculation.model)
    own = artifact.manifest
    if own.vocab_size != manifest.vocab_size:
        raise ArtifactError(
            "The draft model has another vocabulary than the model",
            expected=f"{manifest.vocab_size} tokens",
            found=f"{own.vocab_size} in {artifact.path}",
            fix="draft with a model of the same family, or with n-grams",
        )
    kv_bytes = max(info.kv.bytes_per_page * info.kv.pages(_DRAFT_TOKENS) for info in own.targets.values())
    device = open_device(artifact, kind, replace(options, kv_bytes=kv_bytes, num_drafts=0))
    return Drafter(device, own.max_context)
