"""The endpoints for conversations and versions: OpenAI's chat API, and vLLM's for loading LoRA adapters at run time."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from core.errors import BadInput, NotFound
from integrations.huggingface.api_errors import body_of
from integrations.huggingface.engine import Engine
from integrations.huggingface.exchange import Piece, Prompt, Ticket, Usage
from integrations.huggingface.schemas import ChatRequest, LoadAdapter, UnloadAdapter

_DEFAULT_TOKENS = 256
_LONGEST_TOKEN = 32  # characters; far more text than the context holds is refused without counting its tokens


def chat_router(engine: Engine | None) -> APIRouter:
    """Args:
    engine: None where only embeddings are local; then no model is listed.
    """
    router = APIRouter(prefix="/v1")
    started = int(time.time())
    # Versions are read one at a time, and on one core: answers go on meanwhile.
    loader = ThreadPoolExecutor(1, "versions", initializer=torch.set_num_threads, initargs=(1,))

    @router.get("/models")
    async def models() -> dict[str, Any]:
        if engine is None:
            return {"object": "list", "data": []}
        base = engine.model.base
        shared = {"object": "model", "created": started, "owned_by": "npllm", "max_model_len": engine.model.context}
        served = [{"id": base.name, **shared, "root": str(base.path), "parent": None, "revision": base.revision}]
        for adapter in engine.adapters():
            more = {"root": str(adapter.folder), "parent": base.name, "sha256": adapter.sha256}
            served.append({"id": adapter.name, **shared, **more})
        return {"object": "list", "data": served}

    @router.post("/load_lora_adapter")
    async def load(asked: LoadAdapter) -> Response:
        running = _running(engine)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(loader, running.load, asked.lora_name, Path(asked.lora_path), asked.sha256)
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' added successfully.")

    @router.post("/unload_lora_adapter")
    async def unload(asked: UnloadAdapter) -> Response:
        _running(engine).unload(asked.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' removed successfully.")

    @router.post("/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Response:
        reply = _Reply(_running(engine), asked)
        if asked.stream:
            return StreamingResponse(reply.events(), media_type="text/event-stream")
        return await reply.whole(request)

    return router


def _running(engine: Engine | None) -> Engine:
    if engine is None:
        raise NotFound("No base model is served here, only embeddings.", "Ask the server that INFERENCE_URL names.")
    return engine


class _Reply:
    """One request on its way through the engine, and its two forms of answer."""

    def __init__(self, engine: Engine, asked: ChatRequest) -> None:
        self._asked = asked
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def sink(piece: Piece) -> None:
            loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

        self._ticket: Ticket = engine.submit(_prompt(engine, asked), sink)

    async def whole(self, request: Request) -> Response:
        """The answer when it is complete; given up when the client has gone."""
        collecting = asyncio.create_task(self._collect())
        leaving = asyncio.create_task(_gone(request))
        try:
            await asyncio.wait((collecting, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not collecting.done():
                return Response(status_code=499)  # nobody reads it
            text, last = collecting.result()
        finally:
            self._ticket.cancel()
            collecting.cancel()
            leaving.cancel()
        if last.error is not None:
            raise last.error
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": last.finish}
        return JSONResponse({**self._head("chat.completion"), "choices": [choice], "usage": _usage(last.usage)})

    async def _collect(self) -> tuple[str, Piece]:
        texts = []
        while True:
            piece = await self._pieces.get()
            texts.append(piece.text)
            if piece.last:
                return "".join(texts), piece

    async def events(self) -> AsyncIterator[str]:
        """The answer as server-sent events, while it comes."""
        try:
            yield self._event({"role": "assistant", "content": ""})
            while True:
                piece = await self._pieces.get()
                if piece.error is not None:
                    yield f"data: {json.dumps(body_of(piece.error))}\n\n"
                    return
                if piece.text:
                    yield self._event({"content": piece.text})
                if piece.finish is not None:
                    yield self._event({}, piece.finish)
                    if self._asked.wants_usage:
                        usage = {**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(piece.usage)}
                        yield f"data: {json.dumps(usage)}\n\n"
                    yield "data: [DONE]\n\n"
                    return
        finally:
            self._ticket.cancel()

    def _event(self, delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk = {**self._head("chat.completion.chunk"), "choices": [choice]}
        if self._asked.wants_usage:
            chunk["usage"] = None
        return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._asked.model}


def _prompt(engine: Engine, asked: ChatRequest) -> Prompt:
    messages = [message.as_template_reads_it() for message in asked.messages]
    characters = sum(len(message["content"]) for message in messages)
    if characters > _LONGEST_TOKEN * engine.model.context:
        raise BadInput(
            f"This model's maximum context length is {engine.model.context} tokens; {characters} characters are more.",
            "Send fewer or shorter messages.",
        )
    tokens, prefix, lines = engine.model.encode_chat(messages)
    return Prompt(
        tokens,
        asked.model,
        prefix=prefix,
        lines=lines,
        max_tokens=asked.max_completion_tokens or asked.max_tokens or _DEFAULT_TOKENS,
        stops=asked.stops,
        sampling=asked.sampling,
        ignore_end=asked.ignore_eos,
    )


def _usage(usage: Usage | None) -> dict[str, Any]:
    assert usage is not None
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }


async def _gone(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
