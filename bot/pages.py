"""Server-rendered pages: one template environment, one strict content policy."""

import secrets
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from fastapi import Request
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates
from jinja2.ext import Extension

from bot.ops.portuguese import in_portuguese
from core.settings import get_settings

FOLDER = Path(__file__).parent / "web"
# Nothing but our own files loads, and only scripts that the page itself names run (they carry its nonce, and may
# load further ones): a customer's text cannot do anything on a reviewer's screen.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'nonce-{nonce}' 'strict-dynamic'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)


class _Nonces(Extension):
    """Gives every script tag that a template is written with (never one that came with the data) the page's nonce."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return source.replace("<script ", '<script nonce="{{ nonce }}" ')


templates = Jinja2Templates(FOLDER / "templates")
templates.env.add_extension(_Nonces)


def page(request: Request, template: str, /, *, status: int = 200, **context: Any) -> HTMLResponse:
    """Render a template; everything in it is escaped."""
    nonce = secrets.token_urlsafe(16)
    response = templates.TemplateResponse(request, template, {**context, "nonce": nonce}, status_code=status)
    response.headers["Content-Security-Policy"] = POLICY.format(nonce=nonce)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["Cache-Control"] = "no-store"
    return response


def local_time(value: datetime | None, form: str = "%d/%m %H:%M:%S") -> str:
    if value is None:
        return "–"
    return value.astimezone(ZoneInfo(get_settings().timezone)).strftime(form)


def percent(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.0%}"


def evidence(value: float | None) -> str:
    """An e-value for people: beyond ten thousand nobody needs its hundred digits."""
    if value is None:
        return "–"
    return "> 10.000" if value > 10_000 else f"{value:.1f}".replace(".", ",")


templates.env.filters["evidence"] = evidence
templates.env.filters["local_time"] = local_time
templates.env.filters["percent"] = percent
templates.env.filters["in_portuguese"] = in_portuguese
