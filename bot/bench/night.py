"""`npllm bench night`: how long one night takes on this machine, from the first row read to the version registered.

On a ledger of its own, with the configured base and the starter adapter as champion. The day is made up: people who
agreed to be learned from asked the shop's held-out questions, and a reviewer corrected every answer to the passage's
words and an offer. The night is the real one: the queue, the asleep worker, curation, replay, training, the gate.
"""

import os
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from typing import Any

import psutil
from sqlalchemy.orm import Session

from bot import nights
from bot.bench.ground import temporary_ground
from bot.seed import seed_starter
from bot.up.run import fetch_base
from core import jobs, shop
from core.db import get_engine, transaction
from core.errors import BadInput, Unavailable
from core.settings import EMBEDDED, load_settings
from core.tables import Annotation, AnnotationItem, ConsolidationRun, Conversation, Customer, Message, now
from integrations.redis.queue import connect, enqueue

CONTEXT: shop.Context = "customers"
OFFER = {"pt": "Quer que eu reserve um para você?", "en": "Shall I put one aside for you?"}
OVER = ("registered", "refused", "skipped", "failed")


def run(*, examples: int, limit: float = 3600.0) -> dict[str, Any]:
    """One night with `examples` new ones to learn (a fifth more is held out).

    Raises:
        BadInput: more than the shop has questions for.
        Unavailable: it did not end within `limit` seconds.
    """
    wanted = round(examples * 1.25)
    splits: tuple[shop.Split, ...] = ("valid", "test")
    day = [q for language in shop.LANGUAGES for split in splits for q in shop.questions(language, split, CONTEXT)]
    if wanted > len(day):
        raise BadInput(f"The shop has questions for {int(len(day) / 1.25)} examples.", "Ask for fewer.")
    wish = load_settings()
    fetch_base(wish)
    with temporary_ground() as (system, _):
        settings = system.settings
        if settings.base_model == EMBEDDED:
            (settings.data_dir / "base").symlink_to(wish.data_dir / "base")
            seed_starter(settings)
        engine = get_engine(str(settings.database_url))
        with transaction(engine) as session:
            for question in day[:wanted]:
                _corrected(session, question)
            run_id = nights.request_now(session, CONTEXT, settings, requested_by="bench", minimum=1)
        began = time.monotonic()
        with _asleep(system.environment) as worker:
            enqueue(connect(str(settings.redis_url)), jobs.CONSOLIDATE, str(run_id))
            peak = 0.0
            while (found := _state(engine, run_id)).state not in OVER:
                if time.monotonic() - began > limit:
                    raise Unavailable(f"The night did not end in {limit:.0f} s.", "Ask for fewer examples.")
                peak = max(peak, _memory(worker))
                time.sleep(0.5)
        seconds = time.monotonic() - began
    progress = found.progress
    return {
        "examples": found.funnel.get("learned"), "held_out": found.funnel.get("held out"), "state": found.state,
        "reasons": found.reasons, "strategy": found.strategy, "seconds": round(seconds, 1),
        "training_seconds": progress.get("training_seconds"), "gain": progress.get("gain"),
        "retention": progress.get("retention"), "peak_memory_mb": round(peak),
    }  # fmt: skip


def _corrected(session: Session, question: shop.Question) -> None:
    """Somebody asked, was answered without an offer, and a reviewer wrote how it should have been."""
    known = {passage.id: passage for passage in shop.passages(CONTEXT, question.language)}
    right = known[question.passage]
    others = [passage.text for passage in known.values() if passage.id != right.id][:2]
    person = Customer(context=CONTEXT, consent="granted", language=question.language)
    session.add(person)
    session.flush()
    talk = Conversation(context=CONTEXT, customer_id=person.id, channel="web", lane=f"web:{person.id}", address={})
    session.add(talk)
    session.flush()
    common: dict[str, Any] = {
        "conversation_id": talk.id, "customer_id": person.id, "context": CONTEXT, "channel": "web",
        "language": question.language, "consent": True,
    }  # fmt: skip
    asked = Message(direction="in", role="customer", text=question.text, **common)
    session.add(asked)
    session.flush()
    answer = Message(
        direction="out", role="bot", text=right.text, in_reply_to=asked.id, version="customers-v1",
        route={"passages": [right.text, *others], "history": [], "flags": []}, **common,
    )  # fmt: skip
    session.add(answer)
    session.flush()
    item = AnnotationItem(
        context=CONTEXT, message_id=answer.id, reason="disliked", question=question.text, answer=right.text,
        passages=[right.text, *others], state="done", done_at=now(),
    )  # fmt: skip
    session.add(item)
    session.flush()
    lesson = f"{right.text.split('. ')[0].rstrip('.')}. {OFFER[question.language]}"
    session.add(Annotation(item_id=item.id, reviewer="bench", verdict="correct", corrected=lesson))


@contextmanager
def _asleep(environment: dict[str, str]) -> Any:
    """The asleep worker's process, on the bench's ledger."""
    worker = subprocess.Popen([sys.executable, "-m", "bot.cli", "asleep"], env={**os.environ, **environment})
    try:
        yield worker
    finally:
        worker.terminate()
        try:
            worker.wait(10)
        except subprocess.TimeoutExpired:
            worker.kill()


def _state(engine: Any, run_id: uuid.UUID) -> ConsolidationRun:
    with transaction(engine) as session:
        return session.get_one(ConsolidationRun, run_id)


def _memory(worker: subprocess.Popen[bytes]) -> float:
    """Resident megabytes of the worker and its child."""
    try:
        process = psutil.Process(worker.pid)
        return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)]) / 1e6
    except psutil.Error:
        return 0.0
