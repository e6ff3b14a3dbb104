"""The web process: vendors' hooks, the website's chat, /review, /handover, /ops, health and metrics."""

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from bot.api_docs import put_docs
from bot.chat_api import chat_api
from bot.handover_pages import handover_pages
from bot.health import health
from bot.hooks import hooks
from bot.intake import Intake
from bot.login import Login, LogInFirst, SmallForms
from bot.ops.pages import ops_pages
from bot.pages import FOLDER, page
from bot.review.pages import review_pages
from bot.slack.install import install_pages
from bot.widget import put_widget
from core.db import get_engine, need_database
from core.errors import NpllmError, TooLarge, TooSlow
from core.settings import Settings, get_settings
from integrations.redis.queue import need_redis

log = logging.getLogger(__name__)

TEAM = ("/ops", "/review", "/handover")
NOWHERE = {"error": "There is nothing at this address.", "next_step": "Open /ops, /review or /handover."}
DOORS = "The doors are /hooks/twilio, /hooks/meta, /hooks/slack, /chat, /review, /handover and /ops."


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application, for `uvicorn --factory bot.app:create_app`."""
    settings = settings or get_settings()
    intake = Intake(need_database(settings), need_redis(settings))
    engine = get_engine(need_database(settings))
    login = Login(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await intake.open()
        try:
            yield
        finally:
            await intake.close()

    app = FastAPI(
        title="npllm", description="A messaging bot that learns overnight.", lifespan=lifespan,
        routes=[*hooks(settings, intake)], docs_url=None, redoc_url=None,
    )  # fmt: skip
    app.state.intake = intake
    app.include_router(chat_api(settings, intake))
    app.include_router(health(settings, engine))
    app.include_router(login.routes())
    app.include_router(review_pages(settings, engine, login))
    app.include_router(handover_pages(settings, engine, login))
    app.include_router(ops_pages(settings, engine, login))
    app.include_router(install_pages(settings, engine, login))
    app.mount("/static", StaticFiles(directory=FOLDER / "static"), name="static")
    put_widget(app, settings)
    put_docs(app)
    app.add_middleware(SmallForms)

    @app.get("/", include_in_schema=False)
    def home() -> Response:
        return RedirectResponse("/chat")

    @app.get("/chat", include_in_schema=False)
    def chat_page(request: Request) -> Response:
        asked = request.query_params.get("lang", "")[:2]
        return page(request, "chat.html", business=settings.business_name, language=settings.language, asked=asked)

    @app.exception_handler(NpllmError)
    async def expected(request: Request, error: NpllmError) -> Response:
        if error.status >= 500:
            log.warning("%s %s: %s", request.method, request.url.path, error)
        wait = getattr(error, "retry_after", None) or (5 if error.status == 503 else None)
        headers = {"Retry-After": f"{wait:.0f}"} if wait else {}
        body = {"error": error.message, "next_step": error.next_step}
        return refused(request, body, error.status, headers)

    @app.exception_handler(HTTPException)
    async def no_such_door(request: Request, error: HTTPException) -> Response:
        next_step = {TooSlow.status: "Send it at once.", TooLarge.status: "Send less."}.get(error.status_code, DOORS)
        body = {"error": f"{request.method} {request.url.path}: {error.detail}.", "next_step": next_step}
        told = NOWHERE if error.status_code == 404 else None
        return refused(request, body, error.status_code, error.headers, told=told)

    @app.exception_handler(RequestValidationError)
    async def not_as_expected(request: Request, error: RequestValidationError) -> Response:
        # What was typed is not repeated: it may be a password.
        problems = "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors())
        body = {"error": f"This cannot be read: {problems}.", "next_step": "Send what the page itself sends."}
        return refused(request, body, 422, told=NOWHERE)

    @app.exception_handler(LogInFirst)
    async def log_in_first(request: Request, error: LogInFirst) -> Response:
        return RedirectResponse(f"/login?next={error.target}", status_code=303)

    @app.exception_handler(SQLAlchemyError)
    async def ledger_away(request: Request, error: SQLAlchemyError) -> Response:
        log.error("%s %s: %s", request.method, request.url.path, error)
        body = {"error": "The ledger does not answer.", "next_step": "Look at `npllm status`."}
        return refused(request, body, 503, {"Retry-After": "5"})

    return app


def refused(
    request: Request, body: dict[str, str], status: int, headers: Mapping[str, str] | None = None, *,
    told: dict[str, str] | None = None,
) -> Response:  # fmt: skip
    """As JSON; to a person of the team who followed a link, as a page in its language, with `told` where that says it
    better."""
    followed = request.method == "GET" and "text/html" in request.headers.get("accept", "")
    if followed and request.url.path.startswith(TEAM):
        answer: Response = page(request, "problem.html", status=status, **(told or body))
        answer.headers.update(headers or {})
        return answer
    return JSONResponse(body, status_code=status, headers=headers)
