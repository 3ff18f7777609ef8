"""Guided answers of a model of random weights, whose own answers are noise, always have their form."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from safetensors.numpy import save_file

import warploom
from tests.unit.frontend.tiny_checkpoints import tiny_config, tiny_tensors, tiny_tokenizer
from warploom.errors import InvalidRequestError
from warploom.runtime.guide import Guide
from warploom.runtime.llm import LLM
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.speculative_config import SpeculativeConfig

SCHEMAS = int(os.environ.get("WARPLOOM_EXAMPLES", "60"))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guided")
    model = folder / "model"
    model.mkdir()
    tensors = {name: (0.02 * values).astype(np.float32) for name, values in tiny_tensors().items()}
    save_file(tensors, model / "model.safetensors")
    (model / "config.json").write_text(json.dumps(tiny_config() | {"max_position_embeddings": 1024}))
    tiny_tokenizer().save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    return warploom.compile(model, quantization="f32", out=folder / "artifact").path


@pytest.fixture(scope="module")
def llm(artifact: Path) -> Iterator[LLM]:
    """With pages for all requests."""
    with LLM(artifact, threads=1, max_num_seqs=16, kv_cache_bytes=12 << 20) as llm:
        yield llm


def guided(guide: Guide, seed: int, **more: Any) -> SamplingParams:
    return SamplingParams(**{"guide": guide, "seed": seed, "max_tokens": 500, **more})


def number_schema(rng: random.Random) -> dict[str, Any]:
    low = rng.randint(-1000, 1000)
    bounds = {"minimum": low, "maximum": low + rng.randint(0, 500)} if rng.random() < 0.8 else {}
    return {"type": rng.choice(["integer", "number"]), **bounds}


def string_schema(rng: random.Random) -> dict[str, Any]:
    return rng.choice(
        [
            {"type": "string", "minLength": rng.randint(0, 3), "maxLength": rng.randint(3, 12)},
            {"type": "string", "pattern": rng.choice(["^[a-f]{1,6}$", "^(yes|no)$", "^[0-9]{3}-[0-9]{2}$"])},
            {"type": "string", "format": rng.choice(["date", "time", "uuid", "ipv4"])},
        ]
    )


def random_schema(rng: random.Random, depth: int = 3) -> dict[str, Any]:
    """A schema whose answers are of bounded length, but for spaces and digits."""
    kinds = ["number", "string", "enum", "boolean", *(["object", "array", "anyOf", "ref"] if depth else [])]
    match rng.choice(kinds):
        case "number":
            return number_schema(rng)
        case "string":
            return string_schema(rng)
        case "enum":
            return {"enum": rng.sample(["a", 'q"', "é\n", 7, -1.5, None, True, {"k": [1]}], rng.randint(1, 4))}
        case "boolean":
            return {"type": rng.choice(["boolean", "null", ["boolean", "null"]])}
        case "array":
            low = rng.randint(0, 2)
            items = random_schema(rng, depth - 1)
            return {"type": "array", "items": items, "minItems": low, "maxItems": low + rng.randint(0, 2)}
        case "anyOf":
            return {"anyOf": [random_schema(rng, depth - 1) for _ in range(rng.randint(1, 3))]}
        case "ref":
            return {"$defs": {"part": random_schema(rng, 0)}, "type": "array", "items": {"$ref": "#/$defs/part"},
                    "maxItems": 2}  # fmt: skip
    names = rng.sample(["name", "a b", 'say "hi"', "ü", "x", "$id_"], rng.randint(0, 4))
    return {
        "type": "object",
        "properties": {name: random_schema(rng, depth - 1) for name in names},
        "required": [name for name in names if rng.random() < 0.6],
        "additionalProperties": False,
    }


def hoisted(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema as a property of an object, with its definitions where "#" finds them."""
    definitions: dict[str, Any] = {}

    def visit(node: Any) -> Any:
        if isinstance(node, list):
            return [visit(one) for one in node]
        if not isinstance(node, dict):
            return node
        if "$defs" in node:
            name = f"part{len(definitions)}"
            definitions[name] = node["$defs"]["part"]
            node = {key: value for key, value in node.items() if key != "$defs"}
            node["items"] = {"$ref": f"#/$defs/{name}"}
        return {key: visit(value) for key, value in node.items()}

    return {**visit(schema), "$defs": definitions}


def finite(text: str) -> float:
    """JSON's numbers have no largest one, validators have."""
    return max(-1e300, min(1e300, float(text)))


def test_answers_to_random_schemas_parse_and_are_valid(artifact: Path) -> None:
    """So many requests at once that, of 500, some are preempted."""
    schemas = [hoisted(random_schema(random.Random(seed))) for seed in range(SCHEMAS)]
    guides = [Guide("json_schema", json.dumps(schema)) for schema in schemas]
    params = [guided(guide, seed, max_tokens=1000) for seed, guide in enumerate(guides)]
    with LLM(artifact, threads=1, max_num_seqs=16, kv_cache_bytes=2 << 20) as llm:
        answers = llm.generate([[5, 6, 7 + seed % 50] for seed in range(SCHEMAS)], params)
        preemptions = llm.stats().preemptions
    finished = 0
    for schema, answer in zip(schemas, answers, strict=True):
        if answer.finish_reason == "length":
            continue
        assert answer.finish_reason == "stop", (schema, answer)
        jsonschema_rs.validator_for(schema).validate(json.loads(answer.text, parse_float=finite))
        finished += 1
    print(f"{finished} of {SCHEMAS} answers are complete; {preemptions} preemptions")
    assert finished > 0.9 * SCHEMAS


ANSWERS = r"[a-c]{3}-[0-9]{2}"


@pytest.mark.parametrize(
    ("guide", "form"),
    [
        (Guide("regex", ANSWERS), ANSWERS),
        (Guide("choice", choices=("yes", "no|maybe", 'a "b"\n')), 'yes|no\\|maybe|a "b"\n'),
        (Guide("grammar", 'start: "<" word ">"\nword: /[xyz]{2,4}/'), "<[xyz]{2,4}>"),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_every_kind_of_form(llm: LLM, guide: Guide, form: str) -> None:
    """Greedy or not, in several answers to one prompt, though the model's own end is told to be ignored."""
    answers = llm.generate([[5, 6], [7]], guided(guide, 3, n=4, ignore_eos=True))
    answers += llm.generate([[5, 6]], guided(guide, 3, temperature=0))
    assert len(answers) == 9
    for answer in answers:
        assert re.fullmatch(form, answer.text), answer
        assert answer.finish_reason == "stop"


def test_a_json_object_is_one(llm: LLM) -> None:
    answers = llm.generate([[5]], guided(Guide("json_object"), 1, n=8, max_tokens=900))
    complete = [json.loads(answer.text) for answer in answers if answer.finish_reason == "stop"]
    assert complete
    assert all(isinstance(one, dict) for one in complete)


def test_guides_change_nothing_else(llm: LLM) -> None:
    """Unguided neighbours answer as alone; log-probabilities are those of the raw logits, whatever is banned."""
    plain = SamplingParams(seed=4, max_tokens=12, logprobs=3)
    (alone,) = llm.generate([[9, 8]], plain)
    together = llm.generate([[9, 8], [9, 8]], [plain, guided(Guide("regex", ANSWERS), 4, logprobs=20)])
    assert (together[0].token_ids, together[0].logprobs) == (alone.token_ids, alone.logprobs)
    (forced,) = llm.generate([[9, 8, *together[1].token_ids]], SamplingParams(max_tokens=1, prompt_logprobs=0))
    assert together[1].logprobs is not None
    assert forced.prompt_logprobs is not None
    given = [one.logprob for one in together[1].logprobs]
    known = [one.logprob for one in forced.prompt_logprobs[-len(given) :] if one is not None]
    np.testing.assert_allclose(given, known, atol=1e-4)
    assert together[1].logprobs[0].top == alone.logprobs[0].top + together[1].logprobs[0].top[3:]  # type: ignore[index]


def test_streams_have_the_form(llm: LLM) -> None:
    deltas = list(llm.stream([5, 6], guided(Guide("regex", ANSWERS), 2)))
    assert re.fullmatch(ANSWERS, "".join(delta.text for delta in deltas))


def test_preempted_answers_are_the_same(artifact: Path, llm: LLM) -> None:
    """Their matchers begin again, from the tokens so far."""
    guide = Guide("regex", "([a-c]{3}-[0-9]{2} ){20}")
    prompts = [[5, 6, 7 + i] for i in range(8)]
    expected = llm.generate(prompts, guided(guide, 5))
    with LLM(artifact, threads=1, max_num_seqs=8, kv_cache_bytes=1 << 20) as small:
        answers = small.generate(prompts, guided(guide, 5))
        assert [one.text for one in answers] == [one.text for one in expected]
        assert small.stats().preemptions > 0


@pytest.mark.parametrize("drafts_itself", [False, True])
def test_drafts_change_no_guided_answer(artifact: Path, llm: LLM, drafts_itself: bool) -> None:
    """Drafts are held to the guide too, which goes on from what was accepted."""
    rng = random.Random(7)
    guides = [Guide("json_schema", json.dumps(hoisted(random_schema(rng)))) for _ in range(12)]
    guides += [Guide("regex", ANSWERS), Guide("regex", "([a-c]{3}-[0-9]{2} ){20}")]
    jobs = [guided(guide, seed, max_tokens=200, logprobs=1) for seed, guide in enumerate(guides)]
    expected = llm.generate([[5, 6]] * len(jobs), jobs)
    config = SpeculativeConfig(model=artifact if drafts_itself else None, num_speculative_tokens=3, prompt_lookup_min=1)
    with LLM(artifact, threads=1, max_num_seqs=3, speculation=config) as drafting:
        found = drafting.generate([[5, 6]] * len(jobs), jobs)
        stats = drafting.stats()
    assert [(one.text, one.logprobs, one.finish_reason) for one in found] == [
        (one.text, one.logprobs, one.finish_reason) for one in expected
    ]
    assert stats.accepted_tokens > (50 if drafts_itself else 0)
    assert not drafts_itself or stats.accepted_tokens == stats.draft_tokens


@pytest.mark.parametrize(
    ("guide", "why"),
    [
        (Guide("json_schema", "{"), "property name"), (Guide("regex", "("), "unclosed"),
        (Guide("json_schema", '{"type": "array", "uniqueItems": true}'), "uniqueItems"),
        (Guide("grammar", "start: start start"), "compiled"), (Guide("json_schema", "false"), "nsatisfiable"),
        (Guide("json_schema", "7"), "compiled"), (Guide("json_schema", "[1]"), "compiled"),
        (Guide("json_schema", "[" * 60000), "recursion"), (Guide("choice", choices=("\ud800",)), "compiled"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused(llm: LLM, guide: Guide, why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why):
        llm.generate([[5]], guided(guide, 0))


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "xml"}, {"kind": "regex"}, {"kind": "choice"}, {"kind": "choice", "choices": ("a", "")},
        {"kind": "regex", "text": "a" * 70000}, {"kind": "choice", "choices": ["a"] * 1025},
    ],
)  # fmt: skip
def test_forms_have_a_size(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="guide"):
        Guide(**fields)


def test_a_guide_needs_the_end_token() -> None:
    with pytest.raises(InvalidRequestError, match="min_tokens"):
        SamplingParams(guide=Guide("json_object"), min_tokens=3)


def test_bans_of_what_a_guide_needs_end_one_answer_only(llm: LLM) -> None:
    only_a = guided(Guide("regex", "a{5}"), 0)
    bad = replace(only_a, bad_words=["a"])
    broken, fine = llm.generate([[5], [5]], [bad, only_a])
    assert (broken.finish_reason, fine.text) == ("abort", "aaaaa")
