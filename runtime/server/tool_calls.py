"""Tool calls in the text of an answer, read while it is written.

Each format is a parser: text pieces in, events out. Calls are JSON and nothing is ever evaluated (CVE-2025-9141).
The formats are those of the models' own chat templates:

    hermes    <tool_call>{"name": "f", "arguments": {...}}</tool_call>    (Hermes, Qwen 2.5 and 3)
    mistral   [TOOL_CALLS][{"name": "f", "arguments": {...}}, ...]  or  [TOOL_CALLS]f{...}[TOOL_CALLS]g{...}
    llama3    {"name": "f", "parameters": {...}}; {...}                   (Llama 3.1 and later)
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Collection
from typing import Literal, NamedTuple, Protocol, TypeAlias

from warploom.runtime.server.call_scanner import CallScanner

ToolFormat: TypeAlias = Literal["hermes", "mistral", "llama3"]
_LEADING_NAME = re.compile(r"\s*([\w.-]+)")


class Content(NamedTuple):
    """Text of the answer that belongs to no call."""

    text: str


class CallStart(NamedTuple):
    """A call begins."""

    call: int
    id: str
    name: str


class CallArguments(NamedTuple):
    """A piece of the JSON text of a call's arguments."""

    call: int
    text: str


Event: TypeAlias = Content | CallStart | CallArguments


class ToolParser(Protocol):
    """Finds the calls in one answer."""

    def push(self, text: str) -> list[Event]:
        """Return what this piece of the answer makes certain."""
        ...

    def finish(self) -> list[Event]:
        """Return what was held back, now that the answer is complete."""
        ...


class _Calls:
    """Numbers the calls of an answer and turns a scanner's progress into events."""

    def __init__(self) -> None:
        self._count = 0
        self._started = False

    def advance(self, scanner: CallScanner) -> list[Event]:
        """Return the events of what the scanner has read since the last time."""
        events: list[Event] = []
        if scanner.name is None:
            return events
        if not self._started:
            self._started = True
            events.append(self.start(scanner.name))
        if piece := scanner.take_arguments():
            events.append(self.arguments(piece))
        if scanner.done:
            self.end()
        return events

    def start(self, name: str) -> CallStart:
        """Begin a call."""
        return CallStart(self._count, f"call_{secrets.token_hex(12)}", name)

    def arguments(self, text: str) -> CallArguments:
        """A piece of the arguments of the call that was begun last."""
        return CallArguments(self._count, text)

    def end(self) -> None:
        """The call is complete."""
        self._count += 1
        self._started = False


class MarkedParser:
    """Calls that are announced by a marker; what stands before it is content (hermes, mistral).

    After the marker come objects, with anything but `{` and names between them ignored, until the closing marker.

    Args:
        opening, closing: the markers; without a closing one the calls last until the end.
        names: a name may stand before the object, which then holds the arguments alone.
    """

    def __init__(self, opening: str, closing: str | None, *, names: bool) -> None:
        self._opening, self._closing, self._names = opening, closing, names
        self._calls = _Calls()
        self._scanner: CallScanner | None = None
        self._inside = self._after_call = False  # white space after a call belongs to nothing
        self._held = ""  # a possible beginning of a marker, or of a name

    def push(self, text: str) -> list[Event]:
        """See `ToolParser`."""
        events: list[Event] = []
        for char in text:
            events += self._in_call(char) if self._inside else self._in_content(char)
        return _joined(events)

    def finish(self) -> list[Event]:
        """See `ToolParser`."""
        held, self._held = self._held, ""
        if self._scanner and self._scanner.name is None:
            held = self._opening + self._scanner.raw
        elif self._inside:
            held = self._opening + held if held.strip(" \n,;]") else ""
        return [Content(held)] if held else []

    def _in_content(self, char: str) -> list[Event]:
        if self._after_call and char.isspace():
            return []
        self._after_call = False
        self._held += char
        if self._held.endswith(self._opening):
            before = self._held[: -len(self._opening)]
            self._held, self._inside = "", True
            return [Content(before)] if before.strip() else []
        keep = _partial_marker(self._held, self._opening)
        sure, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return [Content(sure)] if sure else []

    def _in_call(self, char: str) -> list[Event]:
        if scanner := self._scanner:
            scanner.feed(char)
            if not scanner.done:
                return self._calls.advance(scanner)
            self._scanner = None
            if scanner.name is None:  # no call after all
                return [Content(self._opening + scanner.raw + (self._closing or ""))]
            return self._calls.advance(scanner)
        if char == "{":
            name = _LEADING_NAME.match(self._held.replace(self._opening, "")) if self._names else None
            self._held = ""
            self._scanner = _NamedScanner(name[1]) if name else CallScanner()
            self._scanner.feed(char)
            return self._calls.advance(self._scanner)
        self._held += char
        if self._closing and self._held.endswith(self._closing):
            self._held, self._inside, self._after_call = "", False, True
        return []


class _NamedScanner(CallScanner):
    """Reads the arguments of a call whose name is known already."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def feed(self, char: str) -> None:
        super().feed(char)
        self._value = self.raw


class BareParser:
    """An answer that is nothing but calls: JSON objects separated by `;` or commas (llama3).

    It is held back until an object has told the name of one of the tools. If it does not begin so, it is content.

    Args:
        names: of the tools that may be called; None: any.
        prefixes: texts that may stand in front, as `[` does in front of a list of calls.
    """

    def __init__(self, names: Collection[str] | None, prefixes: tuple[str, ...] = ()) -> None:
        self._tools, self._prefixes = names, prefixes
        self._calls = _Calls()
        self._scanner: CallScanner | None = None
        self._held = ""
        self._is_content = self._has_calls = False

    def push(self, text: str) -> list[Event]:
        """See `ToolParser`."""
        events: list[Event] = []
        for place, char in enumerate(text):
            events += self._take(char)
            if self._is_content:
                return _joined([*events, Content(text[place + 1 :])])
        return _joined(events)

    def finish(self) -> list[Event]:
        """See `ToolParser`."""
        return self._give_up() if not self._has_calls and not self._is_content else []

    def _take(self, char: str) -> list[Event]:
        if self._is_content:
            return [Content(char)]
        if not self._has_calls:
            self._held += char
        if self._scanner is None:
            return self._between(char)
        scanner = self._scanner
        scanner.feed(char)
        if scanner.done:
            self._scanner = None
        if scanner.name is None:
            return self._give_up() if scanner.done and not self._has_calls else []
        if not self._has_calls and self._tools is not None and scanner.name not in self._tools:
            return self._give_up()
        self._has_calls, self._held = True, ""
        return self._calls.advance(scanner)

    def _between(self, char: str) -> list[Event]:
        if char == "{":
            self._scanner = CallScanner()
            self._scanner.feed(char)
        elif not self._has_calls:
            start = self._held.lstrip()
            if start and not any(prefix.startswith(start.rstrip()) for prefix in self._prefixes):
                return self._give_up()
        return []

    def _give_up(self) -> list[Event]:
        self._is_content = True
        held, self._held = self._held, ""
        return [Content(held)] if held else []


class NamedCallParser:
    """An answer that was forced to be the arguments of one function."""

    def __init__(self, name: str) -> None:
        self._name: str | None = name
        self._calls = _Calls()

    def push(self, text: str) -> list[Event]:
        """See `ToolParser`."""
        events: list[Event] = []
        if self._name is not None:
            events.append(self._calls.start(self._name))
            self._name = None
        return [*events, self._calls.arguments(text)] if text else events

    def finish(self) -> list[Event]:
        """See `ToolParser`."""
        return []


def detect_format(chat_template: str) -> ToolFormat | None:
    """Return the format that a model's chat template writes earlier calls in, or None if it knows no tools."""
    if "tools" not in chat_template:
        return None
    signs: dict[ToolFormat, Callable[[str], bool]] = {
        "hermes": lambda text: "<tool_call>" in text,
        "mistral": lambda text: "[TOOL_CALLS]" in text,
        "llama3": lambda text: "<|python_tag|>" in text or '"parameters"' in text,
    }
    return next((name for name, found in signs.items() if found(chat_template)), None)


def new_parser(tool_format: ToolFormat, tool_names: Collection[str]) -> ToolParser:
    """Return a parser of answers in which the model may call tools or not."""
    if tool_format == "hermes":
        return MarkedParser("<tool_call>", "</tool_call>", names=False)
    if tool_format == "mistral":
        return MarkedParser("[TOOL_CALLS]", None, names=True)
    return BareParser(tool_names, ("<|python_tag|>",))


def are_valid(arguments: list[str]) -> bool:
    """Return whether each of these is a JSON object."""
    try:
        return all(isinstance(json.loads(text or "{}"), dict) for text in arguments)
    except (ValueError, RecursionError):
        return False


def _partial_marker(text: str, marker: str) -> int:
    """Return the length of the longest end of `text` that may begin `marker`."""
    most = min(len(text), len(marker) - 1)
    return next((length for length in range(most, 0, -1) if marker.startswith(text[-length:])), 0)


def _joined(events: list[Event]) -> list[Event]:
    """Neighbouring pieces of content, or of one call's arguments, as one."""
    joined: list[Event] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, Content) and isinstance(last, Content):
            joined[-1] = Content(last.text + event.text)
        elif isinstance(event, CallArguments) and isinstance(last, CallArguments) and last.call == event.call:
            joined[-1] = CallArguments(last.call, last.text + event.text)
        else:
            joined.append(event)
    return [event for event in joined if not isinstance(event, Content) or event.text]
