"""How long a reply takes: bursts of requests to a model server, versions mixed.

    python -m integrations.huggingface.bench --data-dir DIR             starts its own server, with random versions
    python -m integrations.huggingface.bench --url http://…/v1 --models base,v1,v2

Every request of a burst arrives at the same moment. Prompts are a shop's: a system message that the server knows
already, a passage and a question. Answers have a fixed length, whatever the model says.
"""

import asyncio
import contextlib
import itertools
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
import psutil
from safetensors import safe_open
from safetensors.numpy import save_file

from core.artifacts import ALLOWED_TARGETS, CONFIG, WEIGHTS, write_manifest
from core.prompts import chat_messages
from integrations.huggingface.embedded_base import BaseModel, resolve_base

_RANK = 16
_PASSAGE = "O colchão Serra solteiro custa R$ {price}; a entrega na capital leva {days} dias úteis."
_QUESTIONS = ("Quanto custa o Serra de solteiro?", "Em quantos dias chega?", "O frete é grátis?", "Qual é a garantia?")


@click.command()
@click.option("--url", help="A running server, ending in /v1; without it one is started and ended.")
@click.option("--models", help="Models to mix, with commas; as many requests each. With --url.")
@click.option("--base", default="", help="As the server's --base. Without --url.")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="As the server's. Without --url.")
@click.option("--versions", default=3, show_default=True, help="Random versions to load. Without --url.")
@click.option("--threads", type=int, help="As the server's --threads. Without --url.")
@click.option("--concurrency", multiple=True, type=int, default=(1, 20), show_default=True)
@click.option("--bursts", default=8, show_default=True, help="Per level of concurrency.")
@click.option("--tokens", default=30, show_default=True, help="Length of each answer.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
def main(
    url: str | None,
    models: str | None,
    base: str,
    data_dir: Path | None,
    versions: int,
    threads: int | None,
    concurrency: Sequence[int],
    bursts: int,
    tokens: int,
    as_json: bool,
) -> None:
    """Measure first token and whole reply."""
    if (url is None) == (data_dir is None):
        raise click.UsageError("Give --url of a running server, or --data-dir to start one.")
    with contextlib.ExitStack() as stack:
        facts: dict[str, Any] = {}
        server: psutil.Process | None = None
        if url is None:
            assert data_dir is not None
            found = resolve_base(base, data_dir, lambda line: click.echo(line, err=True))
            url, names, server = stack.enter_context(_own_server(found, data_dir, versions, threads, facts))
        else:
            names = (models or "").split(",") if models else [_first_model(url)]
        facts["models"] = names
        facts["load_before"] = os.getloadavg()[0]
        levels = [asyncio.run(_measure(url, names, level, bursts, tokens, server)) for level in concurrency]
        facts["load_after"] = os.getloadavg()[0]
    if as_json:
        click.echo(json.dumps({**facts, "levels": levels}))
        return
    click.echo(" · ".join(f"{name} {value}" for name, value in facts.items()))
    for level in levels:
        shown = "  ".join(
            f"{name} p50 {level[name]['p50_ms']:.0f} p95 {level[name]['p95_ms']:.0f} ms"
            for name in ("first_token", "whole")
        )
        click.echo(
            f"{level['concurrency']:3d} at once: {shown}  ({level['prompt_tokens']} prompt tokens, "
            f"{level['cached_tokens']} known, {level['tokens_per_s']:.0f} tokens/s, {level['cpu_ms_per_reply']} CPU ms)"
        )


def _first_model(url: str) -> str:
    name: str = httpx.get(f"{url}/models").raise_for_status().json()["data"][0]["id"]
    return name


@contextlib.contextmanager
def _own_server(
    base: BaseModel, data_dir: Path, versions: int, threads: int | None, facts: dict[str, Any]
) -> Iterator[tuple[str, list[str], psutil.Process]]:
    """A server with `versions` random versions; adds its time to start and its memory to `facts`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "integrations.huggingface.server", "--base", str(base.path), "--port", str(port)]
    command += ["--data-dir", str(data_dir), "--embedder", "none"]
    command += ["--threads", str(threads)] if threads else []
    started = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    folders = Path(tempfile.mkdtemp())
    try:
        address = f"http://127.0.0.1:{port}"
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{address}/health", timeout=5).raise_for_status()
                break
            if process.poll() is not None:
                raise click.ClickException("The server did not start; start it by hand to see why.")
            time.sleep(0.05)
        facts["start_s"] = round(time.perf_counter() - started, 1)
        names = [f"random-{number}" for number in range(versions)]
        for number, name in enumerate(names):
            random_version(folders / name, base, seed=number)
            asked = {"lora_name": name, "lora_path": str(folders / name)}
            httpx.post(f"{address}/v1/load_lora_adapter", json=asked, timeout=60).raise_for_status()
        server = psutil.Process(process.pid)
        yield f"{address}/v1", names or [base.name], server
        facts["memory_mb"] = server.memory_info().rss >> 20
    finally:
        process.terminate()
        process.wait(timeout=30)
        shutil.rmtree(folders)


def random_version(folder: Path, base: BaseModel, seed: int) -> None:
    """A version on all linear layers, rank 16, whose update is too small to matter: it costs what a real one costs."""
    draw = np.random.default_rng(seed)
    tensors = {}
    for path in base.path.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118
                layer = key.removesuffix(".weight")
                if layer.rpartition(".")[2] in ALLOWED_TARGETS:
                    outputs, inputs = file.get_slice(key).get_shape()
                    name = f"base_model.model.{layer}"
                    tensors[f"{name}.lora_A.weight"] = draw.normal(0, 0.02, (_RANK, inputs)).astype(np.float32)
                    tensors[f"{name}.lora_B.weight"] = draw.normal(0, 0.002, (outputs, _RANK)).astype(np.float32)
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": _RANK, "lora_alpha": _RANK, "target_modules": sorted(ALLOWED_TARGETS)}
    (folder / CONFIG).write_text(json.dumps(config))
    write_manifest(folder, {"base": {"model": base.name, "revision": base.revision}})


async def _measure(
    url: str, models: Sequence[str], concurrency: int, bursts: int, tokens: int, server: psutil.Process | None
) -> dict[str, Any]:
    """One level. The time on the clock depends on who else computes; the server's CPU time says what it needed."""
    numbers = itertools.count()
    results: list[dict[str, Any]] = []
    limits = httpx.Limits(max_connections=None)
    headers = {"Authorization": f"Bearer {os.environ.get('NPLLM_MODEL_KEY', 'none')}"}
    async with httpx.AsyncClient(timeout=120, limits=limits, headers=headers) as client:
        for model in models:  # the system messages become known, as they are after a server's first minute
            await _one(client, url, model, next(numbers), 1)
        before = _cpu_seconds(server)
        for _ in range(bursts):
            asked = [(models[place % len(models)], next(numbers)) for place in range(concurrency)]
            results += await asyncio.gather(*(_one(client, url, model, number, tokens) for model, number in asked))
        spent = _cpu_seconds(server) - before
    whole = [result["whole"] for result in results]
    return {
        "concurrency": concurrency,
        "bursts": bursts,
        "first_token": _quantiles([result["first_token"] for result in results]),
        "whole": _quantiles(whole),
        "prompt_tokens": round(sum(result["prompt"] for result in results) / len(results)),
        "cached_tokens": round(sum(result["cached"] for result in results) / len(results)),
        "cpu_ms_per_reply": round(1000 * spent / len(results)) if server else None,
        "tokens_per_s": tokens * concurrency / (sum(whole) / len(whole)),
    }


def _cpu_seconds(server: psutil.Process | None) -> float:
    if server is None:
        return 0.0
    times = server.cpu_times()
    return float(times.user + times.system)


async def _one(client: httpx.AsyncClient, url: str, model: str, number: int, tokens: int) -> dict[str, float]:
    passage = _PASSAGE.format(price=300 + 7 * number % 5000, days=1 + number % 9)
    messages = chat_messages(
        language="pt",
        assistant="Lia",
        business="Alvorada Colchões",
        question=_QUESTIONS[number % len(_QUESTIONS)],
        passages=[passage],
    )
    body = {"model": model, "messages": messages, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    body["stream_options"] = {"include_usage": True}
    usage: dict[str, Any] = {}
    started, first = time.perf_counter(), 0.0
    async with client.stream("POST", f"{url}/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise click.ClickException(f"{model}: HTTP {answer.status_code} {(await answer.aread())[:300]!r}")
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            usage = chunk.get("usage") or usage
            if not first and chunk["choices"] and (chunk["choices"][0]["delta"].get("content") or tokens == 1):
                first = time.perf_counter() - started
    whole = time.perf_counter() - started
    details = usage.get("prompt_tokens_details") or {}
    return {
        "first_token": first or whole,
        "whole": whole,
        "prompt": usage.get("prompt_tokens", 0),
        "cached": details.get("cached_tokens", 0),
    }


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return round(1000 * ordered[max(0, math.ceil(share * len(ordered)) - 1)], 1)

    return {"p50_ms": at(0.5), "p95_ms": at(0.95)}


if __name__ == "__main__":
    main()
