"""Telling operators that a rollout changed its state: Slack, e-mail, a webhook; each only where its settings are.

An alert is a row, written in the transaction of what it tells of, and sent afterwards: none is lost, and nobody waits
for a mail server inside a transaction. Every door is tried again on its own, by the schedule of Standard Webhooks
(https://www.standardwebhooks.com: ten tries over three days), or later where a door's `Retry-After` says so; what went
through a door is written down before the next one is tried. `webhook-id` stays the same, so that a receiver can tell a
repetition.
"""

import json
import logging
import random
import smtplib
import ssl
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session
from standardwebhooks import Webhook

from bot.wiring import Awake
from core.db import transaction
from core.errors import NpllmError, SettingError, VendorUnavailable
from core.messages import Outgoing
from core.settings import Settings
from core.tables import Alert, now
from core.untrusted import retry_after
from integrations.slack.desk import place

log = logging.getLogger(__name__)

ROUND = 60.0  # seconds after which a job begins no further alert: ended in the middle of one it would tell it twice
LEASE = 300.0  # seconds a sender has for one door; longer than a job that sends may last (core/jobs.py)
TIMEOUT = 10.0
WAITS = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)  # seconds before each further try
_STATES = {
    "pt": {"running": "em andamento", "paused": "em pausa", "held": "retido: decida", "promoted": "promovido",
           "rolled_back": "revertido", "aborted": "abortado", "undone": "desfeito", "frozen": "promoções congeladas",
           "limited": "mensagens se perdem", "superseded": "saiu da fila"},
    "en": {"running": "running", "paused": "paused", "held": "held: decide", "promoted": "promoted",
           "rolled_back": "rolled back", "aborted": "aborted", "undone": "undone", "frozen": "promotions are frozen",
           "limited": "messages are lost", "superseded": "left the line"},
}  # fmt: skip


@dataclass(frozen=True)
class Told:
    """An alert out of its transaction."""

    id: uuid.UUID
    kind: str
    at: str
    data: dict[str, Any]
    done: dict[str, Any]
    attempts: int


def raise_alert(session: Session, kind: str, *, context: str, **data: Any) -> None:
    """Write an alert down. `data` has at least `state`; `version`, `reason` and `actor` are told where they are."""
    session.add(Alert(kind=kind, data={"context": context, **data}))


def deliver(awake: Awake) -> int:
    """Send what is due; returns how many alerts were looked at. Called by the clock and after every guard."""
    doors, count, end = open_doors(awake), 0, time.monotonic() + ROUND
    while time.monotonic() < end and (told := _claim(awake)) is not None:
        count += 1
        done, errors, asked = dict(told.done), [], [0.0]
        for name, send in doors.items():
            if name in done:
                continue
            try:
                send(told)
            except (NpllmError, OSError, smtplib.SMTPException, httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                errors.append(f"{name}: {error.message if isinstance(error, NpllmError) else type(error).__name__}")
                asked.append(getattr(error, "retry_after", None) or 0.0)
                continue
            done[name] = now().isoformat()
            if not _note(awake, told, done=done, leased_until=_lease()):
                break  # it took longer than its lease: another sender goes on
        else:
            _settle(awake, told, errors, max(asked))
    return count


def open_doors(awake: Awake) -> dict[str, Callable[[Told], None]]:
    """Whom to tell: every door whose settings are whole."""
    settings = awake.settings
    doors: dict[str, Callable[[Told], None]] = {}
    if settings.alert_slack_channel and "slack" in awake.channels:
        doors["slack"] = lambda told: _slack(awake, told)
    if settings.smtp_url and settings.alert_email_to:
        doors["email"] = lambda told: _email(settings, told)
    if settings.alert_webhook_url and settings.alert_webhook_secret:
        doors["webhook"] = lambda told: _webhook(settings, told)
    return doors


def sentence(told: Told, language: str) -> str:
    """One line for a person."""
    data, states = told.data, _STATES.get(language, _STATES["pt"])
    what = data.get("version") or data["context"]
    state = states.get(str(data.get("state")), str(data.get("state")))
    line = f"{what} ({data['context']}): {state}"
    if data.get("reason"):
        line += f". {data['reason']}"
    return f"{line} [{data['actor']}]" if data.get("actor") else line


def _claim(awake: Awake) -> Told | None:
    with transaction(awake.engine) as session:
        alert = session.scalar(
            select(Alert)
            .where(
                Alert.settled_at.is_(None), Alert.not_before <= now(),
                or_(Alert.leased_until.is_(None), Alert.leased_until < now()),
            )
            .order_by(Alert.created_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )  # fmt: skip
        if alert is None:
            return None
        alert.leased_until = _lease()
        alert.attempts += 1
        return Told(alert.id, alert.kind, alert.created_at.isoformat(), alert.data, alert.done, alert.attempts)


def _settle(awake: Awake, told: Told, errors: list[str], asked: float) -> None:
    """Every door was tried. What is shut is tried again, not before a door that said how long wants to be asked."""
    values: dict[str, Any] = {"error": "; ".join(errors)[:500] or None, "leased_until": None}
    if errors and told.attempts <= len(WAITS):
        wait = max(WAITS[told.attempts - 1] * random.uniform(1.0, 1.2), asked)
        values["not_before"] = now() + timedelta(seconds=wait)
    else:
        values["settled_at"] = now()
    if errors:
        log.warning("Alert %s (try %d): %s", told.kind, told.attempts, "; ".join(errors))
    _note(awake, told, **values)


def _lease() -> datetime:
    return now() + timedelta(seconds=LEASE)


def _note(awake: Awake, told: Told, **values: Any) -> bool:
    """Write down what became of it; False where another sender has it meanwhile."""
    ours = update(Alert).where(Alert.id == told.id, Alert.attempts == told.attempts)
    with transaction(awake.engine) as session:
        return bool(session.execute(ours.values(**values)).rowcount)  # type: ignore[attr-defined]


def _slack(awake: Awake, told: Told) -> None:
    text = sentence(told, awake.settings.language)
    team, channel = place(awake.settings.alert_slack_channel or "")
    address = {"team": team, "channel": channel}
    awake.channel("slack").send(Outgoing(our_id=str(told.id), address=address, text=text))


def _email(settings: Settings, told: Told) -> None:
    assert settings.smtp_url is not None
    text = sentence(told, settings.language)
    message = EmailMessage()
    message["Subject"] = f"[npllm] {text.splitlines()[0][:150]}"
    message["From"] = settings.alert_email_from or settings.alert_email_to[0]
    message["To"] = ", ".join(settings.alert_email_to)
    message["Message-ID"] = f"<{told.id}@npllm>"
    message.set_content(f"{text}\n\n{json.dumps(told.data, ensure_ascii=False, indent=2)}\n")
    url = urlsplit(settings.smtp_url.get_secret_value())
    host, secure = url.hostname or "", url.scheme == "smtps"
    context = ssl.create_default_context()
    server: smtplib.SMTP = (
        smtplib.SMTP_SSL(host, url.port or 465, timeout=TIMEOUT, context=context)
        if secure
        else smtplib.SMTP(host, url.port or 587, timeout=TIMEOUT)
    )
    with server:
        server.ehlo()
        if not secure and server.has_extn("starttls"):
            server.starttls(context=context)
            server.ehlo()
            secure = True
        if url.username:
            if not secure:
                raise SettingError(f"{host} offers no TLS: no password is sent to it.", "Use smtps:// or another host.")
            server.login(unquote(url.username), unquote(url.password or ""))
        server.send_message(message)


def _webhook(settings: Settings, told: Told) -> None:
    assert settings.alert_webhook_url and settings.alert_webhook_secret
    body = json.dumps({"type": told.kind, "timestamp": told.at, "data": told.data}, ensure_ascii=False)
    at = now()
    signature = Webhook(settings.alert_webhook_secret.get_secret_value()).sign(str(told.id), at, body)
    headers = {
        "content-type": "application/json", "webhook-id": str(told.id), "webhook-signature": signature,
        "webhook-timestamp": str(int(at.timestamp())),
    }  # fmt: skip
    url = settings.alert_webhook_url
    with httpx.stream("POST", url, content=body.encode(), headers=headers, timeout=TIMEOUT) as answer:
        if not answer.is_success:  # what else it says, and for how long, is nothing to us
            wait = retry_after(answer.headers.get("Retry-After"))
            raise VendorUnavailable(f"The receiver answered {answer.status_code}.", retry_after=wait)
