"""Every refusal in the form that OpenAI's clients read: {"error": {"message", "type", "param", "code"}}."""

import hmac
import logging
import re
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.errors import NotFound, NpllmError
from integrations.huggingface.exchange import QueueFull

log = logging.getLogger(__name__)

MAX_BODY = 2 << 20  # bytes


def error_body(message: str, status: int, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    kind = "server_error" if status >= 500 else "authentication_error" if status == 401 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def body_of(error: NpllmError) -> dict[str, Any]:
    code = "model_not_found" if isinstance(error, NotFound) else _snake(type(error).__name__)
    return error_body(str(error), error.status, code=code)


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def install_handlers(app: FastAPI) -> None:
    @app.exception_handler(NpllmError)
    async def ours(request: Request, error: NpllmError) -> JSONResponse:
        headers = {"Retry-After": str(error.retry_after)} if isinstance(error, QueueFull) else None
        return JSONResponse(body_of(error), error.status, headers)

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> JSONResponse:
        told = _most_telling(error.errors())
        if told["type"] == "json_invalid":
            return JSONResponse(error_body("The body is not JSON.", 400, code="bad_input"), 400)
        param = _param(told) or None
        reason = str(told["msg"]).removeprefix("Value error, ")
        message = f"{param}: {reason}" if param else reason
        return JSONResponse(error_body(message, 400, code="bad_input", param=param), 400)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_body(str(error.detail), error.status_code), error.status_code)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.exception("%s %s failed.", request.method, request.url.path, exc_info=error)
        return JSONResponse(error_body("The model server failed on this request; see its log.", 500), 500)


def _param(problem: Any) -> str:
    """The field as a client wrote it: pydantic also names which of several allowed types it tried."""
    return ".".join(str(part) for part in problem["loc"] if part != "body" and "[" not in str(part))


def _most_telling(problems: Sequence[Any]) -> Any:
    """A field that may be a text or a list fails as both; what is wrong with the one that was sent says more."""
    field = _param(problems[0])
    same = [problem for problem in problems if f"{_param(problem)}.".startswith(f"{field}.")]
    return next((problem for problem in same if not problem["type"].endswith("_type")), same[0])


class Door:
    """Before anything reads a request: the key, where one is set, and the size of the body.

    Plain ASGI, since starlette's middleware would hide from the endpoints that a client has gone.
    """

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app, self._key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value for name, value in scope["headers"]}
        if self._key is not None and scope["path"].startswith("/v1"):
            shown = headers.get(b"authorization", b"")
            if not hmac.compare_digest(shown, f"Bearer {self._key}".encode()):
                body = error_body("Incorrect API key provided.", 401, code="invalid_api_key")
                await JSONResponse(body, 401)(scope, receive, send)
                return
        too_large = JSONResponse(
            error_body(f"The body is larger than {MAX_BODY >> 20} MB.", 413, code="too_large"), 413
        )
        length = headers.get(b"content-length")
        if length is not None and (not length.isdigit() or int(length) > MAX_BODY):
            await too_large(scope, receive, send)
            return
        if length is not None or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        chunks = await _read_chunked(receive)
        if chunks is None:
            await too_large(scope, receive, send)
            return

        async def replay() -> Message:
            return chunks.pop(0) if chunks else await receive()

        await self._app(scope, replay, send)


async def _read_chunked(receive: Receive) -> list[Message] | None:
    """A body whose length was not announced, or None where it is too large."""
    messages: list[Message] = []
    size = 0
    while True:
        message = await receive()
        messages.append(message)
        size += len(message.get("body", b""))
        if size > MAX_BODY:
            return None
        if message["type"] != "http.request" or not message.get("more_body"):
            return messages
