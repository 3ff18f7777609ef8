"""How a model's authors want it to sample: what their `generation_config.json` says of that, checked."""

from __future__ import annotations

import msgspec

from warploom.errors import CheckpointError, InvalidRequestError
from warploom.frontend.checkpoint import Checkpoint
from warploom.runtime.manifest import GenerationInfo
from warploom.runtime.sampling_params import SamplingParams


def generation_defaults(checkpoint: Checkpoint) -> GenerationInfo:
    """The fields that we serve with; others, such as those of beam search, are not looked at.

    Raises:
        CheckpointError: a value that no request could ask for.
    """
    stated = {name: value for name, value in checkpoint.generation.items() if value is not None}
    try:
        info = msgspec.convert(stated, GenerationInfo)
        SamplingParams.from_generation(info)
    except (msgspec.ValidationError, InvalidRequestError) as error:
        raise CheckpointError(
            f"generation_config.json of {checkpoint.model_id} has a value that no request could have",
            found=" ".join(str(error).split()),
            fix="correct it, or remove the file: requests that do not say how to sample are then greedy",
        ) from error
    return info
