"""/docs: every call with its statuses and examples, without a word from another server."""

import re

from fastapi.testclient import TestClient

from bot.app import create_app
from bot.wiring import Awake


def test_the_page_tells_all_of_the_description(awake: Awake) -> None:
    web = TestClient(create_app(awake.settings))
    api, page = web.get("/openapi.json").json(), web.get("/docs").text
    shown = re.sub(r"<[^>]+>", "", page)
    for path, calls in api["paths"].items():
        for method, call in calls.items():
            assert f"{method.upper()} {path}" in shown
            for status in call["responses"]:
                assert re.search(rf"<td>{status}</td>", page)
    for word in ("Idempotency-Key", "X-Visitor-Token", "Quanto custa o colchão de casal?", "event: piece", "next_step"):
        assert word in shown, word
    assert re.findall(r'(?:src|href)="(?!/|data:,")[^"]*"', page) == [], "nothing is loaded from elsewhere"
