"""Traces: redacted, in the background, and never in a reply's way."""

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from servers import serving

from core.redact import Redactor
from integrations.langsmith.tracing import Tracer


class FakeLangSmith:
    """Collects whatever is posted."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.keys: set[str] = set()
        self.status = 202
        self.app = FastAPI()
        self.app.get("/info")(lambda: {"batch_ingest_config": {"use_multipart_endpoint": False}})
        self.app.post("/runs")(self._take)
        self.app.post("/runs/batch")(self._take)
        self.app.post("/runs/multipart")(self._take)

    async def _take(self, request: Request) -> Any:
        from fastapi.responses import JSONResponse

        self.bodies.append(await request.body())
        self.keys.add(request.headers.get("x-api-key", ""))
        return JSONResponse({}, status_code=self.status)


@pytest.fixture
def langsmith() -> Iterator[tuple[FakeLangSmith, str]]:
    fake = FakeLangSmith()
    with serving(fake.app) as url:
        yield fake, url


def tracer(url: str, key: str | None = "lsv2_test") -> Tracer:
    return Tracer(key=key, endpoint=url, project="npllm-tests", redact=lambda names: Redactor(names=names))


def trace(made: Tracer) -> float:
    started = time.perf_counter()
    made.trace(
        "customers",
        "aqui Kauane, meu cpf é 529.982.247-25",
        ["O colchão custa R$ 10."],
        "Anotado, Kauane, 529.982.247-25",
        "customers-v1",
        ["Kauane Xis"],
    )
    return time.perf_counter() - started


def test_a_trace_arrives_redacted(langsmith: tuple[FakeLangSmith, str]) -> None:
    fake, url = langsmith
    made = tracer(url)
    assert trace(made) < 0.1
    made.flush()
    end = time.monotonic() + 10
    while not fake.bodies and time.monotonic() < end:
        time.sleep(0.05)
    import gzip

    sent = b"".join(body if body[:2] != b"\x1f\x8b" else gzip.decompress(body) for body in fake.bodies)
    text = sent.decode("utf-8", "replace")
    assert "529.982" not in text
    assert "Kauane" not in text, "whom the channel calls so"
    assert "CPF_1" in text
    assert "customers-v1" in text
    assert fake.keys == {"lsv2_test"}


def test_without_a_key_nothing_is_sent(langsmith: tuple[FakeLangSmith, str]) -> None:
    made = tracer(langsmith[1], key=None)
    trace(made)
    assert made.client is None
    assert langsmith[0].bodies == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "not a url"])
def test_a_langsmith_that_is_away_costs_nothing(url: str) -> None:
    assert trace(tracer(url)) < 0.1


def test_a_langsmith_that_refuses_costs_nothing(langsmith: tuple[FakeLangSmith, str]) -> None:
    langsmith[0].status = 500
    assert trace(tracer(langsmith[1])) < 0.1


def test_langchain_does_not_trace_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGSMITH_TRACING", "true")
    tracer("http://127.0.0.1:9", key=None)
    assert os.environ["LANGSMITH_TRACING"] == "false"
