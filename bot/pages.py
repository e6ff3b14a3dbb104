"""Server-rendered pages: one template environment, one strict content policy, two languages."""

import secrets
from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from fastapi import Request
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates
from jinja2.ext import Extension

from bot.english import ENGLISH
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


def in_english() -> bool:
    return get_settings().language == "en"


def words(portuguese: str) -> str:
    """What a template says, in the language of the pages."""
    return ENGLISH.get(portuguese, portuguese) if in_english() else portuguese


def reason(text: str | None) -> str:
    """A reason, stored in English, in the language of the pages."""
    return text or "" if in_english() else in_portuguese(text)


def local_time(value: datetime | None, form: str = "%d/%m %H:%M:%S") -> str:
    if value is None:
        return "–"
    return local_day(value.astimezone(ZoneInfo(get_settings().timezone)), form)


def local_day(value: date, form: str = "%d/%m") -> str:
    # 11/12 is another day in London than in New York
    return value.strftime(form.replace("%d/%m", "%d %b") if in_english() else form)


def percent(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.0%}"


def evidence(value: float | None) -> str:
    """An e-value for people: beyond ten thousand nobody needs its hundred digits."""
    if value is None:
        return "–"
    return _written("> 10,000" if value > 10_000 else f"{value:.1f}")


def number(value: float | None, pattern: str) -> str:
    """`pattern` is a printf one."""
    return "–" if value is None else _written(pattern % value)


def _written(text: str) -> str:
    return text if in_english() else text.translate(str.maketrans(",.", ".,"))


templates.env.filters.update(
    evidence=evidence, local_time=local_time, local_day=local_day, number=number, percent=percent, reason=reason
)
templates.env.add_extension("jinja2.ext.i18n")
templates.env.install_gettext_callables(  # type: ignore[attr-defined]
    words, lambda one, many, n: words(one if n == 1 else many), newstyle=True
)
