"""Servers on loopback for tests: any ASGI application in a thread, and a model server that says what it is told."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Run an ASGI application on a free port for the length of a `with`; gives its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(5)


class ScriptedModel:
    """An OpenAI-compatible server: replies are scripted, adapters can be loaded, and it can fail on demand.

    Attributes:
        say: question -> reply; the default repeats the last line of what it was asked.
        asked: every request's body, in order.
        failing: models that answer 500.
        revision: of its base, as our own server tells it.
    """

    def __init__(self) -> None:
        self.forget()
        self.app = FastAPI()
        self.app.get("/v1/models")(self._models)
        self.app.post("/v1/chat/completions")(self._complete)
        self.app.post("/v1/embeddings")(self._embed)
        self.app.post("/v1/load_lora_adapter")(self._load)
        self.app.post("/v1/unload_lora_adapter")(self._unload)

    def forget(self) -> None:
        """Be as new."""
        self.say: Callable[[str, str], str] = lambda model, question: f"{model}: {question.splitlines()[-1]}"
        self.asked: list[dict[str, Any]] = []
        self.loaded: list[str] = []
        self.failing: set[str] = set()
        self.delay = 0.0
        self.revision: str | None = None

    def _models(self) -> dict[str, Any]:
        base = {"id": "base-model", "object": "model", "revision": self.revision}
        return {"object": "list", "data": [base, *({"id": name, "object": "model"} for name in self.loaded)]}

    async def _complete(self, request: Request) -> Any:
        body = await request.json()
        self.asked.append(body)
        if body["model"] in self.failing:
            return JSONResponse({"error": {"message": "scripted failure"}}, status_code=500)
        if body["model"] not in ["base-model", *self.loaded]:
            return JSONResponse({"error": {"message": "no such model"}}, status_code=404)
        if self.delay:
            import asyncio

            await asyncio.sleep(self.delay)
        text = self.say(body["model"], body["messages"][-1]["content"])

        def chunks() -> Iterator[str]:
            for piece in [word + " " for word in text.split(" ")]:
                yield _chunk(body["model"], {"content": piece})
            yield _chunk(body["model"], {}, finish="stop")
            usage = {"prompt_tokens": 10, "completion_tokens": len(text.split()), "total_tokens": 10}
            yield _chunk(body["model"], None, usage=usage)
            yield "data: [DONE]\n\n"

        return StreamingResponse(chunks(), media_type="text/event-stream")

    async def _embed(self, request: Request) -> dict[str, Any]:
        body = await request.json()
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        data = [{"index": i, "object": "embedding", "embedding": _letters(text)} for i, text in enumerate(texts)]
        return {
            "object": "list",
            "data": data,
            "model": body["model"],
            "usage": {"prompt_tokens": 1, "total_tokens": 1},
        }

    async def _load(self, request: Request) -> Any:
        name = (await request.json())["lora_name"]
        if name not in self.loaded:
            self.loaded.append(name)
        return {"status": "loaded"}

    async def _unload(self, request: Request) -> Any:
        name = (await request.json())["lora_name"]
        if name in self.loaded:
            self.loaded.remove(name)
        return {"status": "unloaded"}


def _chunk(model: str, delta: Any, finish: str | None = None, usage: Any = None) -> str:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    data = {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": model,
        "choices": choices,
        "usage": usage,
    }
    return f"data: {json.dumps(data)}\n\n"


def _letters(text: str) -> list[float]:
    """A vector of letter counts, 384 long: near texts get near vectors."""
    vector = [0.0] * 384
    for left, right in zip(text, text[1:], strict=False):
        vector[(ord(left) * 31 + ord(right)) % 384] += 1.0
    norm = sum(value * value for value in vector) ** 0.5 or 1.0
    return [value / norm for value in vector]
