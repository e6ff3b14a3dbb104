"""The pages where LANGUAGE=en: every word that a template says has its English, and nothing stays in Portuguese."""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, log_in
from factories import LADDER, make_answer, make_conversation, make_version, make_votes
from fastapi.testclient import TestClient
from jinja2 import nodes
from servers import serving
from sqlalchemy import Engine

from bot import rollout_line
from bot.app import create_app
from bot.english import ENGLISH
from bot.pages import FOLDER, evidence, local_day, local_time, number, reason, templates
from core.db import transaction
from core.settings import Settings, get_settings
from core.tables import AnnotationItem, ConsolidationRun, Context, Handover, Message, new_id, now

TEMPLATES = sorted((FOLDER / "templates").glob("*.html"))
# chat.html has one sentence in both languages; docs.html is in English, as the API's descriptions are.
TRANSLATED = [path for path in TEMPLATES if path.name not in ("chat.html", "docs.html")]
READ_ALOUD = ("aria-label", "title", "placeholder", "alt")
# Words of no language, and what is typed: these may stand in a template as they are.
PLAIN = {"npllm", "sleep", "now", "p50", "p95", "Ctrl+Enter", "a", "r", "d"}
PORTUGUESE = re.compile(
    r"[ãõçáéíóúâêôà]|\b(de|da|do|nova|atual|votos?|etapas?|plano|peso|contra|desde|com|ao|que|uma?)\b",
    re.IGNORECASE,
)


class Shown(HTMLParser):
    """What a person sees or hears of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.language: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.words += [value or "" for name, value in attrs if name in READ_ALOUD]
        if tag == "html":
            self.language = dict(attrs)["lang"]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def keys(path: Path) -> list[str]:
    found = templates.env.extract_translations(path.read_text(encoding="utf-8"))  # type: ignore[attr-defined]
    return [said[0] if isinstance(said, tuple) else said for _, _, said in found]


def test_every_word_has_its_english_and_none_is_left_over() -> None:
    said = {key for path in TEMPLATES for key in keys(path)}
    assert said - ENGLISH.keys() == set()
    assert ENGLISH.keys() - said == set()


def test_an_english_text_has_the_same_slots_and_tags() -> None:
    slots = re.compile(r"%\(\w+\)s|</?\w+>")
    for portuguese, english in ENGLISH.items():
        assert sorted(slots.findall(portuguese)) == sorted(slots.findall(english)), portuguese
        assert not PORTUGUESE.search(slots.sub("", english)), english
        assert '"' not in english  # some stand within an attribute's quotes


@pytest.mark.parametrize("path", TRANSLATED, ids=lambda path: path.name)
def test_a_template_has_no_bare_words(path: Path) -> None:
    tree = templates.env.parse(path.read_text(encoding="utf-8"))
    html = "".join(part.data for part in tree.find_all(nodes.TemplateData))
    bare = {word for words in Shown(html).words for word in re.findall(r"[^\W\d_][\w+]*", words)}
    assert bare - PLAIN == set()


@pytest.mark.parametrize("path", TRANSLATED, ids=lambda path: path.name)
def test_no_expression_says_a_word_itself(path: Path) -> None:
    """What an expression may show is the argument of `_`: values of a dict, branches of an if, alternatives."""
    tree = templates.env.parse(path.read_text(encoding="utf-8"))
    shown: list[Any] = [pair.value for pair in tree.find_all(nodes.Pair)]
    shown += [branch for one in tree.find_all(nodes.CondExpr) for branch in (one.expr1, one.expr2)]
    shown += [one.right for one in tree.find_all(nodes.Or)]
    shown += [part for one in tree.find_all(nodes.Concat) for part in one.nodes]
    shown += [one.items[0] for one in tree.find_all(nodes.Tuple)]
    lookups = [one for one in tree.find_all(nodes.Call) if getattr(one.node, "attr", "") == "get"]
    shown += [part for one in lookups for part in one.args[1:]]
    texts = {one.value for one in shown if isinstance(one, nodes.Const) and isinstance(one.value, str)}
    bare = {text for text in texts if re.search(r"[^\W\d_]", text) and not text.startswith("/")}
    assert bare - {"bad", "soft", "customer", "bot", "autofocus", "disabled", "running"} == set()  # classes, states


@pytest.fixture
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGUAGE", "en")
    get_settings.cache_clear()


def test_figures_dates_and_reasons(english: None) -> None:
    assert (evidence(1.25), evidence(20_000), evidence(None)) == ("1.2", "> 10,000", "–")
    assert (number(-0.125, "%+.2f"), number(None, "%.1f")) == ("-0.12", "–")
    assert local_time(datetime(2026, 11, 28, 0, 21, 5, tzinfo=UTC)) == "27 Nov 21:21:05"
    assert local_time(datetime(2026, 11, 28, 0, 21, tzinfo=UTC), "%H:%M") == "21:21"
    assert local_day(date(2026, 12, 11)) == "11 Dec"
    assert (reason("The rollout is paused."), reason(None)) == ("The rollout is paused.", "")


def test_the_same_in_portuguese() -> None:
    assert (evidence(1.25), evidence(20_000), evidence(None)) == ("1,2", "> 10.000", "–")
    assert number(-0.125, "%+.2f") == "-0,12"
    assert local_time(datetime(2026, 11, 28, 0, 21, 5, tzinfo=UTC)) == "27/11 21:21:05"
    assert local_day(date(2026, 12, 11)) == "11/12"
    assert (reason("The rollout is paused."), reason(None)) == ("O lançamento está em pausa.", "")


@pytest.fixture
def told(english: None, engine: Engine) -> dict[str, str]:
    """A little of everything that the pages show; ids by their page."""
    with transaction(engine) as session:
        champion, challenger = make_version(session, champion=True), make_version(session)
        rollout = rollout_line.start(session, challenger.name, LADDER, actor="ana", reason="a new price list")
        make_votes(session, rollout.id, 160, challenger=0.5, control=0.85, weight=0.25)
        session.get_one(Context, "customers").frozen_reason = "People ask for other things than before."
        talk = make_conversation(session)
        for version, arm in ((challenger, "challenger"), (champion, "champion")):
            session.add(Message(
                id=new_id(), conversation_id=talk.id, customer_id=talk.customer_id, context="customers", channel="meta",
                direction="out", role="bot", text="Hi", version=version.name, rollout_id=rollout.id, arm=arm,
                latency_ms=812.0, cost_usd=0.0021,
            ))  # fmt: skip
        for age, state in enumerate(("running", "registered", "refused", "skipped", "failed")):
            session.add(ConsolidationRun(
                context="customers", strategy="mas+replay", seed=1, requested_by="clock", state=state,
                night=now().date() - timedelta(days=age), created_at=now() - timedelta(days=age), funnel={"learned": 9},
                progress={"stage": "train", "step": 3, "steps": 9, "loss": 1.12, "seconds_left": 95},
                reasons=["3 new examples, 20 are needed."] if state == "refused" else [],
            ))  # fmt: skip
        answer = make_answer(session, talk, question="How much?", text="It is 10.")
        answer.route = {**answer.route, "left": "customers-v1"}
        item = AnnotationItem(
            context="customers", message_id=answer.id, reason="disliked", question="How much?", answer="It is 10.",
            passages=["Shipping is free."], history=[["Hi", "Hello"]],
        )  # fmt: skip
        session.add(item)
        said = Message(
            id=new_id(), conversation_id=talk.id, customer_id=talk.customer_id, context="customers", channel="meta",
            direction="out", role="person", text="",
        )  # fmt: skip
        handover = Handover(conversation_id=talk.id, asked_by="customer", taken_by="bia")
        session.add_all([said, handover])
        session.flush()
        return {"rollout": str(rollout.id), "handover": str(handover.id)}


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as opened:
        opened.post("/login", data={"name": "ana", "password": "operator-password"})
        yield opened


def test_no_page_shows_portuguese(told: dict[str, str], client: TestClient) -> None:
    client.post("/review/next")
    pages = {
        "/ops": ("Operations", "waiting: events 0", "1.12, 1.6 min left", "3 new examples, 20 are needed.", "asleep"),
        f"/ops/rollouts/{told['rollout']}": ("running", "160 votes", "50: rolls back", "frozen: People ask", "of 500"),
        "/review": ("Somebody did not like this answer", "left customers-v1 here", "Approve as it is", "yours until"),
        "/handover": ("They ask for a person", "with bia"),
        f"/handover/{told['handover']}": ("asked on", "(media)", "Give back to the bot"),
        "/login": ("Your name", "Log in"),
    }
    for path, parts in pages.items():
        answer = client.get(path)
        assert answer.status_code == 200, path
        page = Shown(answer.text)
        words = " ".join(" ".join(page.words).split())
        assert page.language == "en", path
        assert not (left := PORTUGUESE.search(words)), f"{path}: {words[max(0, left.start() - 40) :][:80]}"
        for part in parts:
            assert part in words, f"{path}: {part}"
    wrong = client.post("/login", data={"name": "ana", "password": "wrong"}).text
    assert "with <code>npllm up</code>, in <code>npllm status</code>." in wrong


def test_empty_pages_too(english: None, client: TestClient) -> None:
    for path, part in (("/ops", "No rollout yet."), ("/review", "The queue is empty."), ("/handover", "Nobody waits.")):
        words = " ".join(Shown(client.get(path).text).words)
        assert part in words and not PORTUGUESE.search(words), path


@pytest.mark.browser
def test_it_fits_a_phone(
    told: dict[str, str], settings: Settings, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with serving(create_app(settings)) as url, chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        log_in(page, url)
        for name, path in (("ops", "/ops"), ("rollout", f"/ops/rollouts/{told['rollout']}")):
            page.goto(f"{url}{path}")
            assert page.locator("html").get_attribute("lang") == "en"
            assert page.locator("h3", has_text="Audit trail" if name == "rollout" else "Nights").first.is_visible()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            # words beside the picture's lines end within it
            assert page.evaluate("""[...document.querySelectorAll("svg.picture text")].every(text =>
                text.getBoundingClientRect().right <= text.closest("svg").getBoundingClientRect().right + 1)""")
            page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
        assert [line for line in said if "404" not in line] == []
