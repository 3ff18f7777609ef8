"""Chat templates: the model's own Jinja text, rendered in a sandbox as Hugging Face renders it.

The environment follows the contract that templates are written against
(https://huggingface.co/docs/transformers/chat_templating): an immutable sandbox, trimmed blocks, loop controls,
`raise_exception`, `strftime_now`, and a `tojson` that does not escape HTML.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from warploom.errors import ArtifactError, InvalidRequestError

Message = Mapping[str, Any]


class _GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}` marks assistant text for training; it renders as its content."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the block's content."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """One compiled template.

    Args:
        text: the template.
        special_tokens: variables such as `bos_token`, given to the template as text.

    Raises:
        ArtifactError: the template does not parse.
    """

    def __init__(self, text: str, special_tokens: Mapping[str, str]) -> None:
        self._special_tokens = dict(special_tokens)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(text)
        except jinja2.TemplateError as error:
            raise ArtifactError("The chat template does not parse", found=str(error)) from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """Return the prompt text of a conversation.

        Args:
            messages: dicts with `role` and `content`, the first of them the oldest.
            add_generation_prompt: end with what opens the assistant's answer.
            continue_final_message: end with the last message's content instead, which the answer continues.
            variables: what else the template reads, such as `tools`.

        Raises:
            InvalidRequestError: the template refuses the conversation or fails on it.
        """
        if not messages:
            raise InvalidRequestError("The conversation is empty", expected="at least one message")
        if isinstance(messages, str | Mapping) or not all(isinstance(message, Mapping) for message in messages):
            raise InvalidRequestError(
                "A conversation is a list of messages",
                expected='[{"role": "user", "content": "..."}]',
                found=repr(messages)[:200],
            )
        if continue_final_message:
            text = self.render(messages, add_generation_prompt=False, **variables)
            return _up_to(text, str(messages[-1].get("content") or "").rstrip())
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
                **variables,
            )
        except Exception as error:  # a template can raise anything that its expressions raise
            raise InvalidRequestError(
                "The chat template refuses these messages",
                expected="messages as the model's template wants them",
                found=f"{type(error).__name__}: {error}",
                param="messages",
            ) from error


def _up_to(text: str, final: str) -> str:
    """Return a rendered conversation up to the end of its final message's content."""
    if not final or final not in text:
        raise InvalidRequestError(
            "The final message cannot be continued",
            expected="content that the chat template shows as it is",
            param="messages",
        )
    return text[: text.rindex(final) + len(final)]


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:  # fmt: skip
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
