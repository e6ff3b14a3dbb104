"""Who may look at /review and /ops: a local log-in with the operator's password.

The reviewer's name goes into the signed cookie and onto every annotation. Without OPERATOR_PASSWORD the pages
are closed; with another one, whoever was logged in has to log in again. Forms of strangers stay small.
"""

import asyncio
import hmac
import re
from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from itsdangerous import BadSignature, URLSafeTimedSerializer
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bot import hooks
from bot.hooks import closed
from bot.pages import page
from bot.visitors import network, too_many
from core.errors import NotAllowed, TooLarge, TooSlow
from core.settings import Settings

COOKIE = "npllm_operator"
LASTS = 12 * 3600  # seconds
GUESSES = parse("10/10 minutes")  # wrong passwords of one address, in each web process
MAX_FORM = 128 * 1024  # bytes; the longest, a handover's answer, has 4,000 characters
OWN_LIMITS = ("/hooks/", "/api/")  # these read their bodies themselves
_NAME = re.compile(r"[\w .@-]{1,60}")


class LogInFirst(Exception):
    """Rendered as a redirect to the log-in page."""

    def __init__(self, target: str) -> None:
        self.target = target


class Login:
    """Checks cookies; hands out the routes of the log-in page."""

    def __init__(self, settings: Settings) -> None:
        self.password = settings.operator_password
        secret = settings.session_secret
        salt = f"operator {self.password.get_secret_value() if self.password else ''}"
        self.signer = URLSafeTimedSerializer(secret.get_secret_value(), salt=salt) if secret else None
        self.secure = (settings.public_base_url or "").startswith("https://")
        self.wrong = MovingWindowRateLimiter(MemoryStorage())

    def require(self, request: Request) -> str:
        """The name of who is logged in.

        Raises:
            DoorClosed: no password or session secret is set.
            LogInFirst: nobody is.
        """
        if self.signer is None or self.password is None:
            raise closed("operator's", "OPERATOR_PASSWORD and SESSION_SECRET")
        try:
            return str(self.signer.loads(request.cookies.get(COOKIE, ""), max_age=LASTS))
        except BadSignature:
            raise LogInFirst(request.url.path) from None

    def require_form(self, request: Request) -> str:
        """The same for a form: it must come from our own page (browsers send Origin with every POST)."""
        name = self.require(request)
        origin = request.headers.get("origin")
        if origin is not None and origin.split("://", 1)[-1] != request.headers.get("host"):
            raise NotAllowed("This form was sent from another site.", "Open the page itself and send it there.")
        return name

    def routes(self) -> APIRouter:
        router = APIRouter(include_in_schema=False)

        @router.get("/login")
        def form(request: Request, next: str = "/ops") -> HTMLResponse:
            return page(request, "login.html", next=_local(next), wrong=False)

        @router.post("/login")
        def log_in(
            request: Request,
            name: Annotated[str, Form()],
            password: Annotated[str, Form()],
            next: Annotated[str, Form()] = "/ops",
        ) -> Response:
            if self.signer is None or self.password is None:
                raise closed("operator's", "OPERATOR_PASSWORD and SESSION_SECRET")
            address = network(request.client.host if request.client else "")
            self._let_guess(address)
            right = hmac.compare_digest(password.encode(), self.password.get_secret_value().encode())
            if not right or not _NAME.fullmatch(name.strip()):
                self.wrong.hit(GUESSES, address)
                return page(request, "login.html", status=401, next=_local(next), wrong=True)
            response = RedirectResponse(_local(next), status_code=303)
            response.set_cookie(
                COOKIE, str(self.signer.dumps(name.strip())), max_age=LASTS, httponly=True, samesite="strict",
                secure=self.secure,
            )  # fmt: skip
            return response

        return router

    def _let_guess(self, address: str) -> None:
        """Raises:
        TooMany: this address was wrong too often; the right password has to wait too, or it would be told apart.
        """
        if not self.wrong.test(GUESSES, address):
            raise too_many("Too many wrong passwords.", self.wrong.get_window_stats(GUESSES, address))


class SmallForms:
    """No more of a body is read than a page's form has, nor for longer than one takes: forms are parsed before it is
    known who sends them."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size, whole = 0, False
        end = asyncio.get_running_loop().time() + hooks.BODY_SECONDS

        async def bounded() -> Message:
            nonlocal size, whole
            if whole:  # what is waited for now is that the client hangs up
                return await receive()
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError:
                told = f"The form did not come within {hooks.BODY_SECONDS:.0f} seconds"
                raise HTTPException(TooSlow.status, told) from None
            size += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if size > MAX_FORM:
                raise HTTPException(TooLarge.status, f"The form has more than {MAX_FORM} bytes")
            return message

        is_page = scope["type"] == "http" and not scope["path"].startswith(OWN_LIMITS)
        await self.app(scope, bounded if is_page else receive, send)


def _local(target: str) -> str:
    """Only paths of ours: a log-in page must not send people elsewhere."""
    return target if re.fullmatch(r"/[\w/.-]*", target) and not target.startswith("//") else "/ops"
