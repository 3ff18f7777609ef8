"""`POST /tokenize` and `POST /detokenize`, as vLLM has them."""

from __future__ import annotations

from warploom.runtime.server.limits import RequestError
from warploom.runtime.server.replies import DetokenizeReply, TokenizeReply
from warploom.runtime.server.requests import DetokenizeRequest, TokenizeRequest
from warploom.runtime.server.service import Caller, Service


async def tokenize(service: Service, request: TokenizeRequest, caller: Caller) -> TokenizeReply:
    """Return the tokens of a prompt, or of a conversation."""
    service.check_model(request.model)
    if (request.prompt is None) == (not request.messages):
        raise RequestError("prompt", "either a prompt or messages")
    if request.prompt is None:
        tokens = await service.encode_chat(request)
    else:
        [tokens] = await service.encode([request.prompt], request.add_special_tokens is not False)
    texts = list(map(service.llm.tokenizer.token_text, tokens)) if request.return_token_strs else None
    return TokenizeReply(len(tokens), service.llm.max_context, tokens, texts)


async def detokenize(service: Service, request: DetokenizeRequest, caller: Caller) -> DetokenizeReply:
    """Return the text of tokens, special ones by their names."""
    service.check_model(request.model)
    vocab_size = service.llm.artifact.manifest.vocab_size
    if any(token >= vocab_size for token in request.tokens):
        raise RequestError("tokens", f"token ids in 0..{vocab_size - 1}")
    text = await service.in_thread(service.llm.tokenizer.decode, request.tokens, with_special=True)
    return DetokenizeReply(text)
