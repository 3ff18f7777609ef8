"""`warploom serve`: an OpenAI-compatible server over an artifact."""

from __future__ import annotations

import argparse
import logging
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

from warploom.errors import ArtifactError, InvalidRequestError
from warploom.runtime.async_llm import AsyncLLM
from warploom.runtime.server.limits import Limits
from warploom.tools.device_flags import add_device_flags
from warploom.tools.speculation_flags import add_speculation, speculation_of

_KEY_VARIABLE = "WARPLOOM_API_KEY"
_EXAMPLES = """\
examples:
  warploom serve smollm2
  warploom serve smollm2 --port 9000 --model-name smol
  warploom serve smollm2 --speculation ngram
  WARPLOOM_API_KEY=secret warploom serve smollm2 --host 0.0.0.0

  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"messages": [{"role": "user", "content": "Why is the sky blue?"}]}'
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    from warploom.runtime.server.tool_calls import ToolFormat

    parser.description = "Serve an artifact over HTTP, as OpenAI's API; http://HOST:PORT/ is a page to try it."
    parser.epilog = _EXAMPLES
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="the folder that `warploom compile` wrote")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one (default: 8000)")
    parser.add_argument("--model-name", metavar="NAME", help="what clients call the model (default: the folder's name)")
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE",
        help=f"API keys, one per line; one key may also come in the variable {_KEY_VARIABLE}",
    )  # fmt: skip
    engine = parser.add_argument_group("engine")
    add_device_flags(engine)
    engine.add_argument("--max-num-seqs", type=int, metavar="N", help="most requests in one step")
    engine.add_argument("--max-num-batched-tokens", type=int, metavar="N", help="most tokens in one step")
    engine.add_argument("--kv-cache-bytes", type=int, metavar="N", help="memory of the KV cache")
    engine.add_argument("--gpu-memory-fraction", type=float, metavar="X", help="how much of the GPU's memory is used")
    add_speculation(engine)
    engine.add_argument("--max-queue", type=int, default=256, metavar="N", help="answers that may wait (default: 256)")
    server = parser.add_argument_group("server")
    server.add_argument(
        "--tool-format", choices=("auto", "none", *get_args(ToolFormat)), default="auto",
        help="how the model writes tool calls (default: as its chat template says)",
    )  # fmt: skip
    server.add_argument(
        "--health-seconds", type=float, default=8.0, metavar="S",
        help="a step that takes longer turns /health red (default: 8)",
    )  # fmt: skip
    server.add_argument(
        "--hang-seconds", type=float, default=120.0, metavar="S", help="a step that takes longer ends the server"
    )
    server.add_argument(
        "--drain-seconds", type=float, default=30.0, metavar="S", help="for unfinished answers after SIGTERM"
    )
    server.add_argument(
        "--limit", action="append", default=[], metavar="NAME=N", help="a bound on requests; see docs/server.md"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Serve until a signal comes."""
    try:
        from warploom.runtime.server.run import ServerOptions, bind
        from warploom.runtime.server.run import run as serve
        from warploom.runtime.server.service import Service
        from warploom.runtime.server.tool_calls import detect_format
    except ImportError as error:
        raise ArtifactError(
            "The server's packages are not installed", found=str(error), fix="pip install 'warploom[serve]'"
        ) from error
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    limits, keys = parse_limits(args.limit), read_keys(args.api_key_file)
    listener = bind(args.host, args.port)  # what cannot be is found before the weights are loaded
    llm = AsyncLLM.load(
        args.artifact,
        device=args.device,
        threads=args.threads,
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=args.max_num_batched_tokens,
        kv_cache_bytes=args.kv_cache_bytes,
        gpu_memory_fraction=args.gpu_memory_fraction,
        speculation=speculation_of(args),
        max_queue=args.max_queue,
        hang_timeout_s=args.hang_seconds,
    )
    detected = detect_format(llm.tokenizer.chat_template_text)
    service = Service(
        llm,
        model_name=args.model_name or args.artifact.absolute().name,
        limits=limits,
        tool_format={"auto": detected, "none": None}.get(args.tool_format, args.tool_format),
        health_seconds=args.health_seconds,
    )
    serve(service, ServerOptions(keys, args.drain_seconds), listener)


def read_keys(path: Path | None) -> list[str]:
    """Return the API keys of the file and of the variable; InvalidRequestError if the file cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path else []
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"The API keys {path} cannot be read", found=str(error)) from error
    keys = [line.strip() for line in (*lines, os.environ.get(_KEY_VARIABLE, "")) if line.strip()]
    if path and not keys:
        raise InvalidRequestError(f"The file {path} holds no API key", expected="a key per line")
    return keys


def parse_limits(given: list[str]) -> Limits:
    """Return the default limits with those of NAME=N; InvalidRequestError if a name or a number is none."""
    names = {field.name for field in fields(Limits)}
    changes = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in names or not value.isdecimal():
            raise InvalidRequestError(
                "A limit is not valid", expected=f"NAME=N with one of {', '.join(sorted(names))}", found=text
            )
        changes[name] = int(value)
    return replace(Limits(), **changes)
