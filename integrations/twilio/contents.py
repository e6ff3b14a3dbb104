"""Messages with buttons through Twilio: each kind of them is a content of type twilio/quick-reply, made once.

Inside the 24-hour window such a content needs no approval, and may have three buttons under at most 1,024 characters.
Text and the buttons' ids are variables, so that one content serves all answers and a tap says which it is about.
https://www.twilio.com/docs/content/twilio-quick-reply
"""

import hashlib
import json
import logging
import threading
import time
from typing import Any

from twilio.rest import Client

from core.errors import NpllmError
from core.untrusted import as_dicts, as_text, read_object

MAX_BODY, MAX_BUTTONS, MAX_TITLE = 1024, 3, 20
_ADDRESS = "https://content.twilio.com/v1/Content"
_PATIENCE = 600.0  # seconds without another try after Twilio refused to make one

log = logging.getLogger(__name__)


class Contents:
    """Finds this account's contents by name, and makes what is missing."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._sids: dict[str, str] = {}
        self._not_before = 0.0
        self._lock = threading.Lock()

    def quick_reply(self, text: str, buttons: tuple[tuple[str, str], ...]) -> dict[str, Any] | None:
        """The arguments of a message with these (id, title) buttons; None where it has to go without them."""
        titles = [title[:MAX_TITLE] for _, title in buttons]
        if (sid := self._sid(titles)) is None:
            return None
        variables = {"1": text, **{str(number): key for number, (key, _) in enumerate(buttons, 2)}}
        return {"content_sid": sid, "content_variables": json.dumps(variables, ensure_ascii=False)}

    def forget(self) -> None:
        """What was made may have been deleted: look again."""
        with self._lock:
            self._sids.clear()
            self._not_before = 0.0

    def _sid(self, titles: list[str]) -> str | None:
        name = f"npllm_buttons_{hashlib.sha256(json.dumps(titles).encode()).hexdigest()[:12]}"
        with self._lock:
            if name not in self._sids and time.monotonic() >= self._not_before:
                try:
                    self._sids[name] = self._find(name) or self._make(name, titles)
                except (NpllmError, ValueError, KeyError) as error:
                    self._not_before = time.monotonic() + _PATIENCE
                    log.error("Answers go without buttons: Twilio's Content API refused (%s).", error)
            return self._sids.get(name)

    def _find(self, name: str) -> str | None:
        response = self.client.request("GET", _ADDRESS, params={"PageSize": 500})
        found = as_dicts(read_object(response.text).get("contents"))
        return next((as_text(one.get("sid")) for one in found if one.get("friendly_name") == name), None)

    def _make(self, name: str, titles: list[str]) -> str:
        actions = [
            {"type": "QUICK_REPLY", "title": title, "id": f"{{{{{number}}}}}"} for number, title in enumerate(titles, 2)
        ]
        content = {
            "friendly_name": name,
            "language": "pt",
            "variables": {str(number): "1" for number in range(1, len(titles) + 2)},
            "types": {"twilio/quick-reply": {"body": "{{1}}", "actions": actions}},
        }
        response = self.client.request("POST", _ADDRESS, data=content, headers={"Content-Type": "application/json"})
        return str(read_object(response.text)["sid"])
