"""Rita at work in Slack: captured requests, handled as a worker does."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from street import Street

from bot import jobs
from integrations.slack import webhook as slack

FIXTURES = Path(__file__).parents[1] / "integrations/slack/fixtures"


class Workspace:
    """`does` names a file of the fixtures; its keyword arguments change words in it."""

    def __init__(self, street: Street, vendors: Any) -> None:
        self.street, self.vendors = street, vendors

    def does(self, name: str, **changes: str) -> None:
        """One captured request, with words in it changed."""
        (path,) = FIXTURES.glob(f"{name}.*")
        raw = path.read_text()
        for old, new in changes.items():
            raw = raw.replace(self.words.get(old, old), new)
        body: dict[str, Any] = (
            json.loads(raw) if path.suffix == ".json" else dict(parse_qsl(raw, keep_blank_values=True))
        )
        if "response_url" in body and "response_url" not in changes:
            body["response_url"] = f"{self.vendors.url}/response/1"
        for item in slack.split(body):
            self.street.store("slack", [item])
        self.works()

    words = {
        "response_url": "https%3A%2F%2Fhooks.slack.example%2Fcommands%2F1",
        "answer": "0190a0b0-0000-7000-8000-0000000000a1",
        "item": "0190a0b0-0000-7000-8000-0000000000b2",
        "handover": "0190a0b0-0000-7000-8000-0000000000d4",
        "target": "1794999000.000100",
    }

    def works(self) -> None:
        for event in self.street.events():
            if event.handled_at is None:
                jobs.answer(event.lane)

    def is_answered(self) -> tuple[str, str]:
        """Rita asks and is answered: our answer's id, and the `ts` she sees it under."""
        self.street.answer(self.street.slack("Quantos dias de férias?", user="U0RITA", channel="D0RITA"))
        (answer,) = self.street.messages("out")
        self.calls.clear()
        return str(answer.id), str(answer.provider_message_id).partition(":")[2]

    @property
    def calls(self) -> list[dict[str, Any]]:
        return self.vendors.calls

    def outcomes(self) -> list[str | None]:
        return [event.outcome for event in self.street.events()]
