"""lm-eval's local-completions client, unmodified, against transformers.

CI installs `lm-eval` without its dependencies: the client itself needs few of them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.model.oracle import Oracle
from tests.model.server.conftest import MODEL, Compile, ServerProcess

pytest.importorskip("lm_eval", reason="pip install --no-deps lm-eval")
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI
from transformers import PreTrainedTokenizerFast

TOTAL = 1e-2  # nats, over the whole task
TASK = [
    ("The capital of France is", [" Paris", " Rome", " a city of two rivers"]),
    ("Water boils at", [" 100 degrees Celsius.", " noon."]),
    ("def add(a, b):\n    return", [" a + b", " a - b"]),
    ("Question: What is 2 + 2?\nAnswer:", [" 4", " 5", " 22"]),
    ("Überraschung: naïve café,", [" 東京", " und"]),
]


@pytest.fixture(scope="module")
def tokenizer_folder(compiled_smollm2: Compile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    artifact = compiled_smollm2("f32")
    info = artifact.manifest.tokenizer
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(artifact.path / info.file), bos_token=info.bos_token, eos_token=info.eos_token
    )
    tokenizer.save_pretrained(folder)
    return folder


def test_loglikelihoods_equal_transformers(
    served_exactly: ServerProcess, oracle: Oracle, tokenizer_folder: Path
) -> None:
    client = LocalCompletionsAPI(
        base_url=f"{served_exactly.url}/v1/completions", model=MODEL, tokenizer=str(tokenizer_folder), batch_size=4
    )
    pairs = [(context, choice) for context, choices in TASK for choice in choices]
    found = client.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs], disable_tqdm=True)
    total, expected_total = 0.0, 0.0
    for (context, choice), (logprob, greedy) in zip(pairs, found, strict=True):
        context_ids, choice_ids = client._encode_pair(context, choice)
        rows = oracle.logits([*context_ids, *choice_ids])[len(context_ids) - 1 : -1].astype(np.float64)
        logprobs = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
        expected = float(logprobs[np.arange(len(choice_ids)), choice_ids].sum())
        assert logprob == pytest.approx(expected, abs=TOTAL)
        assert greedy == (rows.argmax(axis=1).tolist() == choice_ids), (context, choice)
        total, expected_total = total + logprob, expected_total + expected
    print(json.dumps({"pairs": len(pairs), "total": total, "transformers": expected_total}))
    assert abs(total - expected_total) <= TOTAL


def test_generation(served_exactly: ServerProcess, tokenizer_folder: Path) -> None:
    client = LocalCompletionsAPI(
        base_url=f"{served_exactly.url}/v1/completions", model=MODEL, tokenizer=str(tokenizer_folder), batch_size=1
    )
    arguments = ("The capital of France is", {"until": ["\n"], "max_gen_toks": 4})
    [text] = client.generate_until([Instance("generate_until", {}, arguments, 0)], disable_tqdm=True)
    assert text.strip().startswith("Paris")
    assert "\n" not in text
