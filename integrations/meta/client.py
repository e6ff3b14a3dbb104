"""What we send through Meta's Cloud API: one message per outbox row.

There is no look-up: after an unknown outcome we wait for the status webhook, which echoes our id
(`biz_opaque_callback_data`). https://developers.facebook.com/docs/whatsapp/cloud-api/messages
"""

from datetime import datetime
from typing import Any

import httpx

from core.errors import Unavailable, VendorUnavailable
from core.messages import Outgoing

MAX_TEXT = 4096
MAX_BODY_WITH_BUTTONS = 1024
TIMEOUT = 10.0
# Throttling and transient codes (https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes).
TRANSIENT = frozenset({1, 2, 4, 80007, 130429, 131000, 131016, 131048, 131056, 131057, 133016})
DELIVERY_RANK = {"sent": 2, "delivered": 3, "read": 4, "played": 5, "failed": 9, "deleted": 9, "warning": 1}


class MetaClient:
    """Sends messages from one business number."""

    max_text = MAX_TEXT
    supports_lookup = False

    def __init__(self, *, access_token: str, phone_number_id: str, base_url: str, version: str) -> None:
        self.http = httpx.Client(
            base_url=f"{base_url.rstrip('/')}/{version}",
            headers={"Authorization": f"Bearer {access_token}"},
            timeout=httpx.Timeout(TIMEOUT, connect=3.0),
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
        except httpx.ConnectError as error:
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
            buttons = [{"type": "reply", "reply": {"id": key, "title": title}} for key, title in outgoing.buttons]
            interactive = {"type": "button", "body": {"text": outgoing.text}, "action": {"buttons": buttons}}
            return {**body, "type": "interactive", "interactive": interactive}
        return {**body, "type": "text", "text": {"body": outgoing.text, "preview_url": False}}

    def _refused(self, response: httpx.Response) -> Unavailable:
        try:
            error = response.json().get("error", {})
            code, text = int(error.get("code", 0)), str(error.get("message", ""))
        except (ValueError, AttributeError, TypeError):
            code, text = 0, ""
        if response.status_code == 429 or response.status_code >= 500 or code in TRANSIENT:
            wait = response.headers.get("Retry-After", "")
            return VendorUnavailable(
                f"Meta answered {response.status_code} ({code}).", retry_after=float(wait) if wait.isdigit() else None
            )
        return Unavailable(f"Meta refused the message: {code} {text}", "See Meta's page on this error code.")
