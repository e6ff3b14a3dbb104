"""The baseline of `npllm bench ingest`: what anybody would write first. HMAC check, INSERT, the same bell, 200."""

import contextlib
import hashlib
import hmac
import os
from collections.abc import AsyncIterator

import redis.asyncio
from fastapi import FastAPI, Request, Response
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from core.db import psycopg_url


def create_bare() -> FastAPI:
    """One endpoint; DATABASE_URL, REDIS_URL and META_APP_SECRET from the environment."""
    pool = AsyncConnectionPool(
        psycopg_url(os.environ["DATABASE_URL"]), min_size=1, max_size=8, open=False,
        kwargs={"prepare_threshold": None, "autocommit": True},
    )  # fmt: skip
    bell = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"])
    secret = os.environ["META_APP_SECRET"].encode()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with pool:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/bare")
    async def bare(request: Request) -> Response:
        body = await request.body()
        expected = "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, request.headers.get("x-hub-signature-256", "")):
            return Response(status_code=401)
        key = hashlib.sha256(body).hexdigest()
        async with pool.connection() as connection:
            await connection.execute(
                "INSERT INTO npllm.inbound_events (source, external_id, kind, lane, payload)"
                " VALUES ('bare', %s, 'ignored', 'bare', %s) ON CONFLICT DO NOTHING",
                (key, Jsonb({"body": body.decode()})),
            )
        await bell.lpush("npllm:bare", "bare")
        return Response("ok")

    return app
