"""Asking a model for a reply: one server, any of its models by name.

langchain's OpenAI client makes our own server, vLLM and OpenAI itself one setting apart. Adapters are loaded with
vLLM's own runtime endpoint (docs.vllm.ai, "Dynamically serving LoRA Adapters"), which our server speaks too.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import httpx
from pydantic import SecretStr

from core.errors import ArtifactError, ModelUnavailable, NotFound
from core.prompts import ChatMessage

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI

NO_KEY = "none"  # servers without a key still want a header


@dataclass(frozen=True)
class Reply:
    """What a model said. Times in milliseconds from the call; tokens as the server counted them."""

    text: str
    model: str
    finish_reason: str
    first_token_ms: float
    latency_ms: float
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server. `url` ends in /v1."""

    url: str
    key: str | None = None

    def reply(
        self,
        messages: Sequence[ChatMessage],
        *,
        model: str,
        max_tokens: int,
        timeout: float,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """Stream a reply from `model`.

        Args:
            on_text: called with each piece of text as it comes.

        Raises:
            NotFound: the server has no such model (an adapter that is not loaded).
            ModelUnavailable: anything else went wrong; the message says what.
        """
        import openai  # 20 MB, which only who asks for replies should pay

        started = time.perf_counter()
        first: float | None = None
        pieces: list[str] = []
        usage: dict[str, Any] = {}
        finish = ""
        try:
            client = _client(self.url, self.key, model)
            for chunk in client.stream(list(messages), max_completion_tokens=max_tokens, timeout=timeout):  # type: ignore[arg-type]
                text = str(chunk.text)
                if text:
                    first = first or (time.perf_counter() - started) * 1000
                    pieces.append(text)
                    if on_text:
                        on_text(text)
                usage = dict(getattr(chunk, "usage_metadata", None) or usage)
                finish = (chunk.response_metadata or {}).get("finish_reason") or finish
                if time.perf_counter() - started > timeout:
                    raise ModelUnavailable(f"{model} was still talking after {timeout:.0f} seconds.")
        except openai.NotFoundError as error:
            raise NotFound(
                f"{self.url} has no model '{model}'.", "npllm adapters list shows what is registered."
            ) from error
        except (openai.OpenAIError, httpx.HTTPError) as error:
            raise ModelUnavailable(
                f"The model server did not answer for '{model}': {type(error).__name__}.", "Look at `npllm status`."
            ) from error
        except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            # A page of a proxy, half a line, an empty body: the clients let their own errors about it through.
            raise ModelUnavailable(
                f"What the model server said for '{model}' cannot be read: {type(error).__name__}.",
                f"Check that {self.url} is an OpenAI-compatible server.",
            ) from error
        latency = (time.perf_counter() - started) * 1000
        return Reply(
            text="".join(pieces).strip(),
            model=model,
            finish_reason=finish,
            first_token_ms=first if first is not None else latency,
            latency_ms=latency,
            prompt_tokens=int(usage.get("input_tokens", 0)),
            completion_tokens=int(usage.get("output_tokens", 0)),
        )

    def models(self) -> list[str]:
        """The names the server lists, its own base first.

        Raises:
            ModelUnavailable: it does not answer.
        """
        return [entry["id"] for entry in self._call("GET", "/models").get("data", [])]

    def base_revision(self) -> str | None:
        """The revision of the base it serves, where it tells: our own server does, others do not.

        Raises:
            ModelUnavailable: it does not answer.
        """
        listed = self._call("GET", "/models").get("data", [])
        return listed[0].get("revision") if listed else None

    def load_adapter(self, name: str, folder: str, sha256: str) -> None:
        """Have the server load a version; loading it twice is no error.

        Raises:
            ArtifactError: the server refused the files.
            ModelUnavailable: it does not answer, or cannot load adapters at run time.
        """
        try:
            self._call("POST", "/load_lora_adapter", {"lora_name": name, "lora_path": folder, "sha256": sha256})
        except ArtifactError as error:
            if "already" not in error.message:
                raise

    def unload_adapter(self, name: str) -> None:
        """Have the server forget a version; one it does not know is no error."""
        try:
            self._call("POST", "/unload_lora_adapter", {"lora_name": name})
        except (ArtifactError, NotFound):
            pass

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self.key or NO_KEY}"}
        try:
            response = httpx.request(method, self.url + path, json=body, headers=headers, timeout=30.0)
        except httpx.HTTPError as error:
            raise ModelUnavailable(
                f"The model server {self.url} does not answer.", "Look at `npllm status`, or check INFERENCE_URL."
            ) from error
        if response.status_code in (400, 409, 422):
            raise ArtifactError(_reason(response))
        if response.status_code == 404:
            raise NotFound(f"{self.url}{path}: {_reason(response)}")
        if not response.is_success:
            raise ModelUnavailable(f"The model server answered {response.status_code}: {_reason(response)}")
        try:
            return response.json()
        except ValueError:
            return {}


@lru_cache(maxsize=64)
def _client(url: str, key: str | None, model: str) -> "ChatOpenAI":
    """One for all replies of a model: it keeps its connections. What differs from reply to reply is no part of it."""
    from langchain_openai import ChatOpenAI  # seconds of imports, which only who asks for replies should pay

    return ChatOpenAI(
        model=model,
        base_url=url,
        api_key=SecretStr(key or NO_KEY),
        max_retries=0,  # the chain of models is the retry
        temperature=0.0,
        stream_usage=True,
    )


def _reason(response: httpx.Response) -> str:
    try:
        data = response.json()
    except ValueError:
        return response.text[:300]
    error = data.get("error", data) if isinstance(data, dict) else data
    return str(error.get("message", error) if isinstance(error, dict) else error)[:500]
