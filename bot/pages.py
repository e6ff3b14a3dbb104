"""Server-rendered pages: one template environment, one strict content policy."""

from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from fastapi import Request
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates

from core.settings import get_settings

FOLDER = Path(__file__).parent / "web"
# Nothing but our own files runs or loads; a customer's text cannot do anything on a reviewer's screen.
POLICY = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"  # noqa: E501

templates = Jinja2Templates(FOLDER / "templates")


def page(request: Request, template: str, /, *, status: int = 200, **context: Any) -> HTMLResponse:
    """Render a template; everything in it is escaped."""
    response = templates.TemplateResponse(request, template, context, status_code=status)
    response.headers["Content-Security-Policy"] = POLICY
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


templates.env.filters["local_time"] = local_time
templates.env.filters["percent"] = percent
