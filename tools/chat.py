"""`warploom chat`: a conversation in the terminal, or from lines of standard input."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType

from warploom.errors import InvalidRequestError
from warploom.runtime.chat_template import Message
from warploom.runtime.llm import LLM
from warploom.runtime.output import Delta
from warploom.runtime.sampling_params import SamplingParams
from warploom.tools.device_flags import add_device_flags
from warploom.tools.sampling_flags import add_sampling_flags, sampling_params
from warploom.tools.streaming import print_stream

_COMMANDS = """\
/reset         forget the conversation
/system TEXT   begin anew with these instructions; without TEXT, with none
/help          this list
/exit          leave (also /quit, Ctrl-D)
Ctrl-C ends the answer that is being written; at the prompt it leaves."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = "Talk with a chat model. Each line is a message; lines that begin with / are commands."
    parser.epilog = f"commands:\n{_COMMANDS}"
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="the folder that `warploom compile` wrote")
    parser.add_argument("--system", metavar="TEXT", help="instructions that stand before the conversation")
    add_device_flags(parser)
    add_sampling_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Talk until the input ends or the user leaves."""
    with LLM(args.artifact, device=args.device, threads=args.threads) as llm:
        conversation = Conversation(llm, sampling_params(args, llm.default_params), args.system)
        if sys.stdin.isatty():
            print(f"{llm.artifact.manifest.model.id}: type a message, or /help", file=sys.stderr)
        for line in _lines():
            if not conversation.take(line.strip()):
                return


class Conversation:
    """What was said so far. A refused message is not remembered."""

    def __init__(self, llm: LLM, params: SamplingParams, system: str | None) -> None:
        self._llm, self._params = llm, params
        self._restart(system)

    def take(self, line: str) -> bool:
        """Handle one line of input; returns whether to go on."""
        command, _, rest = line.partition(" ")
        if command in ("/exit", "/quit"):
            return False
        if command == "/reset":
            self._restart(self._system)
        elif command == "/system":
            self._restart(rest.strip() or None)
        elif command == "/help":
            print(_COMMANDS)
        elif command.startswith("/"):
            print(f"there is no command {command}; /help lists them", file=sys.stderr)
        elif line:
            self._ask(line)
        return True

    def _restart(self, system: str | None) -> None:
        self._system = system
        self._messages: list[Message] = [{"role": "system", "content": system}] if system else []

    def _ask(self, text: str) -> None:
        messages: list[Message] = [*self._messages, {"role": "user", "content": text}]
        try:
            answer = print_stream(_until_interrupted(self._llm.stream_chat(messages, self._params)))
        except InvalidRequestError as error:  # above all: the conversation is longer than the context
            print(f"error: {error}\n  /reset begins a new conversation", file=sys.stderr)
            return
        self._messages = [*messages, {"role": "assistant", "content": answer.text}]


def _lines() -> Iterator[str]:
    """Lines of the terminal, edited with readline, or of standard input."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # `input` uses it once it is imported
    with contextlib.suppress(EOFError):
        while True:
            yield input("> ")


def _until_interrupted(deltas: Iterable[Delta]) -> Iterator[Delta]:
    """The deltas until Ctrl-C, which is looked at between steps so that the engine is never left in the middle."""
    interrupted = False

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True

    before = signal.signal(signal.SIGINT, note)
    try:
        for delta in deltas:
            yield delta
            if interrupted:
                return
    finally:
        signal.signal(signal.SIGINT, before)
