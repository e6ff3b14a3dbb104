"""Who may talk to the website's API, from which site, and how often.

A visitor is a random id in a signed token. Our own page keeps it in a cookie that scripts cannot read; the widget on
another site keeps it in that site's local storage and sends it as a header, because browsers refuse cookies there.
"""

import hashlib
import ipaddress
import math
import re
import time
import uuid
from datetime import timedelta

import redis.asyncio
from fastapi import Request, Response
from itsdangerous import BadSignature, URLSafeTimedSerializer
from limits import RateLimitItem, WindowStats, parse_many
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import StorageError

from bot.hooks import closed
from core.errors import BadInput, NotAllowed, TooMany
from core.settings import Settings
from core.tables import now

COOKIE, HEADER, LAST_EVENT = "npllm_visitor", "X-Visitor-Token", "Last-Event-ID"
LASTS = timedelta(days=180)
FRESH = timedelta(days=7)  # an older token is replaced by a new one of the same visitor
OPERATORS = "operator-"  # how the ids of an operator's own visitors begin (benches)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class Visitors:
    """Signs and reads visitors' tokens."""

    def __init__(self, settings: Settings) -> None:
        secrets = (settings.session_secret, settings.session_secret_previous)
        self.signers = [URLSafeTimedSerializer(s.get_secret_value(), salt="visitor") for s in secrets if s]
        self.stream_signers = [URLSafeTimedSerializer(s.get_secret_value(), salt="stream") for s in secrets if s]
        self.secret = settings.session_secret
        self.secure = (settings.public_base_url or "").startswith("https://")

    def known(self, *tokens: str | None) -> tuple[str, str] | None:
        """(visitor id, token to keep) of the first token that is ours; None where none is.

        Raises:
            DoorClosed: no session secret is set.
        """
        self._signer()
        for token in filter(None, tokens):
            for signer in self.signers:
                try:
                    visitor, at = signer.loads(token, max_age=int(LASTS.total_seconds()), return_timestamp=True)
                except BadSignature:
                    continue
                fresh = signer is self.signers[0] and now() - at < FRESH
                return str(visitor), token if fresh else str(self.signers[0].dumps(visitor))
        return None

    def new(self, key: str | None = None) -> tuple[str, str]:
        """The same for somebody we do not know yet. A first message that is sent again, with the same UUID as its
        key, is of the same visitor: the key is as secret as the token it leads to."""
        signer = self._signer()
        visitor = uuid.uuid4().hex
        if key is not None:
            if not _UUID.fullmatch(key):
                raise BadInput("A first message's Idempotency-Key must be a UUID.", "Send a UUID, or a visitor token.")
            visitor = hashlib.blake2b(key.lower().encode(), key=self._digest_key(), digest_size=16).hexdigest()
        return visitor, str(signer.dumps(visitor))

    def stream_id(self, visitor: str, key: str) -> str:
        """The id of the events that answer one message: who sends it back is its visitor, and means that message."""
        self._signer()
        return str(self.stream_signers[0].dumps([visitor, key]))

    def of_stream(self, stream_id: str | None) -> tuple[str, str, str] | None:
        """(visitor id, token, the message's key) of such an id; None where it is none of ours, or a day old."""
        signer = self._signer()
        for stream_signer in self.stream_signers:
            try:
                visitor, key = stream_signer.loads(stream_id or "", max_age=24 * 3600)
            except BadSignature:
                continue
            return visitor, str(signer.dumps(visitor)), key
        return None

    def of_the_operator(self) -> str:
        """The token of a new visitor that no rate stops: only who has the secret can sign such an id."""
        return str(self._signer().dumps(f"{OPERATORS}{uuid.uuid4().hex}"))

    def remember(self, response: Response, token: str) -> None:
        """In a cookie of our own site's page."""
        response.set_cookie(
            COOKIE, token, max_age=int(LASTS.total_seconds()), path="/", httponly=True, samesite="lax",
            secure=self.secure,
        )  # fmt: skip

    def leave(self, response: Response) -> None:
        """Take the cookie back."""
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax", secure=self.secure)

    def _signer(self) -> URLSafeTimedSerializer:
        if self.secret is None:
            raise closed("website", "SESSION_SECRET")
        return self.signers[0]

    def _digest_key(self) -> bytes:
        return hashlib.sha256(f"visitor of a key {self.secret and self.secret.get_secret_value()}".encode()).digest()


class Origins:
    """Which sites' pages may call us. What sends no Origin (a program, our page's own GET) is no page of a stranger."""

    def __init__(self, settings: Settings) -> None:
        self.allowed = settings.chat_allowed_origins
        self.own = (settings.public_base_url or "").lower()

    def check(self, request: Request) -> None:
        """Raises:
        NotAllowed: the page is of another site, and not of one that CHAT_ALLOWED_ORIGINS names.
        """
        origin = request.headers.get("origin", "").lower()
        if not origin or origin in self.allowed or origin == self.own:
            return
        if origin.split("://", 1)[-1] != request.headers.get("host", "").lower():
            raise NotAllowed("Pages of this site may not use the chat.", "Add its origin to CHAT_ALLOWED_ORIGINS.")


class Rates:
    """How often a visitor, and an address, may call. Counted in Redis for all web processes together; while Redis is
    away each process counts for itself, by the same rates: a flood is stopped then, too."""

    LOOKS = 4  # reading and rating cost no model: so many times as often
    SILENCE = 5.0  # seconds without asking Redis after it failed

    def __init__(self, settings: Settings, client: redis.asyncio.Redis) -> None:
        self.rates = {
            "visitor": parse_many(settings.chat_visitor_rate),
            "address": parse_many(settings.chat_address_rate),
        }
        self.redis = MovingWindowRateLimiter(
            RedisStorage(
                "async+redis://", wrap_exceptions=True, implementation="redispy", key_prefix="npllm:rate",
                connection_pool=client.connection_pool,  # type: ignore[arg-type]
            )
        )  # fmt: skip
        self.memory = MovingWindowRateLimiter(MemoryStorage())
        self._silent_until = 0.0

    async def count(self, kind: str, address: str, visitor: str | None) -> None:
        """Count one call of a kind: `say`, or `look`.

        Raises:
            TooMany: with the seconds after which it is worth trying again.
        """
        if visitor and visitor.startswith(OPERATORS):
            return
        callers = [("address", network(address)), *([("visitor", visitor)] if visitor else [])]
        for who, name in callers:
            for rate in self.rates[who]:
                item = rate if kind == "say" else type(rate)(rate.amount * self.LOOKS, rate.multiples)
                await self._hit(item, kind, who, name)

    async def _hit(self, item: RateLimitItem, *name: str) -> None:
        if time.monotonic() >= self._silent_until:
            try:
                return await self._hit_in(self.redis, item, *name)
            except StorageError:
                self._silent_until = time.monotonic() + self.SILENCE
        await self._hit_in(self.memory, item, *name)

    async def _hit_in(self, counter: MovingWindowRateLimiter, item: RateLimitItem, *name: str) -> None:
        if not await counter.hit(item, *name):
            raise too_many(f"Too many requests: {item} are allowed.", await counter.get_window_stats(item, *name))


def too_many(what: str, window: WindowStats) -> TooMany:
    """With the seconds after which there is room again."""
    wait = max(1, math.ceil(window.reset_time - time.time()))
    return TooMany(what, f"Try again in {wait} seconds.", retry_after=wait)


def network(address: str) -> str:
    """Whom an address is counted for: IPv4 alone, IPv6 by the /64 that one customer has to itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
