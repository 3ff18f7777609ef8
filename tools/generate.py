"""`warploom generate`: answer prompts, printed while the answer is made, or as one JSON object."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import msgspec

from warploom.errors import InvalidRequestError
from warploom.runtime.llm import LLM
from warploom.runtime.output import Completion
from warploom.tools.device_flags import add_device_flags
from warploom.tools.sampling_flags import add_sampling_flags, sampling_params
from warploom.tools.streaming import Streamed, print_stream

_EXAMPLES = """\
examples:
  warploom generate smollm2 "Once upon a time" --max-tokens 64
  warploom generate smollm2 --chat "Why is the sky blue?" --temperature 0.7 --seed 1
  warploom generate smollm2 --chat "A cat's name and age" --json-schema cat.schema.json
  git diff | warploom generate smollm2 --chat - --json | jq -r '.completions[0].text'
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = "Answer prompts. One prompt is streamed; several are computed together, printed in order."
    parser.epilog = _EXAMPLES
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="the folder that `warploom compile` wrote")
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="a text to continue; - reads standard input")
    parser.add_argument("--chat", action="store_true", help="ask the prompt as a user, through the chat template")
    parser.add_argument("--system", metavar="TEXT", help="with --chat: instructions that stand before the prompt")
    parser.add_argument("--json", action="store_true", help="print one JSON object with texts, tokens and times")
    parser.add_argument("--logprobs", type=int, metavar="N", help="with --json: report the N likeliest tokens (0..20)")
    parser.add_argument(
        "--prompt-logprobs", type=int, metavar="N", help="with --json: the same for the prompt's tokens (0..20)"
    )
    parser.add_argument("--n", type=int, metavar="N", help="answers to each prompt (default: 1)")
    parser.add_argument("--best-of", type=int, metavar="N", help="make N answers, print the likeliest of them")
    parser.add_argument("--stats", action="store_true", help="print times and tokens/s on stderr")
    add_device_flags(parser)
    add_sampling_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Answer the prompts of a parsed command line."""
    _refuse_idle_flags(args)
    started = time.perf_counter()
    with LLM(args.artifact, device=args.device, threads=args.threads) as llm:
        load_seconds = time.perf_counter() - started
        params = sampling_params(args, llm.default_params)
        prompts = [_encode(llm, _text(prompt), args) for prompt in args.prompts]
        if len(prompts) == 1 and params.num_made == 1 and not args.json:
            answer = print_stream(llm.stream(prompts[0], params))
            if args.stats:
                print(_stats_of(answer, started, load_seconds), file=sys.stderr)
            return
        completions = llm.generate(prompts, params)
        total_seconds = time.perf_counter() - started
    if args.json:
        _print_json(llm, completions, load_seconds, total_seconds)
    else:
        _print_all(args.prompts, completions, params.n)
    if args.stats:
        num_tokens = sum(len(completion.token_ids) for completion in completions)
        print(f"loaded in {load_seconds:.2f} s, {num_tokens} tokens after {total_seconds:.2f} s", file=sys.stderr)


def _refuse_idle_flags(args: argparse.Namespace) -> None:
    """What would be taken without a word and change nothing."""
    if args.system is not None and not args.chat:
        raise InvalidRequestError("--system is part of a conversation", fix="add --chat")
    if not args.json and (args.logprobs is not None or args.prompt_logprobs is not None):
        raise InvalidRequestError("log-probabilities are reported in JSON only", fix="add --json")


def _text(prompt: str) -> str:
    """The prompt, or standard input for `-`; what is not UTF-8 is refused by the tokenizer, by name."""
    return sys.stdin.buffer.read().decode("utf-8", "surrogateescape") if prompt == "-" else prompt


def _encode(llm: LLM, text: str, args: argparse.Namespace) -> list[int]:
    if args.chat:
        system = [] if args.system is None else [{"role": "system", "content": args.system}]
        return llm.tokenizer.encode_chat([*system, {"role": "user", "content": text}])
    return llm.tokenizer.encode(text)


def _stats_of(answer: Streamed, started: float, load_seconds: float) -> str:
    return (
        f"loaded in {load_seconds:.2f} s, first token after {answer.first - started:.2f} s (load included), "
        f"{answer.num_tokens} tokens, {answer.tokens_per_second:.1f} tokens/s"
    )


def _print_all(prompts: list[str], completions: list[Completion], answers: int) -> None:
    for number, completion in enumerate(completions):
        prompt, which = prompts[number // answers], f", answer {completion.index + 1}" if answers > 1 else ""
        print(f"[{number // answers + 1}{which}] {prompt}\n{completion.text}\n")


def _print_json(llm: LLM, completions: list[Completion], load_seconds: float, total_seconds: float) -> None:
    result = {
        "artifact": str(llm.artifact.path),
        "model": llm.artifact.manifest.model.id,
        "load_seconds": load_seconds,
        "total_seconds": total_seconds,
        "completions": completions,
    }
    print(msgspec.json.encode(result).decode())
