"""What we send through Twilio: one message per outbox row, and a look-up where the outcome is unknown.

Twilio's message create has no idempotency key. After a time-out the message is looked up, never blindly sent
again. https://www.twilio.com/docs/messaging/api/message-resource
"""

from datetime import datetime
from typing import Any

import requests
from twilio.base.exceptions import TwilioRestException
from twilio.http.http_client import TwilioHttpClient
from twilio.http.response import Response
from twilio.rest import Client

from core.errors import Unavailable, VendorUnavailable
from core.messages import Outgoing

MAX_TEXT = 1600  # characters of one free-form message (error 21617)
TIMEOUT = 10.0
_AMERICA = "https://api.twilio.com"

# https://www.twilio.com/docs/api/errors
TRANSIENT = frozenset({20429, 63009, 63010, 63012, 63017, 63018})
DELIVERY_RANK = {
    "accepted": 0, "scheduled": 0, "queued": 0, "sending": 1, "sent": 2, "delivered": 3, "read": 4,
    "partially_delivered": 3, "undelivered": 9, "failed": 9, "canceled": 9,
}  # fmt: skip


class _Rehosted(TwilioHttpClient):
    """Twilio's own HTTP client, its host replaced where TWILIO_API_BASE_URL says so; obeys Retry-After."""

    def __init__(self, base_url: str) -> None:
        super().__init__(timeout=TIMEOUT, max_retries=0)
        self.base_url = base_url.rstrip("/")

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Response:
        try:
            response = super().request(method, url.replace(_AMERICA, self.base_url, 1), *args, **kwargs)
        except requests.ConnectTimeout as error:
            raise VendorUnavailable("Twilio does not answer.") from error
        except (requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise VendorUnavailable("Twilio took the message and did not say so.", outcome_unknown=True) from error
        except requests.ConnectionError as error:
            cut_off = "Connection aborted" in str(error) or "RemoteDisconnected" in str(error)
            raise VendorUnavailable("The connection to Twilio failed.", outcome_unknown=cut_off) from error
        if response.status_code == 429 or response.status_code >= 500:
            wait = (response.headers or {}).get("Retry-After")
            raise VendorUnavailable(
                f"Twilio answered {response.status_code}.", retry_after=float(wait) if wait and wait.isdigit() else None
            )
        return response


class TwilioClient:
    """Sends and looks up messages.

    Args:
        status_url: where Twilio reports deliveries; our outbox id is added to its query.
    """

    max_text = MAX_TEXT
    supports_lookup = True

    def __init__(
        self, *, account_sid: str, auth_token: str, sender: str, base_url: str, status_url: str | None
    ) -> None:
        self.client = Client(account_sid, auth_token, http_client=_Rehosted(base_url))
        self.sender = _whatsapp(sender)
        self.status_url = status_url

    def send(self, outgoing: Outgoing) -> str:
        """Send one part; returns Twilio's id of it.

        Raises:
            VendorUnavailable: try again later; `outcome_unknown` says that it may have been sent.
            Unavailable: Twilio refused it for good; the message names its error code.
        """
        try:
            message = self.client.messages.create(
                to=outgoing.address["to"],
                from_=outgoing.address.get("from") or self.sender,
                body=outgoing.text,
                status_callback=f"{self.status_url}?id={outgoing.our_id}" if self.status_url else None,
            )
        except TwilioRestException as error:
            if error.code in TRANSIENT:
                raise VendorUnavailable(f"Twilio refused for now: {error.code}.") from error
            raise Unavailable(
                f"Twilio refused the message: {error.code} {error.msg}", _what_to_do(error.code)
            ) from error
        return str(message.sid)

    def lookup(self, outgoing: Outgoing, since: datetime) -> str | None:
        """The id of a message already sent with this text to this person since then; None if there is none."""
        found = self.client.messages.list(to=outgoing.address["to"], date_sent_after=since, limit=50)
        return next((str(message.sid) for message in found if message.body == outgoing.text), None)


def _whatsapp(address: str) -> str:
    return address if address.startswith("whatsapp:") else f"whatsapp:{address}"


def _what_to_do(code: int | None) -> str:
    return {
        63016: "More than 24 hours since the person wrote: only an approved template may be sent.",
        21610: "The person opted out.",
        20003: "Check TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN.",
        63007: "Check TWILIO_WHATSAPP_FROM.",
    }.get(code or 0, "See Twilio's page on this error code.")
