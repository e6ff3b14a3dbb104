"""What we send through Meta's Cloud API: one message per outbox row.

There is no look-up: after an unknown outcome we wait for the status webhook, which echoes our id
(`biz_opaque_callback_data`). https://developers.facebook.com/docs/whatsapp/cloud-api/messages
"""

from datetime import datetime, timedelta
from typing import Any

import httpx

from core.errors import Unavailable, VendorUnavailable
from core.messages import Limits, Outgoing, template_values
from core.text import length
from core.untrusted import as_dict, as_text, retry_after
from integrations.meta.errors import HINTS, PAIR_LIMIT, action_of

MAX_TEXT = 4096
MAX_BODY_WITH_BUTTONS = 1024
MAX_BUTTONS, MAX_BUTTON_TITLE = 3, 20
TIMEOUT, TYPING_TIMEOUT = 10.0, 3.0  # seconds
WINDOW = timedelta(hours=24)
PAIR_SECONDS, PAIR_BURST = 6.0, 45  # to one person: one message per six seconds in the long run, 45 at once


class MetaClient:
    """Sends messages from one business number.

    Args:
        template: name and language of the approved template for after the window, None: there is none.
        template_variables: its body's parameters in the order of their keys; `{text}` is what we wanted to say.
        per_second: messages that the number may send (80 by default, more on request).
        timeout: seconds to wait for an answer.
    """

    max_text = MAX_TEXT
    supports_lookup = False

    def __init__(
        self, *, access_token: str, phone_number_id: str, base_url: str, version: str,
        template: tuple[str, str] | None = None, template_variables: dict[str, str] | None = None,
        per_second: float | None = None, timeout: float = TIMEOUT,
    ) -> None:  # fmt: skip
        self.http = httpx.Client(
            base_url=f"{base_url.rstrip('/')}/{version}",
            headers={"Authorization": f"Bearer {access_token}"},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 3.0)),
        )
        self.phone_number_id = phone_number_id
        self.template, self.template_variables = template, template_variables or {}
        self.limits = Limits(
            text_with_buttons=MAX_BODY_WITH_BUTTONS, buttons=MAX_BUTTONS, window=WINDOW, template=template is not None,
            pair_seconds=PAIR_SECONDS, pair_burst=PAIR_BURST, per_second=per_second,
        )  # fmt: skip

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

    def typing(self, address: dict[str, Any]) -> None:
        """Show that an answer is on its way, and that the message was read; for 25 seconds at most.

        Raises:
            Unavailable: Meta did not take it, which is no harm.
        """
        number, wamid = address.get("phone_number_id") or self.phone_number_id, address.get("reply_to")
        if not wamid:
            return
        body = {
            "messaging_product": "whatsapp", "status": "read", "message_id": wamid,
            "typing_indicator": {"type": "text"},
        }  # fmt: skip
        try:
            response = self.http.post(f"/{number}/messages", json=body, timeout=TYPING_TIMEOUT)
        except httpx.HTTPError as error:
            raise Unavailable("Meta does not answer.") from error
        if not response.is_success:
            raise self._refused(response)

    def _body(self, outgoing: Outgoing) -> dict[str, Any]:
        to = {key: outgoing.address[key] for key in ("to", "recipient") if outgoing.address.get(key)}
        body: dict[str, Any] = {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            **to,
            "biz_opaque_callback_data": outgoing.our_id,
        }
        if outgoing.template and self.template:
            return {**body, "type": "template", "template": self._template(outgoing.text)}
        if outgoing.buttons and length(outgoing.text) <= MAX_BODY_WITH_BUTTONS:
            buttons = [
                {"type": "reply", "reply": {"id": key, "title": title[:MAX_BUTTON_TITLE]}}
                for key, title in outgoing.buttons[:MAX_BUTTONS]
            ]
            interactive = {"type": "button", "body": {"text": outgoing.text}, "action": {"buttons": buttons}}
            return {**body, "type": "interactive", "interactive": interactive}
        return {**body, "type": "text", "text": {"body": outgoing.text, "preview_url": False}}

    def _template(self, text: str) -> dict[str, Any]:
        assert self.template is not None
        name, language = self.template
        values = template_values(self.template_variables, text)
        parameters = [{"type": "text", "text": values[key]} for key in sorted(values)]
        components = [{"type": "body", "parameters": parameters}] if parameters else []
        return {"name": name, "language": {"code": language}, "components": components}

    def _refused(self, response: httpx.Response) -> Unavailable:
        try:
            error = as_dict(as_dict(response.json()).get("error"))
        except ValueError:
            error = {}
        code, text = as_text(error.get("code")), as_text(error.get("message"))
        status = response.status_code
        action = action_of(code, status)
        if action == "retry":
            asked = retry_after(response.headers.get("Retry-After"))
            return VendorUnavailable(
                f"Meta answered {status} ({code or 'no code'}).",
                retry_after=PAIR_SECONDS if asked is None and code == PAIR_LIMIT else asked,
                outcome_unknown=status == 504,  # a gateway that stopped waiting
            )
        message = f"Meta refused the message: {code or status} {text}".strip()
        return Unavailable(message, HINTS.get(code, "See Meta's page on this code."), action=action)
