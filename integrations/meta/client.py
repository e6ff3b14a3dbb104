"""What we send through Meta's Cloud API: one message per outbox row.

There is no look-up: after an unknown outcome we wait for the status webhook, which echoes our id
(`biz_opaque_callback_data`). https://developers.facebook.com/docs/whatsapp/cloud-api/messages
"""

from datetime import datetime
from typing import Any

import httpx

from core.errors import Unavailable, VendorUnavailable
from core.messages import Outgoing
from core.untrusted import as_dict, as_text, retry_after

MAX_TEXT = 4096
MAX_BODY_WITH_BUTTONS = 1024
MAX_BUTTONS, MAX_BUTTON_TITLE = 3, 20
TIMEOUT = 10.0  # seconds
# Throttling and transient codes (https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes).
TRANSIENT = frozenset("1 2 4 80007 130429 131000 131016 131048 131056 131057 133016".split())
_HINTS = {
    "190": "Check META_ACCESS_TOKEN: it has expired or was revoked.",
    "100": "Check META_PHONE_NUMBER_ID and META_GRAPH_VERSION.",
    "131047": "More than 24 hours since the person wrote: only an approved template may be sent.",
    "131026": "This person cannot be reached on WhatsApp.",
}


class MetaClient:
    """Sends messages from one business number.

    Args:
        timeout: seconds to wait for an answer.
    """

    max_text = MAX_TEXT
    supports_lookup = False

    def __init__(
        self, *, access_token: str, phone_number_id: str, base_url: str, version: str, timeout: float = TIMEOUT
    ) -> None:
        self.http = httpx.Client(
            base_url=f"{base_url.rstrip('/')}/{version}",
            headers={"Authorization": f"Bearer {access_token}"},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 3.0)),
        )
        self.phone_number_id = phone_number_id

    def send(self, outgoing: Outgoing) -> str:
        """Send one part; returns Meta's id of it (wamid).

        Raises:
            VendorUnavailable: try again later; `outcome_unknown` says that it may have been sent.
            Unavailable: Meta refused it for good; the message names its error code.
        """
        number = outgoing.address.get("phone_number_id") or self.phone_number_id
        try:
            response = self.http.post(f"/{number}/messages", json=self._body(outgoing))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise VendorUnavailable("Meta does not answer.") from error
        except httpx.HTTPError as error:
            raise VendorUnavailable("Meta took the message and did not say so.", outcome_unknown=True) from error
        if response.is_success:
            try:
                return str(response.json()["messages"][0]["id"])
            except (ValueError, KeyError, IndexError, TypeError):
                raise VendorUnavailable("Meta's answer cannot be read.", outcome_unknown=True) from None
        raise self._refused(response)

    def lookup(self, outgoing: Outgoing, since: datetime) -> str | None:
        """Meta has none: `supports_lookup` says so."""
        return None

    def _body(self, outgoing: Outgoing) -> dict[str, Any]:
        to = {key: outgoing.address[key] for key in ("to", "recipient") if outgoing.address.get(key)}
        body: dict[str, Any] = {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            **to,
            "biz_opaque_callback_data": outgoing.our_id,
        }
        if outgoing.buttons and len(outgoing.text) <= MAX_BODY_WITH_BUTTONS:
            buttons = [
                {"type": "reply", "reply": {"id": key, "title": title[:MAX_BUTTON_TITLE]}}
                for key, title in outgoing.buttons[:MAX_BUTTONS]
            ]
            interactive = {"type": "button", "body": {"text": outgoing.text}, "action": {"buttons": buttons}}
            return {**body, "type": "interactive", "interactive": interactive}
        return {**body, "type": "text", "text": {"body": outgoing.text, "preview_url": False}}

    def _refused(self, response: httpx.Response) -> Unavailable:
        try:
            error = as_dict(as_dict(response.json()).get("error"))
        except ValueError:
            error = {}
        code, text = as_text(error.get("code")) or "0", as_text(error.get("message"))
        status = response.status_code
        if status == 429 or status >= 500 or code in TRANSIENT:
            return VendorUnavailable(
                f"Meta answered {status} ({code}).",
                retry_after=retry_after(response.headers.get("Retry-After")),
                outcome_unknown=status == 504,  # a gateway that stopped waiting
            )
        return Unavailable(
            f"Meta refused the message: {code} {text}", _HINTS.get(code, "See Meta's page on this code.")
        )
