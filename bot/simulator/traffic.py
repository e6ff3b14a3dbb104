"""Vendors' webhooks, built and signed as they do it; sent by `npllm simulate`, `npllm demo` and the tests."""

import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from pydantic import SecretStr
from twilio.request_validator import RequestValidator

from core.errors import DoorClosed
from core.settings import Settings

SLACK_TEAM = "T0SIM"
SLACK_BOT = "U0SIMBOT"
SLACK_CHANNEL = "D0SIM"
SLACK_INSTALLED = {
    "ok": True, "app_id": "A0SIM", "access_token": "xoxb-of-another-workspace", "token_type": "bot",
    "scope": "chat:write,commands", "bot_user_id": "U0OTHERBOT", "is_enterprise_install": False, "enterprise": None,
    "team": {"id": "T0OTHER", "name": "A outra loja"}, "authed_user": {"id": "U0CHEFE"},
}  # fmt: skip


@dataclass(frozen=True)
class Signed:
    """One request, ready to be posted. `message_id` is the vendor's id of the message in it."""

    url: str
    body: bytes
    headers: dict[str, str]
    message_id: str = ""


# Twilio ---------------------------------------------------------------------------------------------------------------


def twilio_message(settings: Settings, text: str, *, sender: str, **fields: str) -> Signed:
    """An incoming WhatsApp message. `fields` are Twilio's own (NumMedia, ButtonPayload, ...)."""
    sid = fields.pop("MessageSid", f"SM{secrets.token_hex(16)}")
    form = {
        "MessageSid": sid, "SmsMessageSid": sid, "SmsSid": sid, "AccountSid": settings.twilio_account_sid or "",
        "From": f"whatsapp:{sender}", "To": settings.twilio_whatsapp_from or "", "WaId": sender.lstrip("+"),
        "ProfileName": "", "Body": text, "NumMedia": "0", "NumSegments": "1", "SmsStatus": "received",
        "ApiVersion": "2010-04-01", **fields,
    }  # fmt: skip
    return twilio_signed(settings, f"{_base(settings)}/hooks/twilio", form, sid)


def twilio_status(settings: Settings, url: str, sid: str, status: str, *, code: str | None = None) -> Signed:
    """A delivery report to the callback address the message was created with; `code` says why it failed."""
    form = {"MessageSid": sid, "SmsSid": sid, "MessageStatus": status, "AccountSid": settings.twilio_account_sid or ""}
    if code:
        form |= {"ErrorCode": code, "ErrorMessage": ""}
    return twilio_signed(settings, url, form, sid)


def twilio_signed(settings: Settings, url: str, form: dict[str, str], sid: str = "") -> Signed:
    token = _need(settings.twilio_auth_token, "TWILIO_AUTH_TOKEN")
    signature = RequestValidator(token).compute_signature(url, form)
    headers = {"content-type": "application/x-www-form-urlencoded", "x-twilio-signature": signature}
    return Signed(url, urlencode(form).encode(), headers, sid)


# Meta -----------------------------------------------------------------------------------------------------------------


def meta_message(settings: Settings, message: dict[str, Any], *, sender: str, name: str = "") -> Signed:
    """An incoming WhatsApp message of any type; `message` holds `type` and that type's object."""
    wa_id = sender.lstrip("+")
    wamid = message.get("id") or f"wamid.{secrets.token_hex(18)}"
    full = {"from": wa_id, "id": wamid, "timestamp": str(int(time.time())), **message}
    value = {"contacts": [{"profile": {"name": name}, "wa_id": wa_id}], "messages": [full]}
    return meta_body(settings, value, wamid)


def meta_text(settings: Settings, text: str, *, sender: str, name: str = "") -> Signed:
    return meta_message(settings, {"type": "text", "text": {"body": text}}, sender=sender, name=name)


def meta_reaction(settings: Settings, target: str, emoji: str | None, *, sender: str) -> Signed:
    """A reaction; None takes it back, the way Meta says it today: without the key."""
    reaction = {"message_id": target, **({"emoji": emoji} if emoji else {})}
    return meta_message(settings, {"type": "reaction", "reaction": reaction}, sender=sender)


def meta_status(
    settings: Settings, wamid: str, status: str, *, echo: str | None = None, code: str | None = None
) -> Signed:
    entry = {
        "id": wamid, "status": status, "timestamp": str(int(time.time())), "biz_opaque_callback_data": echo,
        "errors": [{"code": int(code), "title": "scripted"}] if code else None,
    }  # fmt: skip
    return meta_body(settings, {"statuses": [{k: v for k, v in entry.items() if v is not None}]}, wamid)


def meta_body(settings: Settings, value: dict[str, Any], message_id: str = "") -> Signed:
    number = {"display_phone_number": "551140028922", "phone_number_id": settings.meta_phone_number_id}
    change = {"field": "messages", "value": {"messaging_product": "whatsapp", "metadata": number, **value}}
    body = json.dumps({"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [change]}]}).encode()
    return meta_signed(settings, body, message_id)


def meta_signed(settings: Settings, body: bytes, message_id: str = "") -> Signed:
    secret = _need(settings.meta_app_secret, "META_APP_SECRET")
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {"content-type": "application/json", "x-hub-signature-256": f"sha256={digest}"}
    return Signed(f"{_base(settings)}/hooks/meta", body, headers, message_id)


# Slack ----------------------------------------------------------------------------------------------------------------


def slack_message(settings: Settings, text: str, *, user: str, channel: str = SLACK_CHANNEL, **fields: Any) -> Signed:
    """A direct message to the bot."""
    ts = fields.pop("ts", f"{time.time():.6f}")
    event = {
        "type": "message", "channel": channel, "user": user, "text": text, "ts": ts, "event_ts": ts,
        "channel_type": "im", "client_msg_id": secrets.token_hex(8), **fields,
    }  # fmt: skip
    return slack_event(settings, event, f"{channel}:{ts}")


def slack_reaction(settings: Settings, target: str, name: str, *, user: str, added: bool = True) -> Signed:
    channel, _, ts = target.partition(":")
    event = {
        "type": "reaction_added" if added else "reaction_removed", "user": user, "reaction": name,
        "item": {"type": "message", "channel": channel, "ts": ts}, "event_ts": f"{time.time():.6f}",
    }  # fmt: skip
    return slack_event(settings, event)


def slack_event(settings: Settings, event: dict[str, Any], message_id: str = "") -> Signed:
    body = {
        "type": "event_callback", "team_id": SLACK_TEAM, "api_app_id": "A0SIM", "event_id": f"Ev{secrets.token_hex(6)}",
        "event_time": int(time.time()), "event": event,
        "authorizations": [{"team_id": SLACK_TEAM, "user_id": SLACK_BOT, "is_bot": True}],
    }  # fmt: skip
    return slack_body(settings, json.dumps(body).encode(), "application/json", message_id)


def slack_action(settings: Settings, value: str, *, user: str, channel: str = SLACK_CHANNEL) -> Signed:
    """A tap on a feedback button."""
    action = {"type": "feedback_buttons", "action_id": "feedback", "value": value, "action_ts": f"{time.time():.6f}"}
    payload = {
        "type": "block_actions", "team": {"id": SLACK_TEAM}, "user": {"id": user}, "channel": {"id": channel},
        "trigger_id": secrets.token_hex(6), "actions": [action], "api_app_id": "A0SIM",
    }  # fmt: skip
    body = urlencode({"payload": json.dumps(payload)}).encode()
    return slack_body(settings, body, "application/x-www-form-urlencoded")


def slack_body(settings: Settings, body: bytes, content_type: str, message_id: str = "") -> Signed:
    secret, timestamp = _need(settings.slack_signing_secret, "SLACK_SIGNING_SECRET"), str(int(time.time()))
    digest = hmac.new(secret.encode(), f"v0:{timestamp}:".encode() + body, hashlib.sha256).hexdigest()
    headers = {
        "content-type": content_type, "x-slack-signature": f"v0={digest}", "x-slack-request-timestamp": timestamp
    }  # fmt: skip
    return Signed(f"{_base(settings)}/hooks/slack", body, headers, message_id)


def _base(settings: Settings) -> str:
    if not settings.public_base_url:
        raise DoorClosed("Nobody knows where the web process is.", "Start `npllm up`, or set PUBLIC_BASE_URL.")
    return settings.public_base_url


def _need(secret: SecretStr | None, name: str) -> str:
    if secret is None:
        raise DoorClosed(f"{name} is not set, so nothing can be signed.", "Start `npllm up`, or set it.")
    return secret.get_secret_value()
