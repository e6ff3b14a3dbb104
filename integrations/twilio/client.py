"""What we send through Twilio: one message per outbox row, and a look-up where the outcome is unknown.

Twilio's message create has no idempotency key. After a time-out the message is looked up, never blindly sent
again. https://www.twilio.com/docs/messaging/api/message-resource
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import requests
from twilio.base.exceptions import TwilioException
from twilio.http.http_client import TwilioHttpClient
from twilio.http.response import Response
from twilio.rest import Client
from urllib3.exceptions import NewConnectionError

from core.errors import BadInput, Unavailable, VendorUnavailable
from core.messages import Limits, Outgoing, template_values
from core.text import length
from core.untrusted import as_text, read_object, retry_after
from integrations.twilio.contents import MAX_BODY, MAX_BUTTONS, Contents
from integrations.twilio.errors import HINTS, action_of

MAX_TEXT = 1600  # characters of one free-form message (error 21617)
TIMEOUT, TYPING_TIMEOUT = 10.0, 3.0  # seconds
VALID_FOR = 4 * 3600  # seconds that a message may wait in Twilio's own queue: an answer of yesterday helps nobody
LOOKED_THROUGH = 50  # of a person's last messages, when looking for one
MISSED = 1_000  # messages of one look at what people wrote to us
WINDOW = timedelta(hours=24)
_HOSTS = ("https://api.twilio.com", "https://content.twilio.com", "https://messaging.twilio.com")
_TYPING = "https://messaging.twilio.com/v3/Indicators/Typing.json"


class _Rehosted(TwilioHttpClient):
    """Twilio's own HTTP client, its hosts replaced where TWILIO_API_BASE_URL says so; refusals as ours."""

    def __init__(self, base_url: str, timeout: float) -> None:
        super().__init__(timeout=timeout, max_retries=0)
        self.base_url = base_url.rstrip("/")

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Response:
        if self.base_url not in _HOSTS:
            for host in _HOSTS:
                url = url.replace(host, self.base_url, 1) if url.startswith(host) else url
        try:
            response = super().request(method, url, *args, **kwargs)
        except requests.ConnectTimeout as error:
            raise VendorUnavailable("Twilio does not answer.") from error
        except requests.ConnectionError as error:
            # What was never connected sent nothing; what was cut off may have carried the message.
            raise VendorUnavailable(
                "The connection to Twilio failed.", outcome_unknown=not _never_connected(error)
            ) from error
        except requests.RequestException as error:
            raise VendorUnavailable("Twilio took the request and did not answer.", outcome_unknown=True) from error
        if response.status_code >= 400:
            raise _refused(response)
        return response


class TwilioClient:
    """Sends and looks up messages.

    Args:
        status_url: where Twilio reports deliveries; our outbox id is added to its query.
        template_sid: the approved template for after the window, None: there is none.
        template_variables: its variables; `{text}` is what we wanted to say.
        per_second: messages that the sender may send.
        timeout: seconds to wait for an answer.
    """

    max_text = MAX_TEXT
    supports_lookup = True

    def __init__(
        self,
        *,
        account_sid: str,
        auth_token: str,
        sender: str,
        base_url: str,
        status_url: str | None,
        template_sid: str | None = None,
        template_variables: dict[str, str] | None = None,
        per_second: float | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self.client = Client(account_sid, auth_token, http_client=_Rehosted(base_url, timeout))
        self.base_url = base_url.rstrip("/")
        self.contents = Contents(self.client)
        self.sender = _whatsapp(sender)
        self.status_url = status_url
        self.template_sid, self.template_variables = template_sid, template_variables or {}
        self.limits = Limits(
            text_with_buttons=MAX_BODY, buttons=MAX_BUTTONS, window=WINDOW, template=template_sid is not None,
            per_second=per_second,
        )  # fmt: skip

    def send(self, outgoing: Outgoing) -> str:
        """Send one part; returns Twilio's id of it.

        Raises:
            VendorUnavailable: try again later; `outcome_unknown` says that it may have been sent.
            Unavailable: Twilio refused it for good; the message names its error code.
        """
        with self._forgetting(), _readable():
            message = self.client.messages.create(
                to=outgoing.address["to"],
                from_=outgoing.address.get("from") or self.sender,
                status_callback=f"{self.status_url}?id={outgoing.our_id}" if self.status_url else None,
                validity_period=VALID_FOR,
                **self._content(outgoing),
            )
        if not message.sid:
            raise VendorUnavailable("Twilio's answer cannot be read.", outcome_unknown=True)
        return str(message.sid)

    def received(self, since: datetime) -> list[tuple[datetime, dict[str, str]]]:
        """What people wrote to our number since then: when, and the fields of its webhook as far as they are kept.

        Raises: as `lookup`.
        """
        with _readable():
            found = self.client.messages.list(to=self.sender, date_sent_after=since, limit=MISSED)
        return [
            (at, {
                "MessageSid": message.sid, "From": message.from_ or "", "To": message.to or "",
                "Body": message.body or "", "NumMedia": str(message.num_media or 0), "SmsStatus": "received",
                "DateSent": at.isoformat(),
            })
            for message in found
            if message.direction == "inbound" and message.sid and (at := _utc(message.date_sent)) and at >= since
        ]  # fmt: skip

    def media(self, form: dict[str, str]) -> dict[str, str]:
        """The fields that name what came with such a message.

        Raises: as `lookup`.
        """
        if form["NumMedia"] == "0":
            return {}
        with _readable():
            found = self.client.messages(form["MessageSid"]).media.list(limit=10)
        urls = {
            f"MediaUrl{i}": f"{self.base_url}{(one.uri or '').removesuffix('.json')}" for i, one in enumerate(found)
        }
        return urls | {f"MediaContentType{i}": one.content_type or "" for i, one in enumerate(found)}

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        try:
            yield
        except Unavailable as error:
            if error.action == "text_only":
                self.contents.forget()
            raise

    def typing(self, address: dict[str, Any]) -> None:
        """Show that an answer is on its way, and that the message was read; for 25 seconds at most.

        https://www.twilio.com/docs/whatsapp/api/typing-indicators-resource (a public beta)

        Raises:
            Unavailable: Twilio did not take it, which is no harm.
        """
        if sid := address.get("reply_to"):
            data = {"channel": "WHATSAPP", "messageId": sid}
            headers = {"Content-Type": "application/json"}
            self.client.request("POST", _TYPING, data=data, headers=headers, timeout=TYPING_TIMEOUT)

    def _content(self, outgoing: Outgoing) -> dict[str, Any]:
        """The text; with buttons or as a template, the content that holds it."""
        if outgoing.template and self.template_sid:
            variables = template_values(self.template_variables, outgoing.text)
            return {"content_sid": self.template_sid, "content_variables": json.dumps(variables, ensure_ascii=False)}
        if outgoing.buttons and length(outgoing.text) <= MAX_BODY:
            if content := self.contents.quick_reply(outgoing.text, outgoing.buttons[:MAX_BUTTONS]):
                return content
        return {"body": outgoing.text}

    def lookup(self, outgoing: Outgoing, since: datetime) -> str | None:
        """The id of a message already sent with this text to this person since then; None if there is none.

        Not asked by date: a message that is still queued has no DateSent, and would be sent a second time.

        Raises:
            VendorUnavailable: Twilio cannot say now.
            Unavailable: Twilio refused to say.
        """
        to = outgoing.address["to"]
        with _readable():
            found = self.client.messages.list(to=to, limit=LOOKED_THROUGH)
        for message in found:
            if (message.body or "").strip() == outgoing.text.strip() and not _older(message.date_created, since):
                return str(message.sid)
        return None


@contextmanager
def _readable() -> Iterator[None]:
    """What twilio raises over an answer that is no JSON, or not Twilio's, as ours."""
    try:
        yield
    except (TwilioException, ValueError, KeyError, TypeError, AttributeError) as error:
        raise VendorUnavailable("Twilio's answer cannot be read.", outcome_unknown=True) from error


def _refused(response: Response) -> Unavailable:
    try:
        said = read_object(response.text or "")
    except BadInput:
        said = {}
    status, code = response.status_code, as_text(said.get("code"))
    action = action_of(code, status)
    if action == "retry":
        return VendorUnavailable(
            f"Twilio answered {status} ({code or 'no code'}).",
            retry_after=retry_after((response.headers or {}).get("Retry-After")),
            outcome_unknown=status == 504,  # a gateway that stopped waiting
        )
    message = f"Twilio refused: {code or status} {as_text(said.get('message'))}"
    return Unavailable(message.strip(), HINTS.get(code, "See Twilio's page on this error code."), action=action)


def _never_connected(error: requests.ConnectionError) -> bool:
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(error, requests.exceptions.SSLError | requests.exceptions.ProxyError) or isinstance(
        reason, NewConnectionError
    )


def _older(created: datetime | None, since: datetime) -> bool:
    at = _utc(created)
    return at is not None and at < since


def _utc(at: datetime | None) -> datetime | None:
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


def _whatsapp(address: str) -> str:
    return address if address.startswith("whatsapp:") else f"whatsapp:{address}"
