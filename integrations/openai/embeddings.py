"""Vectors from any OpenAI-compatible /v1/embeddings: our own server's, or OpenAI's."""

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from core.errors import ModelUnavailable
from core.settings import EMBEDDED, Settings

EMBEDDED_EMBEDDER = "minilm-pt-2"  # what our own model server calls it
_CACHED = 2048


class Embeddings:
    """A client with a small memory: customers ask the same things.

    Attributes:
        name: which space the vectors are in; stored beside each of them.
    """

    def __init__(self, *, url: str, key: str | None, model: str, name: str) -> None:
        import openai  # 20 MB, which only who asks for vectors should pay

        self.client = openai.OpenAI(base_url=url, api_key=key or "none", timeout=20.0, max_retries=1)
        self.model = model
        self.name = name
        self._known: OrderedDict[str, list[float]] = OrderedDict()
        self._lock = Lock()

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text.

        Raises:
            ModelUnavailable: the server does not answer, or nothing that can be read.
        """
        import openai

        with self._lock:
            missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        found: dict[str, list[float]] = {}
        if missing:
            try:
                answer = self.client.embeddings.create(model=self.model, input=missing, encoding_format="float")
                found = {text: item.embedding for text, item in zip(missing, answer.data, strict=True)}
            except openai.OpenAIError as error:
                if isinstance(error, openai.NotFoundError) or getattr(error, "code", None) == "setting_error":
                    raise ModelUnavailable(
                        f"The embedding server has no model '{self.model}'.",
                        "Set EMBEDDING_MODEL to embedded, a sentence-transformers name or openai:NAME; start again, "
                        "then npllm knowledge reembed.",
                    ) from error
                raise ModelUnavailable(
                    f"The embedding server did not answer: {type(error).__name__}.", "Look at `npllm status`."
                ) from error
            except (ValueError, TypeError, AttributeError) as error:
                raise ModelUnavailable(
                    f"What the embedding server answered cannot be read: {type(error).__name__}.",
                    f"Check that {self.client.base_url} is an OpenAI-compatible server.",
                ) from error
        with self._lock:
            self._known.update(found)
            vectors = [found.get(text) or self._known[text] for text in texts]
            while len(self._known) > _CACHED:
                self._known.popitem(last=False)
        return vectors


def embeddings_of(settings: Settings) -> Embeddings:
    """Our own model server's vectors, or OpenAI's where EMBEDDING_MODEL says `openai:NAME`."""
    name = settings.embedding_model
    if name.startswith("openai:"):
        url, secret, model = settings.openai_base_url, settings.openai_api_key, name.removeprefix("openai:")
    else:
        url, secret = settings.local_model_url, settings.local_model_key
        model = name = EMBEDDED_EMBEDDER if name == EMBEDDED else name
    return Embeddings(url=url, key=secret.get_secret_value() if secret else None, model=model, name=name)
