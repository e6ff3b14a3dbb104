"""What we send through Twilio: one message per outbox row, and a look-up where the outcome is unknown.

Twilio's message create has no idempotency key. After a time-out the message is looked up, never blindly sent
again. https://www.twilio.com/docs/messaging/api/message-resource
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import requests
from twilio.base.exceptions import TwilioException
from twilio.http.http_client import TwilioHttpClient
from twilio.http.response import Response
from twilio.rest import Client
from urllib3.exceptions import NewConnectionError

from core.errors import BadInput, Unavailable, VendorUnavailable
from core.messages import Outgoing
from core.untrusted import as_text, read_object, retry_after

MAX_TEXT = 1600  # characters of one free-form message (error 21617)
TIMEOUT = 10.0  # seconds
LOOKED_THROUGH = 50  # of a person's last messages, when looking for one
_AMERICA = "https://api.twilio.com"

# https://www.twilio.com/docs/api/errors
TRANSIENT = frozenset("20429 63009 63010 63012 63017 63018".split())
_HINTS = {
    "63016": "More than 24 hours since the person wrote: only an approved template may be sent.",
    "21610": "The person opted out.",
    "20003": "Check TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN.",
    "63007": "Check TWILIO_WHATSAPP_FROM.",
}


class _Rehosted(TwilioHttpClient):
    """Twilio's own HTTP client, its host replaced where TWILIO_API_BASE_URL says so; obeys Retry-After."""

    def __init__(self, base_url: str, timeout: float) -> None:
        super().__init__(timeout=timeout, max_retries=0)
        self.base_url = base_url.rstrip("/")

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Response:
        try:
            response = super().request(method, url.replace(_AMERICA, self.base_url, 1), *args, **kwargs)
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
        timeout: float = TIMEOUT,
    ) -> None:
        self.client = Client(account_sid, auth_token, http_client=_Rehosted(base_url, timeout))
        self.sender = _whatsapp(sender)
        self.status_url = status_url

    def send(self, outgoing: Outgoing) -> str:
        """Send one part; returns Twilio's id of it.

        Raises:
            VendorUnavailable: try again later; `outcome_unknown` says that it may have been sent.
            Unavailable: Twilio refused it for good; the message names its error code.
        """
        to = outgoing.address["to"]
        with _readable():
            message = self.client.messages.create(
                to=to,
                from_=outgoing.address.get("from") or self.sender,
                body=outgoing.text,
                status_callback=f"{self.status_url}?id={outgoing.our_id}" if self.status_url else None,
            )
        if not message.sid:
            raise VendorUnavailable("Twilio's answer cannot be read.", outcome_unknown=True)
        return str(message.sid)

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
    if status == 429 or status >= 500 or code in TRANSIENT:
        return VendorUnavailable(
            f"Twilio answered {status} ({code or 'no code'}).",
            retry_after=retry_after((response.headers or {}).get("Retry-After")),
            outcome_unknown=status == 504,  # a gateway that stopped waiting
        )
    message = f"Twilio refused: {code or status} {as_text(said.get('message'))}"
    return Unavailable(message.strip(), _HINTS.get(code, "See Twilio's page on this error code."))


def _never_connected(error: requests.ConnectionError) -> bool:
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(error, requests.exceptions.SSLError | requests.exceptions.ProxyError) or isinstance(
        reason, NewConnectionError
    )


def _older(created: datetime | None, since: datetime) -> bool:
    if created is None:
        return False
    return (created if created.tzinfo else created.replace(tzinfo=UTC)) < since


def _whatsapp(address: str) -> str:
    return address if address.startswith("whatsapp:") else f"whatsapp:{address}"
