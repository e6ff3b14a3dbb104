"""Asking an OpenAI-compatible server through langchain's client."""

import time
from collections.abc import Iterator

import pytest
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from servers import ScriptedModel, serving

from core.errors import ModelUnavailable, NotFound
from integrations.openai.embeddings import Embeddings
from integrations.openai.model import Server
from integrations.openai.model import _client as clients


@pytest.fixture
def scripted() -> Iterator[tuple[ScriptedModel, Server]]:
    model = ScriptedModel()
    with serving(model.app) as url:
        yield model, Server(f"{url}/v1", "a-key")


ASK = [{"role": "user", "content": "Olá?"}]


def test_a_reply_is_streamed_timed_and_counted(scripted: tuple[ScriptedModel, Server]) -> None:
    model, server = scripted
    model.say = lambda name, question: "Olá, tudo bem?"
    pieces: list[str] = []
    reply = server.reply(ASK, model="base-model", max_tokens=20, timeout=10, on_text=pieces.append)  # type: ignore[arg-type]
    assert reply.text == "Olá, tudo bem?"
    assert "".join(pieces).strip() == reply.text
    assert 0 < reply.first_token_ms <= reply.latency_ms
    assert (reply.prompt_tokens, reply.completion_tokens) == (10, 3)
    assert reply.finish_reason == "stop"
    sent = model.asked[0]
    assert sent["messages"] == ASK
    assert sent["temperature"] == 0.0


def test_one_client_serves_replies_of_any_time_and_length(scripted: tuple[ScriptedModel, Server]) -> None:
    """Making one takes as long as a short reply."""
    model, server = scripted
    before = clients.cache_info().misses
    for left in (9.99, 9.5, 3.25):
        server.reply(ASK, model="base-model", max_tokens=int(left), timeout=left)  # type: ignore[arg-type]
    assert clients.cache_info().misses == before + 1
    assert [sent["max_completion_tokens"] for sent in model.asked] == [9, 9, 3]


def test_an_unknown_model_is_not_found(scripted: tuple[ScriptedModel, Server]) -> None:
    with pytest.raises(NotFound, match="customers-v9"):
        scripted[1].reply(ASK, model="customers-v9", max_tokens=5, timeout=5)  # type: ignore[arg-type]


def test_a_failing_server_is_unavailable_at_once(scripted: tuple[ScriptedModel, Server]) -> None:
    scripted[0].failing.add("base-model")
    with pytest.raises(ModelUnavailable):
        scripted[1].reply(ASK, model="base-model", max_tokens=5, timeout=5)  # type: ignore[arg-type]
    assert len(scripted[0].asked) == 1  # the chain of models is the retry


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>Bad gateway</html>", b'data: {"choices": [\n\n', b"data: []\n\ndata: [DONE]\n\n", b"data: \xff\n\n"],
    ids=["nothing", "a page", "half a line", "a list", "no utf-8"],
)
def test_what_cannot_be_read_is_no_reply(body: bytes) -> None:
    app = FastAPI()
    app.post("/v1/chat/completions")(lambda: Response(body, media_type="text/event-stream"))
    with serving(app) as url, pytest.raises(ModelUnavailable, match="cannot be read"):
        Server(f"{url}/v1").reply([{"role": "user", "content": "Oi"}], model="m", max_tokens=5, timeout=5)


def test_a_slow_server_is_left(scripted: tuple[ScriptedModel, Server]) -> None:
    scripted[0].delay = 3.0
    started = time.monotonic()
    with pytest.raises(ModelUnavailable):
        scripted[1].reply(ASK, model="base-model", max_tokens=5, timeout=0.5)  # type: ignore[arg-type]
    assert time.monotonic() - started < 2.5


def test_a_server_that_is_not_there() -> None:
    nobody = Server("http://127.0.0.1:9/v1")
    with pytest.raises(ModelUnavailable):
        nobody.reply(ASK, model="x", max_tokens=5, timeout=2)  # type: ignore[arg-type]
    with pytest.raises(ModelUnavailable, match="npllm status"):
        nobody.models()


def test_adapters_are_loaded_and_let_go(scripted: tuple[ScriptedModel, Server]) -> None:
    model, server = scripted
    server.load_adapter("customers-v2", "/adapters/v2", "abc")
    server.load_adapter("customers-v2", "/adapters/v2", "abc")
    assert server.models() == ["base-model", "customers-v2"]
    assert "customers-v2" in server.reply(ASK, model="customers-v2", max_tokens=9, timeout=5).text  # type: ignore[arg-type]
    server.unload_adapter("customers-v2")
    server.unload_adapter("customers-v2")
    assert model.loaded == []


class TestEmbeddings:
    def test_known_texts_are_not_asked_again(self, scripted: tuple[ScriptedModel, Server]) -> None:
        client = Embeddings(url=scripted[1].url, key="k", model="m", name="m")
        one, two, again = client.embed(["colchão", "entrega", "colchão"])
        assert one == again != two
        assert len(one) == 384
        assert client.embed(["entrega"]) == [two]

    def test_a_server_that_is_not_there(self) -> None:
        client = Embeddings(url="http://127.0.0.1:9/v1", key=None, model="m", name="m")
        with pytest.raises(ModelUnavailable):
            client.embed(["x"])

    @pytest.mark.parametrize(("status", "code"), [(404, "model_not_found"), (500, "setting_error")])
    def test_a_model_that_the_server_does_not_have(self, status: int, code: str) -> None:
        app = FastAPI()
        refusal = {"error": {"message": "EMBEDDING_MODEL=abc cannot be loaded", "type": "x", "code": code}}
        app.post("/v1/embeddings")(lambda: JSONResponse(refusal, status))
        with serving(app) as url, pytest.raises(ModelUnavailable, match="no model 'abc'") as error:
            Embeddings(url=f"{url}/v1", key=None, model="abc", name="abc").embed(["olá"])
        assert "Set EMBEDDING_MODEL to embedded" in error.value.next_step

    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            ("<html>", "text/html"),
            ("{", "application/json"),
            ("[]", "application/json"),
            ('{"data": []}', "application/json"),
        ],
    )
    def test_what_cannot_be_read_is_no_vector(self, body: str, kind: str) -> None:
        app = FastAPI()
        app.post("/v1/embeddings")(lambda: Response(body, media_type=kind))
        with serving(app) as url, pytest.raises(ModelUnavailable):
            Embeddings(url=f"{url}/v1", key=None, model="m", name="m").embed(["olá"])
