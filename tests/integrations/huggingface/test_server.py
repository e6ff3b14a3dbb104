"""The server over HTTP, as OpenAI's own client, langchain's and vLLM's users speak to it."""

import base64
import contextlib
import json
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
import torch
import uvicorn
from click.testing import CliRunner

from core.errors import SettingError
from integrations.huggingface import server
from integrations.huggingface.attention import Feed
from integrations.huggingface.embeddings_api import Embeddings
from integrations.huggingface.engine import Engine
from integrations.huggingface.exchange import Limits
from integrations.huggingface.sampling import Chooser
from integrations.huggingface.serving_model import ServingModel

Adapters = Callable[..., tuple[Path, str]]
ASKED = [{"role": "system", "content": "Seja breve."}, {"role": "user", "content": "Olá?"}]


class TwoNumbers:
    """An embedder that counts: letters and words."""

    name = "counter-1a2b"
    dimension = 2

    def embed(self, texts: list[str]) -> list[list[float]]:
        return [[float(len(text)), float(len(text.split()))] for text in texts]


@contextlib.contextmanager
def running(engine: Engine | None, embeddings: Embeddings | None = None, key: str | None = None) -> Iterator[str]:
    """The application on a free port; yields its address."""
    app = server.create_app(engine, embeddings, key)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    instance = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=instance.run, kwargs={"sockets": [listener]})
    thread.start()
    while not instance.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    instance.should_exit = True
    thread.join(timeout=20)


@pytest.fixture(scope="module")
def embeddings() -> Embeddings:
    return Embeddings("counter", TwoNumbers, contextlib.nullcontext)


@pytest.fixture(scope="module")
def served(model: ServingModel, embeddings: Embeddings) -> Iterator[SimpleNamespace]:
    engine = Engine(model, Limits(adapters=3))
    with running(engine, embeddings) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        http = httpx.Client(base_url=url, timeout=30)
        yield SimpleNamespace(engine=engine, url=url, openai=client, http=http, base=model.base.name, model=model)


@pytest.fixture
def version(served: SimpleNamespace, adapters: Adapters) -> Iterator[str]:
    folder, sha256 = adapters(served.model.base, 1)
    answer = served.http.post(
        "/v1/load_lora_adapter", json={"lora_name": "clientes-v1", "lora_path": str(folder), "sha256": sha256}
    )
    assert answer.status_code == 200, answer.text
    yield "clientes-v1"
    served.http.post("/v1/unload_lora_adapter", json={"lora_name": "clientes-v1"})


def script(monkeypatch: pytest.MonkeyPatch, model: ServingModel, text: str) -> None:
    tokens = [*model.decoder.encode(text).ids, next(iter(model.ends))]
    monkeypatch.setattr(Chooser, "choose", lambda chooser, _: tokens[min(len(chooser.said), len(tokens) - 1)])


def test_openai_s_client_gets_a_whole_answer(served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, served.model, "Olá! Posso ajudar? 😀")
    reply = served.openai.chat.completions.create(model=served.base, messages=ASKED)
    choice = reply.choices[0]
    assert (reply.object, reply.model) == ("chat.completion", served.base)
    assert (choice.message.role, choice.message.content) == ("assistant", "Olá! Posso ajudar? 😀")
    assert choice.finish_reason == "stop"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    again = served.openai.chat.completions.create(model=served.base, messages=ASKED)
    assert again.usage.prompt_tokens_details.cached_tokens == len("x" + "system\nSeja breve." + "x\n")


def test_openai_s_client_streams_whole_characters(served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, served.model, "São 3 opções 👍🏽, tá?")
    stream = list(
        served.openai.chat.completions.create(
            model=served.base, messages=ASKED, stream=True, stream_options={"include_usage": True}
        )
    )
    assert stream[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream[:-1]]
    assert "".join(pieces) == "São 3 opções 👍🏽, tá?"
    assert all("\ufffd" not in piece for piece in pieces)
    assert len(pieces) > 10
    assert stream[-2].choices[0].finish_reason == "stop"
    assert stream[-1].choices == []
    assert stream[-1].usage.completion_tokens == len("São 3 opções 👍🏽, tá?".encode()) + 1
    assert len({chunk.id for chunk in stream}) == 1


def test_without_include_usage_a_stream_has_none(served: SimpleNamespace) -> None:
    stream = list(served.openai.chat.completions.create(model=served.base, messages=ASKED, stream=True, max_tokens=3))
    assert all(chunk.usage is None for chunk in stream)
    assert stream[-1].choices[0].finish_reason == "length"


def test_stop_and_limits(served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, served.model, "um dois três")
    create = served.openai.chat.completions.create
    stopped = create(model=served.base, messages=ASKED, stop=[" três", "?"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("um dois", "stop")
    for limit in ({"max_tokens": 4}, {"max_completion_tokens": 4}):
        cut = create(model=served.base, messages=ASKED, **limit).choices[0]
        assert (cut.message.content, cut.finish_reason) == ("um d", "length")


def test_contents_in_parts_and_developer_messages(served: SimpleNamespace) -> None:
    create = served.openai.chat.completions.create
    parts = [{"type": "text", "text": "Ol"}, {"type": "text", "text": "á?"}]
    first = create(model=served.base, messages=ASKED, max_tokens=8)
    second = create(
        model=served.base,
        messages=[{"role": "developer", "content": "Seja breve."}, {"role": "user", "content": parts}],
        max_tokens=8,
    )
    assert first.choices[0].message.content == second.choices[0].message.content
    assert first.usage.prompt_tokens == second.usage.prompt_tokens


def test_models_lists_the_base_first_then_the_versions(served: SimpleNamespace, version: str) -> None:
    base, adapter = served.openai.models.list().data
    assert (base.id, base.parent, base.max_model_len) == (served.base, None, served.model.context)
    assert (adapter.id, adapter.parent) == (version, served.base)
    assert len(adapter.sha256) == 64


def test_versions_are_loaded_used_and_unloaded(served: SimpleNamespace, version: str) -> None:
    create = served.openai.chat.completions.create
    own = create(model=version, messages=ASKED, max_tokens=12)
    base = create(model=served.base, messages=ASKED, max_tokens=12)
    assert own.model == version
    assert own.choices[0].message.content != base.choices[0].message.content
    answer = served.http.post("/v1/unload_lora_adapter", json={"lora_name": version})
    assert (answer.status_code, answer.text) == (200, f"Success: LoRA adapter '{version}' removed successfully.")
    with pytest.raises(openai.NotFoundError) as refused:
        create(model=version, messages=ASKED)
    assert refused.value.code == "model_not_found"
    assert served.http.post("/v1/unload_lora_adapter", json={"lora_name": version}).status_code == 404


def test_langchain_s_client(served: SimpleNamespace, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    text = "Custa R$ 1.199, à vista."
    script(monkeypatch, served.model, text)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    chat = ChatOpenAI(base_url=f"{served.url}/v1", model=version, max_completion_tokens=99, temperature=0)
    answer = chat.invoke([("system", "Seja breve."), ("human", "Quanto custa?")])
    assert answer.content == text
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == len(text.encode()) + 1
    assert "".join(str(piece.content) for piece in chat.stream("Quanto custa?")) == text
    # Without its check of lengths, which counts tokens with OpenAI's tokenizer and sends those.
    embedder = OpenAIEmbeddings(base_url=f"{served.url}/v1", model="counter", check_embedding_ctx_length=False)
    assert embedder.embed_query("três palavras aqui") == [18.0, 3.0]


def error_of(answer: httpx.Response) -> dict[str, Any]:
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    found: dict[str, Any] = body["error"]
    return found


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"model": "gpt-9"}, 404, "`gpt-9` does not exist"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            400,
            "messages.0.content.0.type: Input should be 'text'",
        ),
        ({"messages": [{"role": "user", "content": None}]}, 400, "messages.0.content: Input should be a valid string"),
        ({"messages": [{"role": "user", "content": "a " * 300}]}, 400, "maximum prompt length is 199 tokens"),
        ({"messages": [{"role": "user", "content": "a" * 500_000}]}, 400, "maximum context length"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"temperature": 3}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"stop": ["a"] * 5}, 400, "stop: List should have at most 4 items"),
        ({"stop": [""]}, 400, "stop"),
        ({"n": 2}, 400, "`n` is not supported"),
        ({"tools": [{"type": "function"}]}, 400, "`tools` is not supported"),
        ({"response_format": {"type": "json_object"}}, 400, "`response_format` is not supported"),
        ({"logprobs": True}, 400, "`logprobs` is not supported"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_done_is_refused_in_openai_s_shape(
    change: dict[str, Any], status: int, said: str, served: SimpleNamespace
) -> None:
    answer = served.http.post("/v1/chat/completions", json={"model": served.base, "messages": ASKED, **change})
    assert answer.status_code == status
    assert said in error_of(answer)["message"]


def test_what_changes_nothing_is_ignored(served: SimpleNamespace) -> None:
    ignored = {"user": "u1", "metadata": {"a": "b"}, "store": False, "n": 1, "tools": [], "logit_bias": {}}
    answer = served.http.post(
        "/v1/chat/completions", json={"model": served.base, "messages": ASKED, "max_tokens": 2, **ignored}
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"model": "x", "messages": "hi"}', 400),
        (b'{"model": "x", "messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        (b"\xff\xfe", 400),
        (b"x" * (3 << 20), 413),
    ],
    ids=["cut off", "list", "text", "half a character", "no utf-8", "too large"],
)
def test_bodies_that_cannot_be_read(body: bytes, status: int, served: SimpleNamespace) -> None:
    for content in (body, iter([body])):  # with its length announced, and in chunks
        answer = served.http.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == status
        error_of(answer)


def test_text_with_nul_is_text(served: SimpleNamespace) -> None:
    messages = [{"role": "user", "content": "a\x00b"}]
    assert served.openai.chat.completions.create(model=served.base, messages=messages, max_tokens=2).usage


def test_paths_and_methods_that_do_not_exist(served: SimpleNamespace) -> None:
    assert error_of(served.http.get("/v1/nothing"))["type"] == "invalid_request_error"
    assert served.http.get("/v1/chat/completions").status_code == 405


def test_an_adapter_that_must_not_be_loaded_is_refused_with_its_reason(
    served: SimpleNamespace, adapters: Adapters, tmp_path: Path
) -> None:
    folder, _ = adapters(served.model.base, 1)

    def refusal(name: str, change: Callable[[Path], object], **more: str) -> dict[str, Any]:
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        change(copy)
        asked = {"lora_name": name, "lora_path": str(copy), **more}
        answer = served.http.post("/v1/load_lora_adapter", json=asked)
        assert answer.status_code == 422, answer.text
        return error_of(answer)

    def flip(copy: Path) -> None:
        data = bytearray((copy / "adapter_model.safetensors").read_bytes())
        data[-1] ^= 1
        (copy / "adapter_model.safetensors").write_bytes(data)

    assert refusal("flipped", flip)["code"] == "changed_bytes"
    assert refusal("pickle", lambda copy: (copy / "x.bin").write_bytes(b""))["code"] == "unsafe_file"
    assert refusal("hash", lambda _: None, sha256="0" * 64)["code"] == "changed_bytes"
    missing = {"lora_name": "none", "lora_path": str(tmp_path / "none")}
    assert served.http.post("/v1/load_lora_adapter", json=missing).status_code == 422
    assert [model.id for model in served.openai.models.list().data] == [served.base]


def test_too_many_versions_are_a_conflict(served: SimpleNamespace, adapters: Adapters) -> None:
    names = [f"v{seed}" for seed in range(4)]
    answers = []
    for seed, name in enumerate(names):
        folder, _ = adapters(served.model.base, seed)
        answers.append(served.http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder)}))
    assert [answer.status_code for answer in answers] == [200, 200, 200, 409]
    assert "v0, v1, v2" in error_of(answers[3])["message"]
    for name in names[:3]:
        served.http.post("/v1/unload_lora_adapter", json={"lora_name": name})


@pytest.fixture
def slow(fresh_model: ServingModel, engines: Callable[..., Engine]) -> Iterator[SimpleNamespace]:
    """A model that takes its time, with room for two waiting prompts."""
    forward = fresh_model.forward

    def slowly(feeds: Sequence[Feed]) -> torch.Tensor:
        time.sleep(0.02)
        return forward(feeds)

    fresh_model.forward = slowly  # type: ignore[method-assign]
    engine = engines(fresh_model, queue=2)
    with running(engine) as url:
        yield SimpleNamespace(engine=engine, url=url, base=fresh_model.base.name)


def long_answer(base: str, **more: Any) -> dict[str, Any]:
    return {"model": base, "messages": ASKED, "max_tokens": 150, "ignore_eos": True, **more}


def wait_for(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_a_client_that_leaves_frees_its_row(slow: SimpleNamespace) -> None:
    counters = slow.engine.counters
    url = f"{slow.url}/v1/chat/completions"
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url, json=long_answer(slow.base), timeout=0.3)
    assert wait_for(lambda: counters.cancelled == 1)
    with httpx.stream("POST", url, json=long_answer(slow.base, stream=True), timeout=10) as stream:
        next(stream.iter_lines())
    assert wait_for(lambda: counters.cancelled == 2)
    assert wait_for(lambda: counters.rows == 0)
    assert counters.finished == 0


def test_a_full_queue_says_when_to_come_again(slow: SimpleNamespace) -> None:
    url = f"{slow.url}/v1/chat/completions"
    with contextlib.ExitStack() as stack:
        for _ in range(6):  # four rows and two in the queue
            stack.enter_context(httpx.stream("POST", url, json=long_answer(slow.base, stream=True), timeout=10))
        refused = httpx.post(url, json=long_answer(slow.base), timeout=10)
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert error_of(refused)["type"] == "server_error"


def test_a_stream_that_fails_says_so_at_its_end(slow: SimpleNamespace) -> None:
    url = f"{slow.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=long_answer(slow.base, stream=True), timeout=10) as stream:
        lines = stream.iter_lines()
        next(lines)
        slow.engine.close()
        said = [line for line in lines if line]
    assert json.loads(said[-1].removeprefix("data: "))["error"]["code"] == "model_unavailable"
    health = httpx.get(f"{slow.url}/health")
    assert health.status_code == 503
    assert httpx.post(url, json=long_answer(slow.base)).status_code == 503


def test_embeddings(served: SimpleNamespace, embeddings: Embeddings) -> None:
    texts = ["um dois", "três"]
    found = served.openai.embeddings.create(model="counter", input=texts)  # the client asks for base64
    assert [row.embedding for row in found.data] == [[7.0, 2.0], [4.0, 1.0]]
    assert found.model == "counter-1a2b"
    plain = served.http.post("/v1/embeddings", json={"model": "counter-1a2b", "input": "três"}).json()
    assert plain["data"][0]["embedding"] == [4.0, 1.0]
    coded = served.http.post("/v1/embeddings", json={"model": "counter", "input": "a", "encoding_format": "base64"})
    assert struct.unpack("<2f", base64.b64decode(coded.json()["data"][0]["embedding"])) == (1.0, 1.0)
    many = served.openai.embeddings.create(model="counter", input=["a" * i for i in range(50)])
    assert [row.embedding[0] for row in many.data] == list(range(50))


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"model": "other", "input": "a"}, 404),
        ({"model": "counter", "input": []}, 400),
        ({"model": "counter", "input": [[1, 2]]}, 400),
        ({"model": "counter", "input": "a", "dimensions": 7}, 400),
    ],
    ids=str,
)
def test_embeddings_that_cannot_be_had(asked: dict[str, Any], status: int, served: SimpleNamespace) -> None:
    answer = served.http.post("/v1/embeddings", json=asked)
    assert answer.status_code == status
    error_of(answer)


def test_an_embedder_that_cannot_be_loaded_is_told_to_who_asks(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> TwoNumbers:
        raise SettingError("EMBEDDING_MODEL=x cannot be loaded.", "Name another.")

    with running(None, Embeddings("x", broken, contextlib.nullcontext)) as url:
        answer = httpx.post(f"{url}/v1/embeddings", json={"model": "x", "input": "a"})
        assert answer.status_code == 500
        assert "EMBEDDING_MODEL=x" in error_of(answer)["message"]
    assert "The embedder x cannot be loaded" in caplog.text


def test_embeddings_alone(embeddings: Embeddings) -> None:
    with running(None, Embeddings("counter", TwoNumbers, contextlib.nullcontext)) as url:
        assert httpx.get(f"{url}/v1/models").json()["data"] == []
        assert httpx.post(f"{url}/v1/embeddings", json={"model": "counter", "input": "a"}).status_code == 200
        chat = httpx.post(f"{url}/v1/chat/completions", json={"model": "x", "messages": ASKED})
        assert chat.status_code == 404
        assert "only embeddings" in error_of(chat)["message"]
        assert httpx.get(f"{url}/health").status_code == 200


def test_a_key_closes_every_door_but_the_probes(fresh_model: ServingModel, engines: Callable[..., Engine]) -> None:
    with running(engines(fresh_model), key="segredo") as url:
        for headers in ({}, {"Authorization": "Bearer errado"}, {"Authorization": "segredo"}):
            answer = httpx.get(f"{url}/v1/models", headers=headers)
            assert answer.status_code == 401
            assert error_of(answer)["code"] == "invalid_api_key"
        assert httpx.post(f"{url}/v1/load_lora_adapter", json={}).status_code == 401
        assert openai.OpenAI(base_url=f"{url}/v1", api_key="segredo").models.list().data
        assert httpx.get(f"{url}/health").status_code == httpx.get(f"{url}/metrics").status_code == 200


def test_health_and_metrics(served: SimpleNamespace, version: str) -> None:
    served.openai.chat.completions.create(model=served.base, messages=ASKED, max_tokens=2)
    health = served.http.get("/health").json()
    assert health == {
        "status": "ok",
        "model": served.base,
        "revision": served.model.base.revision,
        "precision": "fp32",
    }
    metrics = served.http.get("/metrics").text
    assert "npllm_model_versions 1.0" in metrics
    finished = next(line for line in metrics.splitlines() if line.startswith("npllm_model_finished_total"))
    assert float(finished.split()[1]) >= 1


def test_the_command_serves_and_ends(model: ServingModel, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "integrations.huggingface.server", "--base", str(model.base.path)]
    options = ["--data-dir", str(tmp_path), "--port", str(port), "--embedder", "none", "--threads", "1"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    try:

        def up() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
            return False

        end = time.monotonic() + 60
        while not up():
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.1)
        taken = CliRunner().invoke(server.main, ["--data-dir", str(tmp_path), "--port", str(port)])
        assert taken.exit_code == 1
        assert "cannot be used" in taken.output
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "no key is set"),
        (["--base", "./nowhere"], "is no folder"),
        (["--api-key-file", "empty"], "is empty"),
    ],
    ids=["open door", "no base", "empty key"],
)
def test_a_start_that_makes_no_sense_says_what_to_do(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(server.KEY_VARIABLE, raising=False)
    (tmp_path / "empty").write_text("\n")
    result = CliRunner().invoke(server.main, ["--data-dir", str(tmp_path), "--port", "0", *options])
    assert result.exit_code == 1
    assert said in result.output
