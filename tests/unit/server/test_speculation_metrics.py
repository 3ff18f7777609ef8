"""What becomes of drafts, as metrics and as an answer's own figures; the arguments that ask for drafts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.runtime_fakes import FakeDevice, Oracle, fake_artifact
from warploom.errors import InvalidRequestError
from warploom.runtime.async_llm import AsyncLLM
from warploom.runtime.output import Delta
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.server.metrics import Metrics
from warploom.runtime.speculative_config import SpeculativeConfig
from warploom.tools.cli import build_parser
from warploom.tools.speculation_flags import speculation_of


class Same(Oracle):
    """Drafts one token for ever."""

    def _continued(self, request: object, number: int) -> list[int]:
        return [7] * number


def test_drafts_are_counted_under_our_names_and_vllms(tmp_path: Path) -> None:
    artifact = fake_artifact(tmp_path / "artifact")
    device = FakeDevice(num_pages=200, vocab_size=artifact.manifest.vocab_size, max_rows=8)

    async def run() -> tuple[list[str], Delta]:
        config = SpeculativeConfig(num_speculative_tokens=2)
        async with AsyncLLM.load(artifact, device=device, speculation=config) as llm:
            assert llm._engine._speculator is not None
            llm._engine._speculator._proposer = Same(0)
            last = [d async for d in llm.generate([5], SamplingParams(seed=1, max_tokens=9, ignore_eos=True))][-1]
            return Metrics(llm, "fake").text().decode().splitlines(), last

    lines, last = asyncio.run(run())
    drafts, draft_tokens = 3, 4
    for line in (
        f"warploom_drafts_total {drafts}.0",
        f'vllm:spec_decode_num_drafts_total{{model_name="fake"}} {drafts}.0',
        f'vllm:spec_decode_num_draft_tokens_total{{model_name="fake"}} {draft_tokens}.0',
        'vllm:spec_decode_num_accepted_tokens_total{model_name="fake"} 0.0',
        'vllm:spec_decode_num_accepted_tokens_per_pos_total{model_name="fake",position="1"} 0.0',
    ):
        assert line in lines, line
    assert last.metrics is not None
    assert (last.metrics.num_draft_tokens, last.metrics.num_accepted_tokens) == (draft_tokens, 0)


@pytest.mark.parametrize("command", ["serve", "bench"])
def test_the_command_line_asks_for_drafts(command: str) -> None:
    words = [command, *(["offline"] if command == "bench" else []), "artifact"]
    parser = build_parser(command)
    assert speculation_of(parser.parse_args(words)) is None
    ngram = parser.parse_args([*words, "--speculation", "ngram", "--num-speculative-tokens", "3"])
    assert speculation_of(ngram) == SpeculativeConfig("ngram", num_speculative_tokens=3)
    model = speculation_of(parser.parse_args([*words, "--speculation", "small"]))
    assert model == SpeculativeConfig("draft_model", "small")
    with pytest.raises(InvalidRequestError, match="how many tokens are drafted, but not how"):
        speculation_of(parser.parse_args([*words, "--num-speculative-tokens", "3"]))
