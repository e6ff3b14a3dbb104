"""What people send beside words is kept by reference, fetched only where MEDIA_FETCH says so, and deleted in time.

A row a file; the file lies in the data directory, named like its row. Nothing in here is shown to a model. Writes the
table `media`; a row goes with its message, its file at the next look.
"""

import hashlib
import logging
import os
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from bot.wiring import Awake
from core.db import transaction
from core.errors import NpllmError, Unavailable
from core.fetch import Fetched, fetch
from core.messages import InboundMessage
from core.settings import Settings
from core.tables import Media, Message, new_id, now
from core.untrusted import as_text, read_object

log = logging.getLogger(__name__)

TYPES = ("image/", "audio/", "video/", "application/pdf", "text/vcard")
MAX_ATTEMPTS = 5
BATCH = 20
META_HOSTS = (".facebook.com", ".fbsbx.com", ".whatsapp.net")


def remember(session: Session, settings: Settings, message: Message, inbound: InboundMessage) -> None:
    """Note what came with a message; it is fetched later, by `fetch_waiting`."""
    for facts in inbound.attachments if settings.media_fetch else ():
        session.add(Media(id=new_id(), message_id=message.id, channel=message.channel, reference=dict(facts)))


def fetch_waiting(awake: Awake) -> int:
    """Fetch what waits, a batch at a time; returns how many files were stored. Safe to run twice at once."""
    stored = 0
    for media_id in _claim(awake):
        with transaction(awake.engine) as session:
            row = session.get(Media, media_id)
        if row is None:
            continue
        try:
            found = _get(awake.settings, row)
        except Unavailable as error:
            _settle(
                awake, media_id, state="waiting" if row.attempts < MAX_ATTEMPTS else "refused", reason=error.message
            )
        except NpllmError as error:
            _settle(awake, media_id, state="refused", reason=error.message)
        else:
            path = folder(awake.settings) / str(media_id)
            _write(path, found.content)
            digest = hashlib.sha256(found.content).hexdigest()
            stored += _settle(
                awake, media_id, state="stored", type=found.type, bytes=len(found.content), sha256=digest,
                stored_at=now(), reason=None,
            )  # fmt: skip
    return stored


def forget(session: Session, message: Message) -> None:
    """The person took the message back: what came with it goes too."""
    session.execute(delete(Media).where(Media.message_id == message.id))


def tidy(session: Session, settings: Settings) -> int:
    """Forget what is too old, and delete every file whose row is gone; returns how many files went."""
    old = now() - timedelta(days=settings.media_days)
    for row in session.scalars(select(Media).where(Media.created_at < old)):
        session.delete(row)
    session.flush()
    kept = {str(key) for key in session.scalars(select(Media.id))}
    gone = [path for path in folder(settings).glob("*") if path.name.removesuffix(".part") not in kept]
    for path in gone:
        path.unlink(missing_ok=True)
    return len(gone)


def folder(settings: Settings) -> Path:
    return settings.data_dir / "media"


def _claim(awake: Awake) -> list[uuid.UUID]:
    with transaction(awake.engine) as session:
        rows = session.scalars(
            select(Media)
            .where(Media.state == "waiting", Media.not_before <= now())
            .order_by(Media.id)
            .limit(BATCH)
            .with_for_update(skip_locked=True)
        ).all()
        for row in rows:
            row.attempts += 1
            row.not_before = now() + timedelta(seconds=60 * 2**row.attempts)  # also if this worker dies
        return [row.id for row in rows]


def _settle(awake: Awake, media_id: uuid.UUID, **facts: Any) -> bool:
    """Write down what became of it; False where it was erased meanwhile (its file goes with the next `tidy`)."""
    with transaction(awake.engine) as session:
        row = session.get(Media, media_id, with_for_update=True)
        for name, value in facts.items() if row is not None else ():
            setattr(row, name, value)
        return row is not None


def _get(settings: Settings, row: Media) -> Fetched:
    reference = row.reference
    if row.channel == "twilio":
        base = settings.twilio_api_base_url
        return _fetch(settings, as_text(reference.get("url")), base, _twilio_headers(settings))
    if row.channel == "meta":
        base, headers = settings.meta_graph_base_url, _meta_headers(settings)
        about = f"{base.rstrip('/')}/{settings.meta_graph_version}/{as_text(reference.get('id'))}"
        answer = fetch(
            about, types=("application/json",), max_bytes=20_000, headers_for=headers, trusted=_trusted(base)
        )
        return _fetch(settings, as_text(read_object(answer.content).get("url")), base, headers)
    raise _NotFetched("Files of this channel are not fetched.")


class _NotFetched(NpllmError):
    """There is no way to this file."""


def _fetch(settings: Settings, url: str, base: str, headers: Callable[[str], dict[str, str]]) -> Fetched:
    return fetch(
        url, types=TYPES, max_bytes=settings.media_max_bytes, headers_for=headers, trusted=_trusted(base)
    )  # fmt: skip


def _trusted(base: str) -> frozenset[str]:
    """Our vendor server's own address, where a setting moved it: it may be on this machine."""
    parts = urlsplit(base)
    return frozenset({f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"})


def _twilio_headers(settings: Settings) -> Callable[[str], dict[str, str]]:
    import base64

    ours, token = urlsplit(settings.twilio_api_base_url).hostname, settings.twilio_auth_token
    secret = f"{settings.twilio_account_sid}:{token.get_secret_value() if token else ''}"
    basic = {"Authorization": "Basic " + base64.b64encode(secret.encode()).decode()}
    return lambda host: basic if token and (host == ours or host.endswith(".twilio.com")) else {}


def _meta_headers(settings: Settings) -> Callable[[str], dict[str, str]]:
    ours, token = urlsplit(settings.meta_graph_base_url).hostname, settings.meta_access_token
    bearer = {"Authorization": f"Bearer {token.get_secret_value() if token else ''}"}
    return lambda host: bearer if token and (host == ours or host.endswith(META_HOSTS)) else {}


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    part.replace(path)
