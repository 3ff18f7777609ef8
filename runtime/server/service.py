"""What every endpoint needs: the model, its limits, threads for tokenizing, and how many requests are under way."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from warploom.errors import InvalidRequestError, QueueFullError
from warploom.runtime.async_llm import AsyncLLM
from warploom.runtime.beam_search import BeamSearchParams
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.server.conversation import template_messages, template_tools, template_variables
from warploom.runtime.server.errors import APIError
from warploom.runtime.server.generation import Ask, Generation
from warploom.runtime.server.limits import Limits, RequestError
from warploom.runtime.server.metrics import Metrics
from warploom.runtime.server.requests import ChatRequest, GenerationRequest, TokenizeRequest
from warploom.runtime.server.sampling import field_at_fault
from warploom.runtime.server.tool_calls import ToolFormat
from warploom.version import __version__

_Result = TypeVar("_Result")
_TOKENIZER_THREADS = 4


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request.

    Attributes:
        tenant: callers of different tenants never share cached prompts, whose presence can be timed (CVE-2025-46570).
        request_id: what they call the request, or "".
    """

    tenant: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """What all pieces of one answer begin with."""

    id: str
    created: int
    model: str
    system_fingerprint: str = f"warploom-{__version__}"


def _identity() -> str:
    """Return an id that no other answer has. Nothing rests on nobody guessing it; the system's own randomness takes
    as long as parsing a request.
    """
    return f"{random.getrandbits(128):032x}"


class Service:
    """One served model.

    Args:
        model_name: what clients call it. tool_format: how it writes tool calls, or None.
        health_seconds: without a sign of life for this long, the engine counts as hung.

    Attributes:
        draining: no more requests are taken.
    """

    def __init__(
        self, llm: AsyncLLM, *, model_name: str, limits: Limits, tool_format: ToolFormat | None, health_seconds: float
    ) -> None:
        self.llm, self.model_name, self.limits, self.tool_format = llm, model_name, limits, tool_format
        self.health_seconds = health_seconds
        self.metrics = Metrics(llm, model_name)
        self.created = int(time.time())
        self.draining = False
        self._threads = ThreadPoolExecutor(_TOKENIZER_THREADS, "warploom-server")
        self._under_way = 0

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def in_thread(self, function: Callable[..., _Result], *args: Any, **kwargs: Any) -> _Result:
        """Call a function in a thread, so that the event loop goes on meanwhile."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))

    def check_model(self, name: str | None) -> None:
        """Refuse a model that is not the served one; none is the served one."""
        if name not in (None, "", self.model_name):
            raise APIError(404, f"The model `{(name or '')[:200]}` does not exist.", param="model")

    def head(self, kind: str, request: GenerationRequest, caller: Caller) -> ReplyHead:
        """Return the head of an answer, whose id is the caller's if there is one."""
        given = request.request_id or caller.request_id
        self.limits.check("request_id", len(given), "name_chars")
        return ReplyHead(f"{kind}-{given or _identity()}", int(time.time()), self.model_name)

    async def encode(self, texts: Sequence[str], special: bool = True, cut: bool = False) -> list[list[int]]:
        """Return the tokens of plain prompts.

        Args:
            cut: they will be cut to the context.

        Raises:
            RequestError: one is certainly longer than the context; that is known without encoding it.
        """
        if not texts:
            return []
        for text in () if cut else texts:
            self._check_chars(text, "prompt")
        tokenizer = self.llm.tokenizer
        skip = 0 if special else len(tokenizer.encode(""))
        return await self.in_thread(lambda: [tokenizer.encode(text)[skip:] for text in texts])

    async def encode_chat(self, request: ChatRequest | TokenizeRequest, with_tools: bool = True) -> list[int]:
        """Return the tokens of a conversation, through the model's own template."""
        messages = template_messages(request.messages or [], self.limits)
        chat = request if isinstance(request, ChatRequest) else None
        for message in () if chat and chat.truncate_prompt_tokens else messages:
            self._check_chars(message["content"], "messages")
        tools = template_tools(request.tools or [], self.limits) if with_tools else []
        variables = template_variables(request.chat_template_kwargs, self.limits)
        if chat and chat.documents:
            self.limits.check("documents", len(chat.documents), "content_parts")
            variables["documents"] = chat.documents
        continues = chat is not None and chat.continue_final_message is True
        if continues and request.add_generation_prompt:
            raise RequestError("continue_final_message", "add_generation_prompt to be false as well")
        return await self.in_thread(
            self.llm.tokenizer.encode_chat,
            messages,
            tools=tools or None,
            add_generation_prompt=request.add_generation_prompt is not False,
            continue_final_message=continues,
            **variables,
        )

    async def generate(
        self,
        request: GenerationRequest,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | BeamSearchParams,
        caller: Caller,
    ) -> Generation:
        """Queue the prompts of a request.

        Raises:
            RequestError: they are more than this server takes. QueueFullError: it takes no more now.
        """
        answers = len(prompts) * params.num_made
        self.limits.check("prompt", answers, "answers")
        if answers > self.llm.max_requests:
            raise RequestError("prompt", f"at most {self.llm.max_requests} answers of one request", str(answers))
        salt = request.cache_salt or ""
        self.limits.check("cache_salt", len(salt), "name_chars")
        ask = Ask(
            params,
            priority=request.priority or 0,
            timeout_s=self.limits.request_seconds,
            cache_salt=f"{caller.tenant}/{salt}" if caller.tenant or salt else "",
        )
        most = self._prompt_tokens(request, params)
        try:
            generation = await Generation.start(self.llm, [prompt[-most:] for prompt in prompts], ask, self.metrics)
        except InvalidRequestError as error:
            error.param = field_at_fault(error.param, request, self.limits)
            raise
        self.metrics.accepted(generation.num_each, params.max_tokens)
        return generation

    def _prompt_tokens(self, request: GenerationRequest, params: SamplingParams | BeamSearchParams) -> int:
        """How many of a prompt's last tokens are looked at; 0: all."""
        given = request.truncate_prompt_tokens
        if given == 0:
            raise RequestError("truncate_prompt_tokens", "at least 1, or -1", "0")
        return max(1, self.llm.max_context - (params.max_tokens or 1)) if given == -1 else given or 0

    def enter(self) -> None:
        """Count a request that will generate; QueueFullError before any work is done for it if there are too many."""
        if self._under_way >= self.llm.max_requests:
            raise QueueFullError("The queue is full", retry_after_s=1)
        self._under_way += 1

    def leave(self) -> None:
        """Count a request that has ended."""
        self._under_way -= 1

    def _check_chars(self, text: str, param: str) -> None:
        least = -(-len(text) // self.llm.tokenizer.max_token_chars)
        if least > self.llm.max_context:
            raise RequestError(
                param,
                f"at most {self.llm.max_context} tokens, the model's context",
                f"{len(text)} characters, at least {least} tokens",
                what="The prompt is longer than the context",
            )
