"""Chat templates render as Hugging Face renders them, in a sandbox, and their errors belong to the request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.runtime_fakes import CHAT_TEMPLATE, byte_level_tokenizer
from warploom.errors import ArtifactError, InvalidRequestError
from warploom.runtime.chat_template import ChatTemplate
from warploom.runtime.manifest import TokenizerInfo
from warploom.runtime.tokenizer import Tokenizer

HELLO = [{"role": "user", "content": "Hé <b>"}]


def render(text: str, messages: list[dict[str, Any]] = HELLO, **variables: Any) -> str:
    return ChatTemplate(text, {"bos_token": "<s>"}).render(messages, **variables)


def test_a_conversation_is_rendered() -> None:
    assert render(CHAT_TEMPLATE) == "<|im_start|>user\nHé <b><|im_end|>\n<|im_start|>assistant\n"
    assert render(CHAT_TEMPLATE, add_generation_prompt=False).endswith("<|im_end|>\n")


def test_what_templates_are_written_against_is_there() -> None:
    assert render("{{ bos_token }}{{ messages[0] | tojson }}") == '<s>{"role": "user", "content": "Hé <b>"}'
    assert render("{{ tools | tojson(indent=2) }}", tools=[1]) == json.dumps([1], indent=2)
    assert len(render("{{ strftime_now('%Y') }}")) == 4
    assert render("{% for m in messages %}{% break %}{% endfor %}x") == "x"
    assert render("{% generation %}y{% endgeneration %}") == "y"
    assert render("  {% if true %}\nz\n  {% endif %}\n") == "z\n"


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content.nope.nope }}", "UndefinedError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
    ],
)
def test_failures_belong_to_the_request(template: str, found: str) -> None:
    with pytest.raises(InvalidRequestError, match=found):
        render(template)


def test_bad_templates_and_absent_templates_are_named() -> None:
    with pytest.raises(ArtifactError, match="does not parse"):
        ChatTemplate("{% for %}", {})
    with pytest.raises(InvalidRequestError, match="conversation is empty"):
        render(CHAT_TEMPLATE, [])
    plain = Tokenizer(byte_level_tokenizer().to_str(), TokenizerInfo("tokenizer.json"))
    with pytest.raises(InvalidRequestError, match="no chat template"):
        plain.encode_chat(HELLO)


def test_bos_is_added_once() -> None:
    info = TokenizerInfo("tokenizer.json", bos_token="<|endoftext|>", add_bos=True)
    tokenizer = Tokenizer(byte_level_tokenizer().to_str(), info, "{{ bos_token }}{{ messages[0].content }}")
    assert tokenizer.encode("a")[0] == 0
    assert tokenizer.encode("") == [0]
    assert tokenizer.encode("<|endoftext|>a") == tokenizer.encode("a")
    assert tokenizer.encode_chat([{"role": "user", "content": "a"}]) == tokenizer.encode("a")


def test_tokenizers_that_cannot_serve_are_refused() -> None:
    theirs = byte_level_tokenizer()
    with pytest.raises(ArtifactError, match="malformed"):
        Tokenizer("{}", TokenizerInfo("tokenizer.json"))
    with pytest.raises(ArtifactError, match="BOS token that the tokenizer lacks"):
        Tokenizer(theirs.to_str(), TokenizerInfo("tokenizer.json", bos_token="<s>", add_bos=True))
    spec = json.loads(theirs.to_str()) | {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}
    with pytest.raises(ArtifactError, match=r"decoder is not supported(.|\n)*found: WordPiece"):
        Tokenizer(json.dumps(spec), TokenizerInfo("tokenizer.json"))
    with pytest.raises(InvalidRequestError, match=r"not valid Unicode(.|\n)*character 1"):
        Tokenizer(theirs.to_str(), TokenizerInfo("tokenizer.json")).encode("a\ud800")
