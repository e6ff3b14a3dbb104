"""The endpoint for embeddings, as OpenAI's. The embedder is loaded once the server is up, in a thread of its own."""

import asyncio
import base64
import logging
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from fastapi import APIRouter

from core.errors import BadInput, NotFound
from integrations.huggingface.schemas import EmbeddingRequest

log = logging.getLogger(__name__)

_AT_ONCE = 16  # texts; then whoever else waits has a turn


class Embedder(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    def embed(self, texts: list[str]) -> list[list[float]]: ...


class Embeddings:
    """An embedder in its own thread.

    Args:
        asked: the name in the settings; the loaded embedder's may say more (which weights).
        load: makes the embedder; called in its thread.
        core: entered while that thread works, so that the batching thread leaves it a core.
    """

    def __init__(
        self, asked: str, load: Callable[[], Embedder], core: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._asked, self._load, self._core = asked, load, core
        self._embedder: Embedder | None = None
        self._thread = ThreadPoolExecutor(1, "embedding", initializer=torch.set_num_threads, initargs=(1,))

    def warm_up(self) -> None:
        """Load it now, without waiting; a failure is logged here and told to whoever asks."""
        self._thread.submit(self._warmed)

    def _warmed(self) -> None:
        try:
            self._embed(["ok"])
        except Exception:
            log.exception("The embedder %s cannot be loaded.", self._asked)

    def _embed(self, texts: list[str]) -> list[list[float]]:
        with self._core():
            if self._embedder is None:
                self._embedder = self._load()
            return self._embedder.embed(texts)

    async def embed(self, texts: list[str], model: str) -> tuple[str, list[list[float]]]:
        """The embedder's name, and one vector per text.

        Raises:
            NotFound: this server embeds with another model.
            SettingError: the embedder cannot be loaded.
        """
        loop = asyncio.get_running_loop()
        vectors: list[list[float]] = []
        for start in range(0, len(texts), _AT_ONCE):
            vectors += await loop.run_in_executor(self._thread, self._embed, texts[start : start + _AT_ONCE])
        assert self._embedder is not None
        if model not in (self._asked, self._embedder.name):
            raise NotFound(f"The model `{model}` does not exist.", f"Embeddings here come from {self._embedder.name}.")
        return self._embedder.name, vectors

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def embeddings_router(embeddings: Embeddings | None) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.post("/embeddings")
    async def embed(asked: EmbeddingRequest) -> dict[str, Any]:
        if embeddings is None:
            raise NotFound("No embedder is served here.", "Start the server with --embedder.")
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        name, vectors = await embeddings.embed(texts, asked.model)
        if asked.dimensions not in (None, len(vectors[0])):
            raise BadInput(
                f"{name} has {len(vectors[0])} dimensions, not {asked.dimensions}.", "Leave out `dimensions`."
            )
        data = [
            {"object": "embedding", "index": place, "embedding": _encoded(vector, asked.encoding_format)}
            for place, vector in enumerate(vectors)
        ]
        # This server does not charge by tokens; words come near enough for a client's statistics.
        tokens = sum(len(text.split()) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "model": name, "data": data, "usage": usage}

    return router


def _encoded(vector: list[float], form: str) -> list[float] | str:
    if form == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
