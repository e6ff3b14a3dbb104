"""The local model server: OpenAI's API over the frozen base, any number of adapter versions, and the embedder.

    python -m integrations.huggingface.server --data-dir DIR --port 8100

It opens its port when it can answer. GET /health says whether the batching thread lives, GET /metrics how it does.
"""

import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import asdict
from ipaddress import ip_address
from pathlib import Path

import click
import torch
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.responses import JSONResponse, Response

from core.errors import NpllmError, SettingError
from integrations.huggingface.api_errors import Door, install_handlers
from integrations.huggingface.chat_api import chat_router
from integrations.huggingface.embedded_base import resolve_base
from integrations.huggingface.embedder import TAUGHT, load_embedder
from integrations.huggingface.embeddings_api import Embeddings, embeddings_router
from integrations.huggingface.engine import Engine
from integrations.huggingface.exchange import Limits
from integrations.huggingface.serving_model import Precision, ServingModel
from integrations.huggingface.spare_cores import available_cores

log = logging.getLogger(__name__)

KEY_VARIABLE = "NPLLM_MODEL_KEY"
NONE = "none"


def create_app(engine: Engine | None, embeddings: Embeddings | None = None, key: str | None = None) -> FastAPI:
    """The application over an engine that runs already; both end with it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if embeddings is not None:
            embeddings.warm_up()
        yield
        if engine is not None:
            engine.close()
        if embeddings is not None:
            embeddings.close()

    app = FastAPI(title="npllm model server", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    install_handlers(app)
    app.add_middleware(Door, key=key)
    app.include_router(chat_router(engine))
    app.include_router(embeddings_router(embeddings))
    registry = CollectorRegistry()
    if engine is not None:
        registry.register(_EngineMetrics(engine))

    @app.get("/health")
    async def health() -> Response:
        well = engine is None or engine.alive
        found = {"status": "ok" if well else "the batching thread has ended: restart this process"}
        if engine is not None:
            found |= {"model": engine.model.base.name, "revision": engine.model.base.revision}
            found |= {"precision": engine.model.precision}
        return JSONResponse(found, 200 if well else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    return app


class _EngineMetrics:
    """The engine's counters as Prometheus reads them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        for name, value in asdict(self._engine.counters).items():
            about = f"Model server: {name.replace('_', ' ')}."
            if name in ("waiting", "rows"):
                yield GaugeMetricFamily(f"npllm_model_{name}", about, value=value)
            else:
                yield CounterMetricFamily(f"npllm_model_{name}", about, value=value)
        versions = len(self._engine.adapters())
        yield GaugeMetricFamily("npllm_model_versions", "Model server: adapter versions loaded.", value=versions)
        yield GaugeMetricFamily(
            "npllm_model_threads", "Model server: threads its products use now.", value=self._engine.cores.now()
        )


@click.command()
@click.option("--base", default="", help="Folder, hub name, `embedded`, or `none` to serve embeddings only.")
@click.option("--embedder", default=TAUGHT, show_default=True, help="Its name, or `none`.")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, required=True)
@click.option("--precision", type=click.Choice(["auto", "int8", "fp32", "bf16"]), default="auto", show_default=True)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, …")
@click.option("--threads", type=int, default=min(2, available_cores()), show_default=True, help="At most.")
@click.option("--rows", type=int, default=24, show_default=True, help="Conversations answered at the same time.")
@click.option("--context", type=int, default=1024, show_default=True, help="Tokens of prompt and answer together.")
@click.option("--queue", type=int, default=Limits.queue, show_default=True, help="Prompts that may wait.")
@click.option("--max-new-tokens", type=int, default=Limits.new_tokens, show_default=True)
@click.option("--max-versions", type=int, default=Limits.adapters, show_default=True)
@click.option(
    "--api-key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"Every /v1 call must carry the key in it; {KEY_VARIABLE} does the same.",
)
def main(
    base: str,
    embedder: str,
    data_dir: Path,
    host: str,
    port: int,
    precision: Precision,
    device: str,
    threads: int,
    rows: int,
    context: int,
    queue: int,
    max_new_tokens: int,
    max_versions: int,
    api_key_file: Path | None,
) -> None:
    """Serve the base model and the embedder over OpenAI's API."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        key = _key(api_key_file, host)
        listener = _bind(host, port)
        # Loading has the machine to itself for a moment; the batching thread decides for itself (spare_cores.py).
        torch.set_num_threads(1)
        engine = None
        if base != NONE:
            found = resolve_base(base, data_dir)
            model = ServingModel(found, precision=precision, device=device, rows=rows, context=context)
            limits = Limits(queue=queue, new_tokens=max_new_tokens, adapters=max_versions)
            engine = Engine(model, limits, threads=threads)
            log.info("%s %s in %s on %s", found.name, found.revision, model.precision, model.device)
        app = create_app(engine, _embeddings(embedder, data_dir, engine), key)
    except NpllmError as error:
        raise click.ClickException(str(error)) from error
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


def _bind(host: str, port: int) -> socket.socket:
    """Take the port before the model is loaded, so that a port in use is known at once. Nobody is let in yet."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise SettingError(f"{host}:{port} cannot be used: {error.strerror}.", "Choose another --port.") from error
    return listener


def _key(file: Path | None, host: str) -> str | None:
    key = file.read_text().strip() if file is not None else os.environ.get(KEY_VARIABLE, "").strip()
    if file is not None and not key:
        raise SettingError(f"{file} is empty.", "Write the key into it.")
    if not key and not _is_loopback(host):
        raise SettingError(
            f"{host} can be reached by others, and no key is set.", f"Set {KEY_VARIABLE}, or serve on 127.0.0.1."
        )
    return key or None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _embeddings(name: str, data_dir: Path, engine: Engine | None) -> Embeddings | None:
    if name == NONE:
        return None
    lend = engine.cores.lend if engine is not None else nullcontext
    return Embeddings(name, lambda: load_embedder(name, data_dir), lend)


if __name__ == "__main__":
    main()
