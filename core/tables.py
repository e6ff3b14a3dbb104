"""Every table, grouped by its one writer. Schema `npllm`; see migrations/ for row-level security and partitions.

`messages` is partitioned by month through its key: a UUIDv7 begins with its time, so a range of keys is a range
of time, and the key alone stays unique (docs/decisions/0003). `events` is partitioned by month of `at`.
Two exceptions to "one writer", each in one transaction: the `erase` job may delete from every table, and
`bot.people.join` gives every row of a customer to another who turned out to be the same person.
"""

import uuid
from datetime import UTC, date, datetime
from typing import Any

import uuid_utils
from pgvector.sqlalchemy import Vector
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Date,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy import (
    text as sql,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = "npllm"


def new_id(at: datetime | None = None) -> uuid.UUID:
    """A UUIDv7: its first 48 bits are the time in milliseconds, so keys sort by time."""
    if at is None:
        return uuid.UUID(bytes=uuid_utils.uuid7().bytes)
    return uuid.UUID(bytes=uuid_utils.uuid7(timestamp=int(at.timestamp()), nanos=at.microsecond * 1000).bytes)


def now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        schema=SCHEMA,
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        },
    )
    type_annotation_map = {
        datetime: DateTime(timezone=True),
        date: Date,
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
        list[str]: ARRAY(Text),
        str: Text,
        float: Float,
    }


def one_of(column: str, *values: str) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def references(column: str, *, ondelete: str | None = None) -> ForeignKey:
    return ForeignKey(f"{SCHEMA}.{column}", ondelete=ondelete)


CHANNELS = ("twilio", "meta", "slack", "web")


# Written by bot: who speaks, and what was said ------------------------------------------------------------------


class Context(Base):
    """Customers, employees, ...: own knowledge, adapter lineage, language, schedule and strategy."""

    __tablename__ = "contexts"

    name: Mapped[str] = mapped_column(primary_key=True)
    language: Mapped[str] = mapped_column(server_default="pt")
    preset: Mapped[str] = mapped_column(server_default="support")
    overrides: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    champion_id: Mapped[uuid.UUID | None] = mapped_column(references("adapter_versions.id"))
    frozen_reason: Mapped[str | None]  # promotions and nights wait until an operator resumes
    watched_since: Mapped[datetime | None]  # ratings before it are the past that later ones are held against
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Customer(Base):
    """A person. Phone, WhatsApp id, BSUID, Slack user: all of them are identities, none is required."""

    __tablename__ = "customers"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    context: Mapped[str] = mapped_column(references("contexts.name"))
    name: Mapped[str | None]
    language: Mapped[str | None]
    audience: Mapped[str] = mapped_column(server_default="all")
    consent: Mapped[str] = mapped_column(server_default="unknown")
    consent_at: Mapped[datetime | None]
    consent_asked_at: Mapped[datetime | None]
    opted_out_at: Mapped[datetime | None]
    no_templates_at: Mapped[datetime | None]  # told the vendor that nothing unasked for is wanted
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (one_of("consent", "unknown", "granted", "denied"), one_of("audience", "internal", "beta", "all"))


class CustomerIdentity(Base):
    """One way a vendor names a customer; `scope` is the account it is unique in (a Slack workspace, say)."""

    __tablename__ = "identities"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    customer_id: Mapped[uuid.UUID] = mapped_column(references("customers.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str]
    scope: Mapped[str] = mapped_column(server_default="")
    value: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        UniqueConstraint("kind", "scope", "value"),
        one_of("kind", "phone", "wa_id", "bsuid", "parent_bsuid", "username", "slack_user", "visitor"),
    )


class Conversation(Base):
    """Messages with one person on one lane, until nobody speaks for CONVERSATION_IDLE_HOURS."""

    __tablename__ = "conversations"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    context: Mapped[str] = mapped_column(references("contexts.name"))
    customer_id: Mapped[uuid.UUID] = mapped_column(references("customers.id", ondelete="CASCADE"), index=True)
    channel: Mapped[str]
    lane: Mapped[str]
    address: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(server_default="bot")
    language: Mapped[str | None]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_message_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        Index(None, "lane", "last_message_at"),
        one_of("channel", *CHANNELS),
        one_of("state", "bot", "person", "closed"),
    )


class Message(Base):
    """One message in or out. An outgoing one keeps which version answered it, and how likely that was."""

    __tablename__ = "messages"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    conversation_id: Mapped[uuid.UUID] = mapped_column(references("conversations.id", ondelete="CASCADE"), index=True)
    customer_id: Mapped[uuid.UUID] = mapped_column(references("customers.id", ondelete="CASCADE"), index=True)
    context: Mapped[str]
    channel: Mapped[str]
    direction: Mapped[str]
    role: Mapped[str]
    kind: Mapped[str] = mapped_column(server_default="text")
    text: Mapped[str] = mapped_column(server_default="")
    provider_message_id: Mapped[str | None]
    in_reply_to: Mapped[uuid.UUID | None] = mapped_column(index=True)
    language: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    # When a person wrote it, by the vendor's clock where it tells, else when it reached us; empty where we write.
    sent_at: Mapped[datetime | None]
    edited_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    # Consent and purpose as they stood when the message was stored: what reaches training was allowed to.
    consent: Mapped[bool] = mapped_column(server_default=sql("false"))
    purpose: Mapped[str] = mapped_column(server_default="support")
    # Which version answered, and at what price; empty for incoming messages.
    version: Mapped[str | None]
    adapter_version_id: Mapped[uuid.UUID | None] = mapped_column(references("adapter_versions.id"))
    rollout_id: Mapped[uuid.UUID | None]
    arm: Mapped[str | None]
    assignment_probability: Mapped[float | None]
    memories: Mapped[list[Any]] = mapped_column(server_default=sql("'[]'::jsonb"))
    route: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    latency_ms: Mapped[float | None]
    first_token_ms: Mapped[float | None]
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    cost_usd: Mapped[float | None]

    __table_args__ = (
        Index(None, "channel", "provider_message_id"),
        Index(None, "context", "created_at"),
        one_of("channel", *CHANNELS),
        one_of("direction", "in", "out"),
        one_of("role", "customer", "bot", "person"),
        {"postgresql_partition_by": "RANGE (id)"},
    )


class InboundEvent(Base):
    """The ledger of what vendors told us: stored under a unique key before it is acknowledged."""

    __tablename__ = "inbound_events"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    source: Mapped[str]
    external_id: Mapped[str]
    kind: Mapped[str]
    lane: Mapped[str]
    payload: Mapped[dict[str, Any]]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    handled_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(Integer, server_default=sql("0"))
    not_before: Mapped[datetime | None]
    error: Mapped[str | None]

    __table_args__ = (
        UniqueConstraint("source", "external_id"),
        Index("ix_inbound_events_waiting", "lane", "id", postgresql_where=sql("handled_at IS NULL")),
    )


class Lane(Base):
    """The lease on one person's line: whoever holds it handles its events, in order."""

    __tablename__ = "lanes"

    lane: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    leased_until: Mapped[datetime]


class OutboxItem(Base):
    """One part of one outgoing message: written before it is sent, sent once.

    `unknown` means that the vendor may have accepted it and we did not hear: it is looked up, never blindly
    sent again.
    """

    __tablename__ = "outbox"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    message_id: Mapped[uuid.UUID] = mapped_column(references("messages.id", ondelete="CASCADE"), index=True)
    conversation_id: Mapped[uuid.UUID] = mapped_column(references("conversations.id", ondelete="CASCADE"))
    in_reply_to: Mapped[uuid.UUID | None]
    kind: Mapped[str] = mapped_column(server_default="answer")
    part: Mapped[int] = mapped_column(server_default=sql("1"))
    parts: Mapped[int] = mapped_column(server_default=sql("1"))
    channel: Mapped[str]
    lane: Mapped[str]
    payload: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(server_default="pending")
    attempts: Mapped[int] = mapped_column(server_default=sql("0"))
    not_before: Mapped[datetime] = mapped_column(server_default=func.now())
    holder: Mapped[str | None]
    leased_until: Mapped[datetime | None]
    provider_message_id: Mapped[str | None]
    delivery: Mapped[str | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    sent_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("in_reply_to", "kind", "part"),
        Index(None, "channel", "provider_message_id", unique=True),
        Index(None, "lane", "sent_at"),
        Index("ix_outbox_waiting", "lane", "id", postgresql_where=sql("state IN ('pending', 'sending', 'unknown')")),
        one_of("state", "pending", "sending", "sent", "unknown", "failed"),
    )


class Handover(Base):
    """A conversation that a person of the team has, or was asked to have; written by bot/handover.py alone."""

    __tablename__ = "handovers"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    conversation_id: Mapped[uuid.UUID] = mapped_column(references("conversations.id", ondelete="CASCADE"))
    asked_by: Mapped[str]
    asked_at: Mapped[datetime] = mapped_column(server_default=func.now())
    taken_by: Mapped[str | None]
    taken_at: Mapped[datetime | None]
    last_reply_at: Mapped[datetime | None]
    returned_by: Mapped[str | None]
    returned_at: Mapped[datetime | None]

    __table_args__ = (
        Index("uq_handovers_open", "conversation_id", unique=True, postgresql_where=sql("returned_at IS NULL")),
    )


class Media(Base):
    """A file that came with a message, and where it is now; written by bot/media.py alone."""

    __tablename__ = "media"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    message_id: Mapped[uuid.UUID] = mapped_column(references("messages.id", ondelete="CASCADE"), index=True)
    channel: Mapped[str]
    reference: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(server_default="waiting")
    attempts: Mapped[int] = mapped_column(server_default=sql("0"))
    not_before: Mapped[datetime] = mapped_column(server_default=func.now())
    type: Mapped[str | None]
    bytes: Mapped[int | None]
    sha256: Mapped[str | None]
    reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    stored_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_media_waiting", "not_before", postgresql_where=sql("state = 'waiting'")),
        one_of("state", "waiting", "stored", "refused"),
    )


class ChannelPause(Base):
    """A channel that may not send now: its secrets are refused, or its messages of the day are used up.

    Written by bot/limits.py; a pause that is over is one that nobody minds.
    """

    __tablename__ = "channel_pauses"

    channel: Mapped[str] = mapped_column(primary_key=True)
    since: Mapped[datetime] = mapped_column(server_default=func.now())
    until: Mapped[datetime]
    reason: Mapped[str]

    __table_args__ = (one_of("channel", *CHANNELS),)


class Feedback(Base):
    """What a person thought of one answer. Append-only; the row with `superseded_at` empty is the current vote."""

    __tablename__ = "feedback"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    message_id: Mapped[uuid.UUID | None] = mapped_column(references("messages.id", ondelete="CASCADE"), index=True)
    customer_id: Mapped[uuid.UUID] = mapped_column(references("customers.id", ondelete="CASCADE"))
    channel: Mapped[str]
    target: Mapped[str | None]
    signal: Mapped[str]
    op: Mapped[str]
    raw: Mapped[str]
    polarity: Mapped[str]
    value: Mapped[float | None]
    comment: Mapped[str | None]
    confidence: Mapped[float] = mapped_column(server_default=sql("1"))
    given_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    superseded_at: Mapped[datetime | None]

    __table_args__ = (
        Index(
            "uq_feedback_current", "message_id", "customer_id", unique=True,
            postgresql_where=sql("superseded_at IS NULL AND message_id IS NOT NULL"),
        ),
        Index("ix_feedback_orphans", "channel", "target", postgresql_where=sql("message_id IS NULL")),
        one_of("signal", "reaction", "button", "stars", "comment", "flag", "keyword"),
        one_of("op", "add", "replace", "remove"),
        one_of("polarity", "positive", "negative", "neutral"),
    )  # fmt: skip


class Event(Base):
    """What happened, past tense, append-only, in order of `id`."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(primary_key=True, server_default=func.now())
    type: Mapped[str]
    context: Mapped[str | None]
    channel: Mapped[str | None]
    conversation: Mapped[uuid.UUID | None]
    data: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))

    __table_args__ = (Index(None, "type", "at"), {"postgresql_partition_by": "RANGE (at)"})


class Knowledge(Base):
    """One passage that an answer may be taken from."""

    __tablename__ = "knowledge"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    context: Mapped[str] = mapped_column(references("contexts.name"))
    language: Mapped[str]
    title: Mapped[str] = mapped_column(server_default="")
    text: Mapped[str]
    source: Mapped[str] = mapped_column(server_default="")
    sha256: Mapped[str]
    active: Mapped[bool] = mapped_column(Boolean, server_default=sql("true"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        UniqueConstraint("context", "sha256"),
        Index(None, "context", "updated_at"),
    )


class KnowledgeEmbedding(Base):
    """The vector of a passage in one embedding model's space; spaces are never mixed."""

    __tablename__ = "knowledge_embeddings"

    knowledge_id: Mapped[uuid.UUID] = mapped_column(references("knowledge.id", ondelete="CASCADE"), primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    context: Mapped[str]
    embedding: Mapped[Any] = mapped_column(Vector())

    __table_args__ = (Index(None, "context", "model"),)


# Written by bot/review: what reviewers say of answers ---------------------------------------------------------------


class AnnotationItem(Base):
    """One answer that waits for a reviewer. Question and answer are redacted copies."""

    __tablename__ = "annotation_items"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    context: Mapped[str] = mapped_column(references("contexts.name"))
    message_id: Mapped[uuid.UUID] = mapped_column(references("messages.id", ondelete="CASCADE"), unique=True)
    reason: Mapped[str]
    priority: Mapped[float] = mapped_column(server_default=sql("0"))
    question: Mapped[str]
    answer: Mapped[str]
    passages: Mapped[list[Any]] = mapped_column(server_default=sql("'[]'::jsonb"))
    history: Mapped[list[Any]] = mapped_column(server_default=sql("'[]'::jsonb"))
    version: Mapped[str | None]
    state: Mapped[str] = mapped_column(server_default="open")
    claimed_by: Mapped[str | None]
    claimed_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    done_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_annotation_items_open", sql("priority DESC"), "id", postgresql_where=sql("state = 'open'")),
        one_of("state", "open", "claimed", "done"),
    )


class Annotation(Base):
    """What one reviewer decided about one item."""

    __tablename__ = "annotations"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    item_id: Mapped[uuid.UUID] = mapped_column(references("annotation_items.id", ondelete="CASCADE"))
    reviewer: Mapped[str]
    verdict: Mapped[str]
    corrected: Mapped[str | None]
    comment: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (UniqueConstraint("item_id", "reviewer"), one_of("verdict", "approve", "correct", "reject"))


# Written by bot/slack: where the app is installed, and what stands in Slack for reviewers -----------------------------


class SlackInstallation(Base):
    """A workspace, or a whole organisation, that installed the app. `token` is encrypted; once removed it is gone."""

    __tablename__ = "slack_installations"

    team: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    bot_user: Mapped[str | None]
    scopes: Mapped[list[str]]
    token: Mapped[str | None]
    installed_by: Mapped[str | None]
    installed_at: Mapped[datetime]
    removed_at: Mapped[datetime | None]


class SlackState(Base):
    """An installation that was begun: Slack sends its state back, once and soon."""

    __tablename__ = "slack_states"

    state: Mapped[str] = mapped_column(primary_key=True)
    expires_at: Mapped[datetime]


class ReviewCard(Base):
    """An item's card in the reviewers' channel. `shown` is the state it shows; without an item it has to go."""

    __tablename__ = "review_cards"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    item_id: Mapped[uuid.UUID | None] = mapped_column(
        references("annotation_items.id", ondelete="SET NULL"), unique=True
    )
    channel: Mapped[str]
    ts: Mapped[str | None]
    shown: Mapped[str] = mapped_column(server_default="new")
    not_before: Mapped[datetime] = mapped_column(server_default=func.now())
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (one_of("shown", "new", "sending", "open", "done", "failed", "gone"),)


# Written by learning: what a night made of it -----------------------------------------------------------------------


class TrainingExample(Base):
    """One thing a night may learn, redacted; `dropped` says why it never will."""

    __tablename__ = "examples"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    context: Mapped[str] = mapped_column(references("contexts.name"))
    sha256: Mapped[str]
    customer_id: Mapped[uuid.UUID | None] = mapped_column(references("customers.id", ondelete="CASCADE"), index=True)
    message_id: Mapped[uuid.UUID | None] = mapped_column(references("messages.id", ondelete="CASCADE"))
    source: Mapped[str]
    messages: Mapped[list[Any]]
    answer: Mapped[str]
    reward: Mapped[float] = mapped_column(server_default=sql("1"))
    topic: Mapped[str | None]
    language: Mapped[str | None]
    split: Mapped[str]
    run_id: Mapped[uuid.UUID | None] = mapped_column(references("consolidation_runs.id"))
    replayed: Mapped[int] = mapped_column(server_default=sql("0"))
    dropped: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        UniqueConstraint("context", "sha256"),
        Index(None, "context", "run_id"),
        one_of("source", "annotation", "feedback", "starter"),
        one_of("split", "train", "holdout"),
    )


class ConsolidationRun(Base):
    """One night. `sequence` 0 is the date's own; a run asked for by hand on the same date counts up."""

    __tablename__ = "consolidation_runs"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    context: Mapped[str] = mapped_column(references("contexts.name"))
    night: Mapped[date]
    sequence: Mapped[int] = mapped_column(server_default=sql("0"))
    requested_by: Mapped[str] = mapped_column(server_default="clock")
    state: Mapped[str] = mapped_column(server_default="scheduled")
    stage: Mapped[str] = mapped_column(server_default="scheduled")
    strategy: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    options: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    progress: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    funnel: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    reasons: Mapped[list[Any]] = mapped_column(server_default=sql("'[]'::jsonb"))
    version_id: Mapped[uuid.UUID | None] = mapped_column(references("adapter_versions.id"))
    holder: Mapped[str | None]
    leased_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("context", "night", "sequence"),
        Index(
            "uq_consolidation_runs_active", "context", unique=True,
            postgresql_where=sql("state IN ('scheduled', 'running')"),
        ),
        one_of("state", "scheduled", "running", "registered", "refused", "skipped", "failed"),
    )  # fmt: skip


class AdapterVersion(Base):
    """One version of a context's adapter. Its files are sealed by `sha256`, the hash of its manifest."""

    __tablename__ = "adapter_versions"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    context: Mapped[str]
    number: Mapped[int]
    name: Mapped[str] = mapped_column(unique=True)
    parent_id: Mapped[uuid.UUID | None] = mapped_column(references("adapter_versions.id"))
    run_id: Mapped[uuid.UUID | None]
    source: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="registered")
    base_model: Mapped[str]
    base_revision: Mapped[str]
    location: Mapped[str]
    sha256: Mapped[str]
    manifest: Mapped[dict[str, Any]]
    reasons: Mapped[list[Any]] = mapped_column(server_default=sql("'[]'::jsonb"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        UniqueConstraint("context", "number"),
        one_of("source", "starter", "night", "import", "drill"),
        one_of("state", "registered", "refused", "quarantined", "retired"),
    )


class Evaluation(Base):
    """One figure of one version on one suite; the gate's decision can be read back from these rows."""

    __tablename__ = "evaluations"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    run_id: Mapped[uuid.UUID] = mapped_column(references("consolidation_runs.id"), index=True)
    version_id: Mapped[uuid.UUID | None] = mapped_column(references("adapter_versions.id"))
    suite: Mapped[str]
    metric: Mapped[str]
    value: Mapped[float]
    lower: Mapped[float | None]
    upper: Mapped[float | None]
    examples: Mapped[int]
    details: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


# Written by bot/rollouts: which version earns which traffic ---------------------------------------------------------


class Rollout(Base):
    """One challenger on its way. `row_version` makes every change a compare-and-set."""

    __tablename__ = "rollouts"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    context: Mapped[str] = mapped_column(references("contexts.name"))
    version_id: Mapped[uuid.UUID] = mapped_column(references("adapter_versions.id"))
    against_id: Mapped[uuid.UUID | None] = mapped_column(references("adapter_versions.id"))
    mode: Mapped[str] = mapped_column(server_default="canary")
    plan: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(server_default="running")
    stage: Mapped[int] = mapped_column(server_default=sql("0"))
    weight: Mapped[float] = mapped_column(server_default=sql("0"))
    salt: Mapped[str]
    evidence: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    reason: Mapped[str | None]
    slow_ms: Mapped[float | None]
    failed_in_a_row: Mapped[int] = mapped_column(server_default=sql("0"))
    row_version: Mapped[int] = mapped_column(server_default=sql("1"))
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    stage_started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        Index(
            "uq_rollouts_active", "context", unique=True,
            postgresql_where=sql("state IN ('running', 'paused', 'held')"),
        ),
        Index("uq_rollouts_waiting", "context", unique=True, postgresql_where=sql("state = 'waiting'")),
        one_of("mode", "canary", "ab", "blue-green"),
        one_of("state", "waiting", "superseded", "running", "paused", "held", "promoted", "rolled_back", "aborted"),
    )  # fmt: skip


class RolloutEvent(Base):
    """The audit trail: no state changes without a row here."""

    __tablename__ = "rollout_events"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    rollout_id: Mapped[uuid.UUID | None] = mapped_column(references("rollouts.id"), index=True)
    context: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str]
    verb: Mapped[str]
    before: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    after: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    reason: Mapped[str] = mapped_column(server_default="")
    evidence: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))


class Alert(Base):
    """Something operators are told of; `done` says through which doors, and when."""

    __tablename__ = "alerts"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    kind: Mapped[str]
    data: Mapped[dict[str, Any]]
    done: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    attempts: Mapped[int] = mapped_column(server_default=sql("0"))
    not_before: Mapped[datetime] = mapped_column(server_default=func.now())
    leased_until: Mapped[datetime | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    settled_at: Mapped[datetime | None]

    __table_args__ = (Index("ix_alerts_due", "not_before", postgresql_where=sql("settled_at IS NULL")),)


class BusinessOutcome(Base):
    """What came of a conversation: bought, solved, or whatever the business counts; by the version that spoke last."""

    __tablename__ = "outcomes"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    conversation_id: Mapped[uuid.UUID] = mapped_column(references("conversations.id", ondelete="CASCADE"))
    context: Mapped[str]
    kind: Mapped[str]
    value: Mapped[float] = mapped_column(server_default=sql("1"))
    version: Mapped[str | None]
    rollout_id: Mapped[uuid.UUID | None]
    arm: Mapped[str | None]
    source: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (UniqueConstraint("conversation_id", "kind"), Index(None, "context", "at"))


class Assignment(Base):
    """One unit of a rollout: a person in an epoch, the arm drawn for them, and their one vote.

    `arm`, `probability`, `holdback` and `stage` are those of the unit's first answer, `vote_*` those of the rated one.
    """

    __tablename__ = "assignments"

    rollout_id: Mapped[uuid.UUID] = mapped_column(references("rollouts.id", ondelete="CASCADE"), primary_key=True)
    customer_id: Mapped[uuid.UUID] = mapped_column(references("customers.id", ondelete="CASCADE"), primary_key=True)
    epoch: Mapped[str] = mapped_column(primary_key=True)
    arm: Mapped[str]
    probability: Mapped[float]
    stage: Mapped[int]
    assigned_at: Mapped[datetime] = mapped_column(server_default=func.now())
    served: Mapped[int] = mapped_column(server_default=sql("0"))
    failed: Mapped[int] = mapped_column(server_default=sql("0"))
    slow: Mapped[int] = mapped_column(server_default=sql("0"))
    unsafe: Mapped[int] = mapped_column(server_default=sql("0"))
    holdback: Mapped[float] = mapped_column(server_default=sql("0"))
    solicited: Mapped[bool] = mapped_column(server_default=sql("false"))
    vote: Mapped[float | None]
    voted_at: Mapped[datetime | None]
    vote_message_id: Mapped[uuid.UUID | None]
    vote_arm: Mapped[str | None]
    vote_probability: Mapped[float | None]
    vote_stage: Mapped[int | None]

    __table_args__ = (
        Index("ix_assignments_votes", "rollout_id", "voted_at", postgresql_where=sql("vote IS NOT NULL")),
        one_of("arm", "base", "champion", "challenger", "holdback"),
    )


# Written by bot/privacy: what was asked for about a person, without the person ---------------------------------------


class PrivacyAction(Base):
    """The proof that an export or an erasure happened: who asked for it and how much it was, and no content.

    `subject` is a hash of the customer's id: who still knows the id can find the row, nobody can find the person.
    """

    __tablename__ = "privacy_actions"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    verb: Mapped[str]
    actor: Mapped[str]
    subject: Mapped[str]
    contexts: Mapped[list[str]]
    counts: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    versions: Mapped[list[str]]

    __table_args__ = (one_of("verb", "export", "erase"),)
