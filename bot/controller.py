"""The controller: every ten seconds, and after every vote, it looks at each context and acts.

    next_in_line   the version that waits takes its turn once nothing runs
    switch         blue-green: smoke questions and shadowed ones, then all traffic at once
    guard          the active rollout's evidence: advance, hold, roll back, promote, or wait
    watch          the champion after its promotion: undo, freeze
    keep_loaded    what is live is loaded; a challenger that cannot be loaded is rolled back

Guards run in every state, paused and held too. Any number of controllers may run: each change takes the context's
turn, and whoever comes second finds it done.
"""

import logging
from collections.abc import Callable, Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from bot import guardrails, rollout_line, rollout_look, rollouts, units, watch
from bot.rollout_changes import Change, apply, take_turn_of
from bot.router import BASE, Served, read_routes
from bot.wiring import Awake
from core.db import transaction
from core.errors import ArtifactError, ChangedBytes, Conflict, NotFinite, NpllmError
from core.prompts import ChatMessage, Language, chat_messages
from core.rollouts import Plan, Stop, preset_for
from core.tables import AdapterVersion, Context, Message, Rollout

log = logging.getLogger(__name__)

SMOKE = ("Oi, bom dia!", "Quanto custa e em quanto tempo vocês entregam?", "Quero falar com uma pessoa.")
SHADOWED = 8  # latest real questions that a blue-green challenger answers for nobody
SHADOW_SECONDS = 15.0  # for one of them


def guard_all(awake: Awake) -> None:
    """One look at every context. What somebody else did first is left to them."""
    with transaction(awake.engine) as session:
        contexts = list(session.scalars(select(Context.name).order_by(Context.name)))
    live: list[Served] = []
    for context in contexts:
        _try(_in_transaction, awake, context, _nightly)
        _try(_in_transaction, awake, context, next_in_line)
        _try(_in_transaction, awake, context, _guard)
        _try(_in_transaction, awake, context, watch.look_after)
    for context in contexts:  # asks the models, which may take minutes: after every context's guards
        _try(switch, awake, context)
    for context in contexts:
        _try(_add_live, awake, context, live)
    _keep_loaded(awake, live)


def _try(step: Callable[..., None], *arguments: object) -> None:
    """What one context's step stumbles over keeps no other context from its guards."""
    try:
        step(*arguments)
    except Conflict as error:
        log.info("%s", error)  # somebody else was quicker
    except Exception:
        log.exception("A step of the controller failed.")


def _add_live(awake: Awake, context: str, live: list[Served]) -> None:
    with transaction(awake.engine) as session:
        routes = read_routes(session, context, holdback=awake.settings.holdback_share)
    outside = routes.without.holdback if routes.without else None
    served = (routes.champion, routes.challenger, routes.control, routes.holdback, outside)
    live += [one for one in served if one is not None]


def _in_transaction(awake: Awake, context: str, step: Callable[[Session, Awake, str], None]) -> None:
    with transaction(awake.engine) as session:
        step(session, awake, context)


def next_in_line(session: Session, awake: Awake, context: str) -> None:
    rollout_line.next_in_line(session, context)


def _nightly(session: Session, awake: Awake, context: str) -> None:
    """Where ROLLOUT_NIGHTLY is set, a version that a night registered begins its way by itself, or waits in line."""
    if not awake.settings.rollout_nightly:
        return
    newest = session.scalar(
        select(AdapterVersion)
        .where(AdapterVersion.context == context, AdapterVersion.source == "night")
        .order_by(AdapterVersion.number.desc())
        .limit(1)
    )
    if newest is None or newest.state != "registered":
        return
    if session.scalar(select(Rollout.id).where(Rollout.version_id == newest.id).limit(1)) is not None:
        return
    if newest.id == session.get_one(Context, context).champion_id:
        return
    plan = preset_for(watch.votes_per_day(session, context))
    rollout_line.start(
        session, newest.name, plan, actor=rollouts.CONTROLLER, queue=True, reason="a night registered it"
    )


def _guard(session: Session, awake: Awake, context: str) -> None:
    rollout = rollouts.current(session, context)
    if rollout is None:
        return
    if rollout.slow_ms is None:
        take_turn_of(session, rollout)
        against = session.get(AdapterVersion, rollout.against_id) if rollout.against_id else None
        if (limit := units.slow_ms(session, context, against.name if against else "base")) is not None:
            session.execute(update(Rollout).where(Rollout.id == rollout.id).values(slow_ms=limit))
    rollout = rollout_look.act(session, rollout, rollout_look.look(session, rollout))
    if rollout.state == "running":
        watch.hold_on_shift(session, awake.settings, rollout)


def switch(awake: Awake, context: str) -> None:
    """Blue-green: the challenger answers smoke questions and shadows real ones; if all is well it gets everybody.

    Nobody hears what it says here. The models are asked outside any transaction.
    """
    with transaction(awake.engine) as session:
        rollout = rollouts.current(session, context)
        if rollout is None or rollout.mode != "blue-green" or rollout.weight > 0 or rollout.state != "running":
            return
        if session.get_one(Context, context).frozen_reason is not None:
            return  # all traffic at once is a promotion
        version = session.get_one(AdapterVersion, rollout.version_id)
        challenger = Served(version.id, version.name, version.location, version.sha256)
        control = read_routes(session, context).control or BASE
        latest = session.scalars(
            select(Message)
            .where(Message.context == context, Message.direction == "out", Message.version.is_not(None))
            .order_by(Message.id.desc())
            .limit(SHADOWED)
        ).all()
        asked = {answer.in_reply_to: answer for answer in latest if answer.in_reply_to}
        questions = session.scalars(select(Message).where(Message.id.in_(asked))).all()
        language: Language = "en" if session.get_one(Context, context).language == "en" else "pt"
        shadowed = [(question.text, asked[question.id].route) for question in questions]
    wrong, worse = [], 0
    for text, route in [*((said, {}) for said in SMOKE), *shadowed]:
        messages = chat_messages(
            language=language, assistant=awake.settings.assistant_name, business=awake.settings.business_name,
            question=text, passages=route.get("passages"), history=[(a, b) for a, b in route.get("history", [])],
        )  # fmt: skip
        try:
            reply = awake.models.reply(
                challenger, messages, max_tokens=awake.settings.reply_max_tokens, timeout=SHADOW_SECONDS
            )
        except NpllmError as error:
            if not _answers(awake, control, messages):
                log.warning("%s waits for its checks: nobody answers: %s", challenger.name, error)
                return  # that says nothing about the version
            wrong.append(error.message)
            break
        found = guardrails.guard(reply.text, language=language, sources=[m["content"] for m in messages])
        if "empty" in found.flags:
            wrong.append("It said nothing.")
        worse += bool(found.flags) and bool(route) and not route.get("flags")
    if worse > len(shadowed) // 2 and worse >= 3:
        wrong.append(f"{worse} of {len(shadowed)} shadowed answers were stopped where the control's were not.")
    with transaction(awake.engine) as session:
        current = rollouts.current(session, context, lock=True)
        if current is None or current.id != rollout.id or current.row_version != rollout.row_version:
            return
        if wrong:
            rollout_look.roll_back(session, current, "Smoke and shadow checks failed: " + " ".join(wrong[:3]), {})
            return
        weight = Plan.from_json(current.plan).stages[current.stage].weight
        reason = f"{len(SMOKE)} smoke and {len(shadowed)} shadowed questions were answered well."
        change = Change(
            "switch", rollouts.CONTROLLER, reason, "running", "rollout.advanced", stage=current.stage, weight=weight
        )
        apply(session, current, change)


def _answers(awake: Awake, served: Served, messages: Sequence[ChatMessage]) -> bool:
    try:
        awake.models.reply(served, messages, max_tokens=awake.settings.reply_max_tokens, timeout=SHADOW_SECONDS)
    except NpllmError:
        return False
    return True


def _keep_loaded(awake: Awake, live: list[Served]) -> None:
    """Have the model server keep what is live. A challenger whose files are wrong is rolled back without statistics."""
    try:
        wrong = awake.models.keep_only(live)
    except NpllmError as error:
        log.warning("Versions could not be kept loaded: %s", error)
        return
    for name, found in wrong.items():
        log.warning("%s is not loaded: %s", name, found)
        if not isinstance(found, ArtifactError):
            continue  # the server is away: that says nothing about the version
        stop: Stop = (
            "hash-mismatch" if isinstance(found, ChangedBytes)
            else "non-finite" if isinstance(found, NotFinite) else "load-failure"
        )  # fmt: skip
        _try(_stop, awake, name, stop)


def _stop(awake: Awake, name: str, stop: Stop) -> None:
    with transaction(awake.engine) as session:
        version = session.scalars(select(AdapterVersion).where(AdapterVersion.name == name)).one()
        rollout = rollouts.current(session, version.context)
        if rollout is not None and rollout.version_id == version.id:
            rollout_look.act(session, rollout, rollout_look.look(session, rollout, stops=(stop,)))
