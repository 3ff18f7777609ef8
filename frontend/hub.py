"""Models from the Hugging Face hub, through huggingface_hub: its cache, its tokens, its offline switch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from warploom.errors import ModelNotFoundError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?", re.ASCII)
# Names, not `*.safetensors`: repositories also hold copies of the weights in other layouts (consolidated, fp16, ...).
TEXT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form of a hub id, `owner/name` or `owner/name@revision`, not that of a path to a file."""
    return HUB_ID.fullmatch(text) is not None and not text.startswith(".") and not text.endswith(".gguf")


def fetch_model(model_id: str) -> Path:
    """The local folder of a hub model: config, tokenizer and weights, downloaded unless the cache has them.

    An id may end in `@` and a branch, tag or commit; without one, the hub's default branch is meant.
    Weights come as safetensors; as pickles only when the repository has no safetensors. Code in the repository is
    never downloaded.

    Raises:
        ModelNotFoundError: unknown id, gated or private repository, no network, or offline with nothing cached.
    """
    folder = _snapshot(model_id, (*TEXT_FILES, *SAFETENSORS))
    if not any(folder.glob("model*.safetensors")):
        _snapshot(model_id, (*TEXT_FILES, *PICKLES))
    return folder


def _snapshot(model_id: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import errors, snapshot_download

    from warploom.frontend.hub_progress import hub_progress

    try:
        with hub_progress() as bar_class:
            name, _, revision = model_id.partition("@")
            folder = snapshot_download(
                name, revision=revision or None, allow_patterns=list(patterns), tqdm_class=bar_class
            )
            return Path(folder)
    except errors.GatedRepoError as error:
        raise ModelNotFoundError(
            f"access to {model_id} is restricted by its owner",
            expected="a hub token whose account was granted access",
            found="access refused",
            fix="accept the licence on the model's page, then log in with `hf auth login` or set HF_TOKEN",
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise ModelNotFoundError(
            f"the hub has no model {model_id}",
            expected="a local path, or an id such as HuggingFaceTB/SmolLM2-135M-Instruct",
            found="no such folder here, and no such public repository there",
            fix="check the spelling; for a private model log in with `hf auth login` or set HF_TOKEN",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise _unreachable(model_id, error) from error
    except errors.HfHubHTTPError as error:
        raise ModelNotFoundError(
            f"the hub did not serve {model_id}",
            expected="a successful answer",
            found=str(error).splitlines()[0],
            fix="try again later, or give a local folder or a .gguf file",
        ) from error
    except OSError as error:  # the connection broke in the middle, or the disk is full
        raise ModelNotFoundError(
            f"the download of {model_id} did not finish",
            expected="a working connection and room on the disk",
            found=str(error),
            fix="run the command again; what was downloaded is kept",
        ) from error


def _unreachable(model_id: str, error: Exception) -> ModelNotFoundError:
    from huggingface_hub import constants

    offline: bool = constants.HF_HUB_OFFLINE
    return ModelNotFoundError(
        f"{model_id} is not in the local cache, and the hub "
        + ("is switched off by HF_HUB_OFFLINE" if offline else "cannot be reached"),
        expected=f"a complete snapshot in {constants.HF_HUB_CACHE}, or a connection to the hub",
        found=str(error).splitlines()[0] if str(error) else type(error).__name__,
        fix=("unset HF_HUB_OFFLINE" if offline else "check the network and proxy settings")
        + ", or give a local folder or a .gguf file",
    )
