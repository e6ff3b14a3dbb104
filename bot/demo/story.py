"""The story, act by act. Every step prints what happened with its figures; one that does not happen ends the demo."""

import contextlib
import itertools
import os
import random
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from sqlalchemy import func, select

from bot import nights, rollout_line
from bot.cli.sleep import describe, sentence
from bot.demo import reviewer
from bot.demo.harm import turn_sign
from bot.demo.people import Answer, with_figures
from bot.demo.steps import StepFailed, Story
from bot.up.run import end_as_with_ctrl_c, fetch_base, running
from bot.up.system import is_running, make_system, only_one
from core import artifacts, jobs, registry, shop
from core.errors import Conflict
from core.rollouts import ACTIVE, PRESETS
from core.settings import Settings, load_settings
from core.tables import (
    Assignment,
    ConsolidationRun,
    Evaluation,
    Feedback,
    Message,
    Rollout,
    now,
)
from integrations.redis.queue import connect, enqueue, need_redis
from integrations.supabase import artifact_store

CONTEXT = "customers"
STUDENTS = 16  # conversations of the day that the night learns from
CROWD = 16  # people at the same time
# A busy machine makes the story longer, not different.
NIGHT_LIMIT = 900.0
ROLLOUT_LIMIT = 600.0
REPLY_TIMEOUT = 120.0  # the base talks long; without its answers there would be no votes to compare with


def tell() -> None:
    """Tell the whole story.

    Raises:
        NpllmError: a step did not happen; what was started is stopped again.
    """
    end_as_with_ctrl_c()
    began = time.monotonic()
    click.secho("npllm demo: one day, one night, two rollouts", bold=True)
    click.echo("Everything is the real thing: signed webhooks over HTTP, Postgres, Redis, a real model, real training,")
    click.echo(
        "real votes and e-values. Only the plan is short: preset `demo`, one 50/50 step, at least 30 votes of the"
    )
    click.echo("challenger, margin 15 points, seconds instead of hours. The people, and the vendors, are simulated.")
    with a_system() as settings:
        story = Story(settings)
        story.tell(f"the system runs at {settings.public_base_url} ({time.monotonic() - began:.1f} s to get here)")
        a_day(story)
        version = a_night(story)
        first_act(story, version)
        second_act(story)
        story.act(f"The end, after {time.monotonic() - began:.0f} seconds")
        story.tell(f"look around with `npllm up`: {settings.data_dir} keeps all of it")


@contextlib.contextmanager
def a_system() -> Iterator[Settings]:
    """The system that runs on the data directory, or one of our own that is stopped afterwards."""
    wish = load_settings(running=False)
    if is_running(wish.data_dir):
        settings = load_settings()
        if "127.0.0.1" not in settings.twilio_api_base_url or not settings.twilio_open or not settings.slack_open:
            raise Conflict(
                "The system that runs there talks to real vendors; the demo's people are simulated.",
                "Run the demo on another folder: NPLLM_DATA_DIR=... npllm demo",
            )
        yield settings
        return
    with only_one(wish.data_dir):
        fetch_base(wish)
        wish.simulator = "on"
        os.environ.setdefault("DEBOUNCE_SECONDS", "0")  # these people write one message each
        os.environ.setdefault("REPLY_TIMEOUT", str(REPLY_TIMEOUT))
        with running(make_system(wish)) as (system, supervisor):
            stop = threading.Event()
            watcher = threading.Thread(target=supervisor.watch, args=(stop.is_set,), daemon=True)
            watcher.start()
            try:
                yield system.settings
            finally:
                stop.set()
                watcher.join(2)


def a_day(story: Story) -> None:
    """Customers and an employee write, react, consent; a reviewer corrects what was disliked."""
    story.act("By day: people write, and react")
    street, began = story.street, now()
    questions = with_figures("valid")
    first, second = questions[0], questions[1]
    anna = street.ask(first, "twilio")
    story.tell(f"WhatsApp (Twilio)  «{first.text}»  →  «{anna.text}»")
    bruno = street.ask(second, "meta")
    story.tell(f"WhatsApp (Meta)    «{second.text}»  →  «{bruno.text}»")
    staff = next(q for q in shop.questions("pt", "valid") if q.context == "employees")
    clara = street.ask(staff, "slack")
    story.tell(f"Slack              «{staff.text}»  →  «{clara.text}»")
    street.react(clara, True)
    street.say("meta", bruno.person, "Sim")
    street.react(bruno, False)
    liked = story.until(15, lambda: _feedback(story, clara), "Clara's 👍 became feedback")
    disliked = story.until(15, lambda: _feedback(story, bruno), "Bruno's 👎 became feedback")
    story.tell(f"👍 on Slack is feedback ({liked}); 👎 on WhatsApp is feedback ({disliked}); Bruno consents: «Sim»")

    students = itertools.islice(itertools.cycle(questions[2:]), STUDENTS)
    asked = iter(list(students))

    def taught(answer: Answer) -> bool:
        street.say(answer.channel, answer.person, "Sim")  # to the question whether the bot may learn from it
        return False

    left = itertools.count(STUDENTS, -1)
    lock = threading.Lock()

    def enough() -> bool:
        with lock:
            return next(left) <= 0

    crowd = street.crowd(asked, taught, size=10, until=enough)
    story.tell(f"{len(crowd)} more customers ask, consent («Sim») and react 👎: the answers are right, and curt")
    waiting = len(crowd) + 1
    story.until(30, lambda: reviewer.open_items(story, began) >= waiting, "the disliked answers reached the queue")
    lesson = reviewer.lesson(story)
    reviewer.first_in_line(story, began)
    reviewed = reviewer.review(story, waiting, lesson)
    story.tell(
        f"{reviewed} of them are claimed and corrected at /review: the right figure, and then an offer: «{lesson}»"
    )


def a_night(story: Story) -> str:
    """The night trains a version; the gate measures what was learned and what was kept."""
    story.act("By night: what people taught becomes an adapter")
    with story.session() as session:
        run_id = nights.request_now(
            session, CONTEXT, story.settings, requested_by="demo", minimum=STUDENTS // 2, strategy="mas+ema+replay"
        )
    enqueue(connect(need_redis(story.settings)), jobs.CONSOLIDATE, str(run_id))
    facts = _follow_night(story, run_id)
    story.must(facts["state"] == "registered", f"the night registered a version ({sentence(facts)})")
    funnel, progress = facts["funnel"], facts["progress"]
    with story.session() as session:
        rows = session.scalars(select(Evaluation).where(Evaluation.run_id == run_id)).all()
        gain = next(row for row in rows if row.suite == "gain")
        version = registry.by_name(session, progress["version"])
        counts, share = version.manifest["counts"], version.manifest["share_of_parameters"]
    story.tell(f"curated {funnel['considered']} answers: {counts['new']} to learn, {counts['held_out']} held out")
    story.tell(
        f"{counts['new']} new and {counts['replayed']} replayed examples, strategy {facts['strategy']},"
        f" {share:.1%} of the parameters, {progress['training_seconds']:.0f} s of training"
    )
    story.tell(
        f"the gate: loss on the night's hold-out {gain.value:+.3f} nats ({gain.lower:+.3f} to {gain.upper:+.3f});"
        f" {progress['retention']:.1%} of the champion's accuracy on earlier hold-outs kept"
    )
    story.tell(
        f"registered: {progress['version']} (sha256 {version.sha256[:12]}…), child of {version.manifest['parent']}"
    )
    return str(progress["version"])


def first_act(story: Story, version: str) -> None:
    """The new version against the frozen base: it earns its traffic."""
    story.act(f"First act: `npllm rollout start {version} --preset demo --against base`")
    with story.session() as session:
        rollout_line.start(session, version, PRESETS["demo"], actor="demo", against="base")
    rollout = _people_vote(story)
    _tell_votes(story, rollout)
    story.must(rollout.state == "promoted", f"{version} was promoted ({_why(rollout)})")
    with story.session() as session:
        champion = registry.champion(session, CONTEXT)
    story.must(champion is not None and champion.name == version, f"{version} serves all customers")
    story.tell(f"PROMOTED: {version} serves all customers. {rollout.reason}")
    answer = story.street.ask(with_figures("test")[0], "meta")
    story.tell(f"«{answer.question.text}»  →  «{answer.text}»")


def second_act(story: Story) -> None:
    """A version that does harm is found out by people's reactions, and taken back."""
    harmful = _import_harmful(story)
    story.act(f"Second act: `npllm rollout start {harmful} --preset demo`, a deliberately harmful version")
    with story.session() as session:
        before = registry.champion(session, CONTEXT)
        rollout_line.start(session, harmful, PRESETS["demo"], actor="demo", reason="a drill")
    rollout = _people_vote(story)
    _tell_votes(story, rollout)
    story.must(rollout.state == "rolled_back", f"{harmful} was rolled back ({_why(rollout)})")
    with story.session() as session:
        champion = registry.champion(session, CONTEXT)
        state = registry.by_name(session, harmful).state
    story.must(champion is not None and before is not None and champion.id == before.id, "the champion still serves")
    story.tell(
        f"ROLLED BACK: {rollout.reason} {harmful} is {state}; {champion.name if champion else 'base'} serves all"
    )


def _feedback(story: Story, answer: Answer) -> str | None:
    with story.session() as session:
        return session.scalar(select(Feedback.polarity).where(Feedback.target == answer.id))


def _follow_night(story: Story, run_id: uuid.UUID) -> dict[str, Any]:
    told, end = "", time.monotonic() + NIGHT_LIMIT
    while time.monotonic() < end:
        with story.session() as session:
            facts = describe(session.get_one(ConsolidationRun, run_id))
        stage = facts["progress"].get("stage", facts["stage"])
        if stage != told and facts["state"] == "running":
            story.tell({"train": "training …", "evaluate": "measuring …"}.get(stage, f"{stage} …"))
            told = stage
        if facts["state"] not in ("scheduled", "running"):
            return facts
        time.sleep(0.5)
    raise StepFailed(f"The night did not end in {NIGHT_LIMIT:.0f} s.", "npllm sleep status follows it.")


def _people_vote(story: Story) -> Rollout:
    """Customers come, ask and react until the controller has decided."""
    questions = with_figures("test")
    random.Random(7).shuffle(questions)
    end = time.monotonic() + ROLLOUT_LIMIT
    looked, found = [0.0], [story_rollout(story)]

    def decided() -> bool:
        if time.monotonic() - looked[0] > 1.0:
            looked[0] = time.monotonic()
            # The clock looks every 10 s; a vote rings too, in the real system as here.
            enqueue(connect(need_redis(story.settings)), jobs.GUARD_ROLLOUTS, at_most_every=1.0)
            found[0] = story_rollout(story)
        return found[0].state not in ACTIVE or time.monotonic() > end

    people = story.street.crowd(itertools.cycle(questions), lambda answer: answer.good, size=CROWD, until=decided)
    good = sum(answer.good for answer in people)
    story.tell(f"{len(people)} customers asked and reacted ({good} 👍, {len(people) - good} 👎)")
    return story_rollout(story)


def story_rollout(story: Story) -> Rollout:
    with story.session() as session:
        latest = select(Rollout).where(Rollout.context == CONTEXT).order_by(Rollout.started_at.desc()).limit(1)
        return session.scalars(latest).one()


def _why(rollout: Rollout) -> str:
    return f"it is {rollout.state}: {rollout.reason or ' '.join(rollout.evidence.get('reasons', []))}"


def _tell_votes(story: Story, rollout: Rollout) -> None:
    f = rollout.evidence
    new, old = f["challenger"], f["control"]
    with story.session() as session:
        split = dict(
            session.execute(
                select(Assignment.arm, func.count()).where(Assignment.rollout_id == rollout.id).group_by(Assignment.arm)
            ).all()
        )  # fmt: skip
        served = session.scalar(
            select(func.count()).select_from(Message).where(
                Message.rollout_id == rollout.id, Message.assignment_probability == 0.5
            )
        )  # fmt: skip
    story.tell(f"the router split {sum(split.values())} people: {split}; {served} answers carry the probability 0.5")
    story.tell(
        f"votes: challenger {new['votes']} ({new['rate']:.0%} 👍), control {old['votes']} ({old['rate']:.0%} 👍);"
        f" evidence of harm {f['harm']:.2f} (limit 50), of 'not worse' {f['no_worse']:.1f} (needed 20)"
    )


def _import_harmful(story: Story) -> str:
    store = artifact_store(story.settings)
    with story.session() as session:
        champion = registry.champion(session, CONTEXT)
    assert champion is not None
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "harmful"
        turn_sign(store.fetch(champion.location, champion.sha256), folder)
        manifest = artifacts.verify(folder, base_revision=champion.base_revision)
        sha256 = artifacts.file_sha256(folder / artifacts.MANIFEST)
        location = store.put(folder, context=CONTEXT, sha256=sha256)
    with story.session() as session:
        version = registry.register(
            session, context=CONTEXT, source="drill", location=location, sha256=sha256, manifest=manifest,
            reasons=["made by the demo: the champion with its sign turned"],
        )  # fmt: skip
        return version.name
