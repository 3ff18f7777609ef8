"""The bounds of everything in a request that costs more than its own bytes. One table, from which the documentation
and the checks are derived; each bound can be raised by `warploom serve --limit NAME=VALUE`.

Where a class of failures is known from other servers, the row names it (advisories of vLLM unless said otherwise).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from warploom.errors import InvalidRequestError


def _limit(default: int, what: str) -> int:
    return field(default=default, metadata={"what": what})


@dataclass(frozen=True, slots=True)
class Limits:
    """Most of each thing that one request may ask for."""

    body_bytes: int = _limit(8 << 20, "bytes of a request's body; more is refused before it is read (CVE-2026-55646)")
    body_seconds: int = _limit(30, "seconds in which the body must have come")
    write_seconds: int = _limit(60, "seconds that a reader may take for one piece of a streamed answer")
    request_seconds: int = _limit(600, "seconds until an unfinished answer is given up")
    json_depth: int = _limit(32, "levels of nesting in tools, schemas and template variables")
    prompts: int = _limit(1024, "prompts of one request (vllm#47845)")
    answers: int = _limit(1024, "prompts times max(n, best_of) (CVE-2024-8939, CVE-2026-34756)")
    messages: int = _limit(4096, "messages of a conversation")
    content_parts: int = _limit(1024, "parts of one message")
    tools: int = _limit(128, "tools of a conversation")
    tools_bytes: int = _limit(256 << 10, "bytes of all tools as JSON")
    template_variables: int = _limit(16, "entries of chat_template_kwargs, each a plain value (CVE-2025-62426)")
    guide_bytes: int = _limit(64 << 10, "bytes of a JSON schema, regex or grammar (CVE-2025-48887, vllm#45118)")
    guide_choices: int = _limit(1024, "entries of guided_choice")
    logit_bias: int = _limit(1024, "entries of logit_bias")
    name_chars: int = _limit(256, "characters of names, of cache_salt and of request ids")

    def check(self, param: str, count: int, limit: str) -> None:
        """Refuse `count` of `param` above the bound named `limit`.

        Raises:
            RequestError: it is above.
        """
        most = getattr(self, limit)
        if count > most:
            raise RequestError(param, f"at most {most}", str(count))

    def check_depth(self, param: str, value: object) -> None:
        """Refuse JSON that is nested deeper than `json_depth`."""
        level = [value]
        for _ in range(self.json_depth):
            level = [child for one in level for child in _children(one)]
            if not level:
                return
        raise RequestError(param, f"at most {self.json_depth} levels of nesting", "more")


class RequestError(InvalidRequestError):
    """A parameter of an HTTP request is not valid; OpenAI's error bodies carry its name."""

    def __init__(self, param: str, expected: str, found: str | None = None, *, what: str | None = None) -> None:
        super().__init__(what or f"The parameter {param} is not valid", expected=expected, found=found, param=param)


def limits_table() -> str:
    """The table of `docs/server.md`, as Markdown."""
    rows = [f"| `{one.name}` | {one.default:,} | {one.metadata['what']} |" for one in fields(Limits)]
    return "\n".join(["| limit | default | of what |", "|---|---|---|", *rows])


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list) else []
