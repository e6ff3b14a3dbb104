"""What an awake process is made of, put together once per process."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from threading import BoundedSemaphore
from typing import Any, Protocol

import redis
from sqlalchemy import Engine

from bot.lanes import Heartbeat
from bot.models import Models
from bot.router import Router
from bot.web_channel import WebClient
from core.db import get_engine, need_database
from core.errors import DoorClosed
from core.messages import InboundMessage, Limits, Outgoing
from core.redact import Redactor
from core.settings import Settings, get_settings
from integrations.langsmith.tracing import Tracer
from integrations.openai.embeddings import Embeddings, embeddings_of
from integrations.redis.queue import connect, need_redis
from integrations.supabase import artifact_store

log = logging.getLogger(__name__)


class ChannelClient(Protocol):
    """What every channel can do. One that can show that an answer is on its way has `typing(address)` too."""

    max_text: int
    supports_lookup: bool
    limits: Limits

    def send(self, outgoing: Outgoing) -> str: ...

    def lookup(self, outgoing: Outgoing, since: Any) -> str | None: ...


MOST_TYPING = 20  # typing indicators that are being shown, or wait for it


@dataclass
class Awake:
    """The parts a turn needs."""

    settings: Settings
    engine: Engine
    redis: redis.Redis
    heartbeat: Heartbeat
    router: Router
    models: Models
    embeddings: Embeddings
    web: WebClient
    tracer: Tracer
    channels: dict[str, ChannelClient]
    typists: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "typing"))
    may_type: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(MOST_TYPING))

    def channel(self, name: str) -> ChannelClient:
        """Raises:
        DoorClosed: its secrets are not set.
        """
        try:
            return self.channels[name]
        except KeyError:
            raise DoorClosed(f"The channel '{name}' is closed.", "Set its secrets: npllm doctor lists them.") from None

    def show_typing(self, message: InboundMessage) -> None:
        """Let the person see that an answer is on its way; the answer does not wait for it. While the vendor is slow
        it is left out: shown late it would come after the answer, and the wish for it would be kept in memory."""
        typing = getattr(self.channels.get(message.channel), "typing", None)
        if typing is not None and self.may_type.acquire(blocking=False):
            shown = self.typists.submit(_typing, typing, message.address)
            shown.add_done_callback(lambda _: self.may_type.release())


def _typing(show: Callable[[dict[str, Any]], None], address: dict[str, Any]) -> None:
    try:
        show(address)
    except Exception as error:
        log.info("No typing indicator: %s", error)


@cache
def get_awake() -> Awake:
    return build(get_settings())


def build(settings: Settings) -> Awake:
    """Raises:
    SettingError: there is no database or no Redis to work with.
    """
    engine = get_engine(need_database(settings), pool_size=max(4, settings.awake_threads // 2))
    client = connect(need_redis(settings))
    store = artifact_store(settings)
    return Awake(
        settings=settings,
        engine=engine,
        redis=client,
        heartbeat=Heartbeat(engine, settings.lease_seconds),
        router=Router(engine, settings.timezone, holdback=settings.holdback_share, solicit=settings.solicited_share),
        models=Models(settings, engine, store),
        embeddings=embeddings_of(settings),
        web=(web := WebClient(client)),
        tracer=Tracer(
            key=settings.langsmith_api_key.get_secret_value() if settings.langsmith_api_key else None,
            endpoint=settings.langsmith_endpoint,
            project=settings.langsmith_project,
            redact=lambda names: Redactor.of(settings, *names),
        ),
        channels={"web": web, **vendor_clients(settings)},
    )


def vendor_clients(settings: Settings) -> dict[str, ChannelClient]:
    """A client for every channel whose secrets are set."""
    clients: dict[str, ChannelClient] = {}
    if settings.twilio_open:
        from integrations.twilio.client import TwilioClient

        assert settings.twilio_account_sid and settings.twilio_auth_token and settings.twilio_whatsapp_from
        public = settings.public_base_url
        clients["twilio"] = TwilioClient(
            account_sid=settings.twilio_account_sid,
            auth_token=settings.twilio_auth_token.get_secret_value(),
            sender=settings.twilio_whatsapp_from,
            base_url=settings.twilio_api_base_url,
            status_url=f"{public}/hooks/twilio/status" if public else None,
            template_sid=settings.twilio_template_sid,
            template_variables=settings.template_variables,
            per_second=settings.twilio_messages_per_second,
        )
    if settings.meta_open:
        from integrations.meta.client import MetaClient

        assert settings.meta_access_token and settings.meta_phone_number_id
        clients["meta"] = MetaClient(
            access_token=settings.meta_access_token.get_secret_value(),
            phone_number_id=settings.meta_phone_number_id,
            base_url=settings.meta_graph_base_url,
            version=settings.meta_graph_version,
            template=(settings.meta_template_name, settings.meta_template_language)
            if settings.meta_template_name
            else None,
            template_variables=settings.template_variables,
            per_second=settings.meta_messages_per_second,
        )
    if settings.slack_open:
        from integrations.slack.client import SlackClient

        clients["slack"] = SlackClient(
            token=slack_tokens(settings), base_url=settings.slack_api_base_url, several=settings.slack_installable
        )
    return clients


def slack_tokens(settings: Settings) -> Callable[[str], str]:
    """A workspace's bot token, by its id."""
    only = settings.slack_bot_token.get_secret_value() if settings.slack_bot_token else ""
    if not settings.slack_installable:
        return lambda team: only
    from integrations.slack.installations import Installations

    assert settings.slack_client_secret
    secret = settings.slack_client_secret.get_secret_value()
    return Installations(get_engine(need_database(settings)), secret=secret, default=only or None).token
