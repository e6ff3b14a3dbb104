"""What we send through Recado: POST /messages {"to", "text", "ref"}; GET /messages?ref= finds it again."""

from datetime import datetime

import httpx

from core.errors import Unavailable, VendorUnavailable
from core.messages import Limits, Outgoing
from core.untrusted import as_dict, as_text, retry_after


class ExampleClient:
    """Sends and looks up messages.

    Args:
        timeout: seconds to wait for an answer.
    """

    max_text = 2000
    supports_lookup = True
    limits = Limits()

    def __init__(self, *, token: str, base_url: str, timeout: float = 10.0) -> None:
        self.http = httpx.Client(base_url=base_url, headers={"Authorization": f"Bearer {token}"}, timeout=timeout)

    def send(self, outgoing: Outgoing) -> str:
        """Send one part; returns the vendor's id of it.

        Raises:
            VendorUnavailable: try again later; `outcome_unknown` says that it may have been sent.
            Unavailable: refused for good.
        """
        body = {"to": outgoing.address["to"], "text": outgoing.text, "ref": outgoing.our_id}
        if found := self._ask("POST", json=body):
            return found
        raise VendorUnavailable("Recado's answer cannot be read.", outcome_unknown=True)

    def lookup(self, outgoing: Outgoing, since: datetime) -> str | None:
        """The id of the message that carries our id; None if there is none. Raises as `send` does."""
        return self._ask("GET", params={"ref": outgoing.our_id}) or None

    def _ask(self, method: str, **what: object) -> str:
        try:
            response = self.http.request(method, "/messages", **what)  # type: ignore[arg-type]
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise VendorUnavailable("Recado does not answer.") from error
        except httpx.HTTPError as error:
            raise VendorUnavailable("Recado took it and did not say so.", outcome_unknown=True) from error
        if response.status_code == 429 or response.status_code >= 500:
            wait = retry_after(response.headers.get("Retry-After"))
            raise VendorUnavailable(f"Recado answered {response.status_code}.", retry_after=wait)
        if response.status_code == 404 and method == "GET":
            return ""
        if not response.is_success:
            raise Unavailable(f"Recado refused the message: {response.status_code}.", "Check RECADO_TOKEN.")
        try:
            return as_text(as_dict(response.json()).get("id"))
        except ValueError:
            raise VendorUnavailable("Recado's answer cannot be read.", outcome_unknown=True) from None
