"""Reading one tool call, `{"name": ..., "arguments": {...}}`, as its characters come."""

from __future__ import annotations

import json

_ARGUMENTS = ("arguments", "parameters")


class CallScanner:
    """Reads one JSON object and gives out the text of its arguments while it grows.

    The text of the arguments is passed on as it was written. Arguments that stand before the name are held until the
    name is known; arguments that are a JSON string (as OpenAI's API has them) are passed on decoded, once complete.

    Attributes:
        name: the function's, once it is known. done: the object is complete. raw: all that was fed.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.done = False
        self.raw = ""
        self._depth = 0
        self._in_string = self._escaped = False
        self._key: str | None = None  # of the member being read, at depth 1
        self._string = ""  # the string being read, or the last one
        self._value = ""  # the value of the arguments so far
        self._given = 0  # how much of it was given out

    def feed(self, char: str) -> None:
        """Take the next character; the first one must be `{`, and none may follow the end."""
        self.raw += char
        if self._in_string:
            self._feed_string(char)
        elif char == '"':
            self._in_string, self._string = True, char
            self._keep(char)
        elif char in "}]":
            self._depth -= 1
            self.done = self._depth == 0
            self._keep(char)
        elif self._depth == 1 and char in ":,":
            self._key = json_string(self._string) if char == ":" else None
        else:
            self._depth += char in "{["
            self._keep(char)

    def take_arguments(self) -> str:
        """Return the text of the arguments that was not given out yet; nothing while the name is unknown."""
        if self.name is None:
            return ""
        value = self._value
        if value.startswith('"'):
            value = "" if self._in_string else json_string(value) or ""
        piece, self._given = value[self._given :], max(self._given, len(value))
        return piece

    def _feed_string(self, char: str) -> None:
        self._keep(char)
        self._string += char
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_string = False
            if self._depth == 1 and self._key == "name":
                self.name = json_string(self._string)

    def _keep(self, char: str) -> None:
        """Note a character of the arguments; white space around them does not belong to them."""
        if self._key in _ARGUMENTS and not self.done and (self._depth > 1 or self._in_string or not char.isspace()):
            self._value += char


def json_string(text: str) -> str | None:
    """Return what a JSON string says, or None if `text` is not one."""
    try:
        value = json.loads(text, strict=False)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
