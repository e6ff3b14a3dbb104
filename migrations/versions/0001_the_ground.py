"""The ground: every table of the first loop, row-level security, the first partitions, pgvector.

Revision: 0001
"""

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import Vector
from sqlalchemy.dialects import postgresql

from core.partitions import protect

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "npllm"


def upgrade() -> None:
    _pgvector()
    op.create_table(
        "adapter_versions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("context", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="registered", nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("base_revision", sa.Text(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("manifest", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "reasons", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "source IN ('starter', 'night', 'import', 'drill')", name=op.f("ck_adapter_versions_source")
        ),
        sa.CheckConstraint(
            "state IN ('registered', 'refused', 'quarantined', 'retired')", name=op.f("ck_adapter_versions_state")
        ),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["npllm.adapter_versions.id"], name=op.f("fk_adapter_versions_parent_id_adapter_versions")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adapter_versions")),
        sa.UniqueConstraint("context", "number", name=op.f("uq_adapter_versions_context_number")),
        sa.UniqueConstraint("name", name=op.f("uq_adapter_versions_name")),
        schema="npllm",
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("context", sa.Text(), nullable=True),
        sa.Column("channel", sa.Text(), nullable=True),
        sa.Column("conversation", sa.Uuid(), nullable=True),
        sa.Column(
            "data", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", "at", name=op.f("pk_events")),
        schema="npllm",
        postgresql_partition_by="RANGE (at)",
    )
    op.create_index(op.f("ix_events_type_at"), "events", ["type", "at"], unique=False, schema="npllm")
    op.create_table(
        "inbound_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("handled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inbound_events")),
        sa.UniqueConstraint("source", "external_id", name=op.f("uq_inbound_events_source_external_id")),
        schema="npllm",
    )
    op.create_index(
        "ix_inbound_events_waiting",
        "inbound_events",
        ["lane", "id"],
        unique=False,
        schema="npllm",
        postgresql_where=sa.text("handled_at IS NULL"),
    )
    op.create_table(
        "lanes",
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("lane", name=op.f("pk_lanes")),
        schema="npllm",
    )
    op.create_table(
        "contexts",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("language", sa.Text(), server_default="pt", nullable=False),
        sa.Column("preset", sa.Text(), server_default="support", nullable=False),
        sa.Column(
            "overrides", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("champion_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["champion_id"], ["npllm.adapter_versions.id"], name=op.f("fk_contexts_champion_id_adapter_versions")
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_contexts")),
        schema="npllm",
    )
    op.create_table(
        "consolidation_runs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("context", sa.Text(), nullable=False),
        sa.Column("night", sa.Date(), nullable=False),
        sa.Column("sequence", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("requested_by", sa.Text(), server_default="clock", nullable=False),
        sa.Column("state", sa.Text(), server_default="scheduled", nullable=False),
        sa.Column("stage", sa.Text(), server_default="scheduled", nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column(
            "options", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column(
            "progress", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column(
            "funnel", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column(
            "reasons", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column("version_id", sa.Uuid(), nullable=True),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('scheduled', 'running', 'registered', 'refused', 'skipped', 'failed')",
            name=op.f("ck_consolidation_runs_state"),
        ),
        sa.ForeignKeyConstraint(
            ["context"], ["npllm.contexts.name"], name=op.f("fk_consolidation_runs_context_contexts")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["npllm.adapter_versions.id"],
            name=op.f("fk_consolidation_runs_version_id_adapter_versions"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_consolidation_runs")),
        sa.UniqueConstraint("context", "night", "sequence", name=op.f("uq_consolidation_runs_context_night_sequence")),
        schema="npllm",
    )
    op.create_index(
        "uq_consolidation_runs_active",
        "consolidation_runs",
        ["context"],
        unique=True,
        schema="npllm",
        postgresql_where=sa.text("state IN ('scheduled', 'running')"),
    )
    op.create_table(
        "customers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("context", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("language", sa.Text(), nullable=True),
        sa.Column("consent", sa.Text(), server_default="unknown", nullable=False),
        sa.Column("consent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("consent_asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("opted_out_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("consent IN ('unknown', 'granted', 'denied')", name=op.f("ck_customers_consent")),
        sa.ForeignKeyConstraint(["context"], ["npllm.contexts.name"], name=op.f("fk_customers_context_contexts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_customers")),
        schema="npllm",
    )
    op.create_table(
        "knowledge",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("context", sa.Text(), nullable=False),
        sa.Column("language", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), server_default="", nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), server_default="", nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["context"], ["npllm.contexts.name"], name=op.f("fk_knowledge_context_contexts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_knowledge")),
        sa.UniqueConstraint("context", "sha256", name=op.f("uq_knowledge_context_sha256")),
        schema="npllm",
    )
    op.create_index(
        op.f("ix_knowledge_context_updated_at"), "knowledge", ["context", "updated_at"], unique=False, schema="npllm"
    )
    op.create_table(
        "rollouts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("context", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("against_id", sa.Uuid(), nullable=True),
        sa.Column("mode", sa.Text(), server_default="canary", nullable=False),
        sa.Column("plan", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), server_default="running", nullable=False),
        sa.Column("stage", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("weight", sa.Float(), server_default=sa.text("0"), nullable=False),
        sa.Column("salt", sa.Text(), nullable=False),
        sa.Column(
            "evidence", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("row_version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("stage_started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("mode IN ('canary', 'ab', 'blue-green')", name=op.f("ck_rollouts_mode")),
        sa.CheckConstraint(
            "state IN ('running', 'paused', 'held', 'promoted', 'rolled_back', 'aborted')",
            name=op.f("ck_rollouts_state"),
        ),
        sa.ForeignKeyConstraint(
            ["against_id"], ["npllm.adapter_versions.id"], name=op.f("fk_rollouts_against_id_adapter_versions")
        ),
        sa.ForeignKeyConstraint(["context"], ["npllm.contexts.name"], name=op.f("fk_rollouts_context_contexts")),
        sa.ForeignKeyConstraint(
            ["version_id"], ["npllm.adapter_versions.id"], name=op.f("fk_rollouts_version_id_adapter_versions")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
        schema="npllm",
    )
    op.create_index(
        "uq_rollouts_active",
        "rollouts",
        ["context"],
        unique=True,
        schema="npllm",
        postgresql_where=sa.text("state IN ('running', 'paused', 'held')"),
    )
    op.create_table(
        "assignments",
        sa.Column("rollout_id", sa.Uuid(), nullable=False),
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.Text(), nullable=False),
        sa.Column("arm", sa.Text(), nullable=False),
        sa.Column("probability", sa.Float(), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("assigned_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("served", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("vote", sa.Float(), nullable=True),
        sa.Column("voted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("vote_message_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint("arm IN ('base', 'champion', 'challenger')", name=op.f("ck_assignments_arm")),
        sa.ForeignKeyConstraint(
            ["customer_id"],
            ["npllm.customers.id"],
            name=op.f("fk_assignments_customer_id_customers"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["npllm.rollouts.id"], name=op.f("fk_assignments_rollout_id_rollouts"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("rollout_id", "customer_id", "epoch", name=op.f("pk_assignments")),
        schema="npllm",
    )
    op.create_index(
        "ix_assignments_votes",
        "assignments",
        ["rollout_id", "voted_at"],
        unique=False,
        schema="npllm",
        postgresql_where=sa.text("vote IS NOT NULL"),
    )
    op.create_table(
        "conversations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("context", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("address", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), server_default="bot", nullable=False),
        sa.Column("language", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_message_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("channel IN ('twilio', 'meta', 'slack', 'web')", name=op.f("ck_conversations_channel")),
        sa.CheckConstraint("state IN ('bot', 'person', 'closed')", name=op.f("ck_conversations_state")),
        sa.ForeignKeyConstraint(["context"], ["npllm.contexts.name"], name=op.f("fk_conversations_context_contexts")),
        sa.ForeignKeyConstraint(
            ["customer_id"],
            ["npllm.customers.id"],
            name=op.f("fk_conversations_customer_id_customers"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversations")),
        schema="npllm",
    )
    op.create_index(
        op.f("ix_conversations_customer_id"), "conversations", ["customer_id"], unique=False, schema="npllm"
    )
    op.create_index(
        op.f("ix_conversations_lane_last_message_at"),
        "conversations",
        ["lane", "last_message_at"],
        unique=False,
        schema="npllm",
    )
    op.create_table(
        "evaluations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=True),
        sa.Column("suite", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("lower", sa.Float(), nullable=True),
        sa.Column("upper", sa.Float(), nullable=True),
        sa.Column("examples", sa.Integer(), nullable=False),
        sa.Column(
            "details", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["npllm.consolidation_runs.id"], name=op.f("fk_evaluations_run_id_consolidation_runs")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["npllm.adapter_versions.id"], name=op.f("fk_evaluations_version_id_adapter_versions")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
        schema="npllm",
    )
    op.create_index(op.f("ix_evaluations_run_id"), "evaluations", ["run_id"], unique=False, schema="npllm")
    op.create_table(
        "identities",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), server_default="", nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "kind IN ('phone', 'wa_id', 'bsuid', 'parent_bsuid', 'username', 'slack_user', 'visitor')",
            name=op.f("ck_identities_kind"),
        ),
        sa.ForeignKeyConstraint(
            ["customer_id"],
            ["npllm.customers.id"],
            name=op.f("fk_identities_customer_id_customers"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identities")),
        sa.UniqueConstraint("kind", "scope", "value", name=op.f("uq_identities_kind_scope_value")),
        schema="npllm",
    )
    op.create_index(op.f("ix_identities_customer_id"), "identities", ["customer_id"], unique=False, schema="npllm")
    op.create_table(
        "knowledge_embeddings",
        sa.Column("knowledge_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("context", sa.Text(), nullable=False),
        sa.Column("embedding", Vector(), nullable=False),
        sa.ForeignKeyConstraint(
            ["knowledge_id"],
            ["npllm.knowledge.id"],
            name=op.f("fk_knowledge_embeddings_knowledge_id_knowledge"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("knowledge_id", "model", name=op.f("pk_knowledge_embeddings")),
        schema="npllm",
    )
    op.create_index(
        op.f("ix_knowledge_embeddings_context_model"),
        "knowledge_embeddings",
        ["context", "model"],
        unique=False,
        schema="npllm",
    )
    op.create_table(
        "rollout_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("rollout_id", sa.Uuid(), nullable=True),
        sa.Column("context", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column(
            "before", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column(
            "after", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "evidence", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["npllm.rollouts.id"], name=op.f("fk_rollout_events_rollout_id_rollouts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollout_events")),
        schema="npllm",
    )
    op.create_index(
        op.f("ix_rollout_events_rollout_id"), "rollout_events", ["rollout_id"], unique=False, schema="npllm"
    )
    op.create_table(
        "messages",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("context", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), server_default="text", nullable=False),
        sa.Column("text", sa.Text(), server_default="", nullable=False),
        sa.Column("provider_message_id", sa.Text(), nullable=True),
        sa.Column("in_reply_to", sa.Uuid(), nullable=True),
        sa.Column("language", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("edited_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("consent", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("purpose", sa.Text(), server_default="support", nullable=False),
        sa.Column("version", sa.Text(), nullable=True),
        sa.Column("adapter_version_id", sa.Uuid(), nullable=True),
        sa.Column("rollout_id", sa.Uuid(), nullable=True),
        sa.Column("arm", sa.Text(), nullable=True),
        sa.Column("assignment_probability", sa.Float(), nullable=True),
        sa.Column(
            "memories", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column(
            "route", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("latency_ms", sa.Float(), nullable=True),
        sa.Column("first_token_ms", sa.Float(), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("cost_usd", sa.Float(), nullable=True),
        sa.CheckConstraint("channel IN ('twilio', 'meta', 'slack', 'web')", name=op.f("ck_messages_channel")),
        sa.CheckConstraint("direction IN ('in', 'out')", name=op.f("ck_messages_direction")),
        sa.CheckConstraint("role IN ('customer', 'bot', 'person')", name=op.f("ck_messages_role")),
        sa.ForeignKeyConstraint(
            ["adapter_version_id"],
            ["npllm.adapter_versions.id"],
            name=op.f("fk_messages_adapter_version_id_adapter_versions"),
        ),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["npllm.conversations.id"],
            name=op.f("fk_messages_conversation_id_conversations"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["npllm.customers.id"], name=op.f("fk_messages_customer_id_customers"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messages")),
        schema="npllm",
        postgresql_partition_by="RANGE (id)",
    )
    op.create_index(
        op.f("ix_messages_channel_provider_message_id"),
        "messages",
        ["channel", "provider_message_id"],
        unique=False,
        schema="npllm",
    )
    op.create_index(
        op.f("ix_messages_context_created_at"), "messages", ["context", "created_at"], unique=False, schema="npllm"
    )
    op.create_index(op.f("ix_messages_conversation_id"), "messages", ["conversation_id"], unique=False, schema="npllm")
    op.create_index(op.f("ix_messages_customer_id"), "messages", ["customer_id"], unique=False, schema="npllm")
    op.create_index(op.f("ix_messages_in_reply_to"), "messages", ["in_reply_to"], unique=False, schema="npllm")
    op.create_table(
        "annotation_items",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("context", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("priority", sa.Float(), server_default=sa.text("0"), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column(
            "passages", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column(
            "history", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column("version", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), server_default="open", nullable=False),
        sa.Column("claimed_by", sa.Text(), nullable=True),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('open', 'claimed', 'done')", name=op.f("ck_annotation_items_state")),
        sa.ForeignKeyConstraint(
            ["context"], ["npllm.contexts.name"], name=op.f("fk_annotation_items_context_contexts")
        ),
        sa.ForeignKeyConstraint(
            ["message_id"],
            ["npllm.messages.id"],
            name=op.f("fk_annotation_items_message_id_messages"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_annotation_items")),
        sa.UniqueConstraint("message_id", name=op.f("uq_annotation_items_message_id")),
        schema="npllm",
    )
    op.create_index(
        "ix_annotation_items_open",
        "annotation_items",
        [sa.literal_column("priority DESC"), "id"],
        unique=False,
        schema="npllm",
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_table(
        "examples",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("context", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Uuid(), nullable=True),
        sa.Column("message_id", sa.Uuid(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("messages", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("reward", sa.Float(), server_default=sa.text("1"), nullable=False),
        sa.Column("topic", sa.Text(), nullable=True),
        sa.Column("language", sa.Text(), nullable=True),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("replayed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("dropped", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("source IN ('annotation', 'feedback', 'starter')", name=op.f("ck_examples_source")),
        sa.CheckConstraint("split IN ('train', 'holdout')", name=op.f("ck_examples_split")),
        sa.ForeignKeyConstraint(["context"], ["npllm.contexts.name"], name=op.f("fk_examples_context_contexts")),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["npllm.customers.id"], name=op.f("fk_examples_customer_id_customers"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["message_id"], ["npllm.messages.id"], name=op.f("fk_examples_message_id_messages"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["npllm.consolidation_runs.id"], name=op.f("fk_examples_run_id_consolidation_runs")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_examples")),
        sa.UniqueConstraint("context", "sha256", name=op.f("uq_examples_context_sha256")),
        schema="npllm",
    )
    op.create_index(op.f("ix_examples_context_run_id"), "examples", ["context", "run_id"], unique=False, schema="npllm")
    op.create_index(op.f("ix_examples_customer_id"), "examples", ["customer_id"], unique=False, schema="npllm")
    op.create_table(
        "feedback",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=True),
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("signal", sa.Text(), nullable=False),
        sa.Column("op", sa.Text(), nullable=False),
        sa.Column("raw", sa.Text(), nullable=False),
        sa.Column("polarity", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("confidence", sa.Float(), server_default=sa.text("1"), nullable=False),
        sa.Column("given_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("superseded_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("op IN ('add', 'replace', 'remove')", name=op.f("ck_feedback_op")),
        sa.CheckConstraint("polarity IN ('positive', 'negative', 'neutral')", name=op.f("ck_feedback_polarity")),
        sa.CheckConstraint(
            "signal IN ('reaction', 'button', 'stars', 'comment', 'flag', 'keyword')", name=op.f("ck_feedback_signal")
        ),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["npllm.customers.id"], name=op.f("fk_feedback_customer_id_customers"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["message_id"], ["npllm.messages.id"], name=op.f("fk_feedback_message_id_messages"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feedback")),
        schema="npllm",
    )
    op.create_index(op.f("ix_feedback_message_id"), "feedback", ["message_id"], unique=False, schema="npllm")
    op.create_index(
        "ix_feedback_orphans",
        "feedback",
        ["channel", "target"],
        unique=False,
        schema="npllm",
        postgresql_where=sa.text("message_id IS NULL"),
    )
    op.create_index(
        "uq_feedback_current",
        "feedback",
        ["message_id", "customer_id"],
        unique=True,
        schema="npllm",
        postgresql_where=sa.text("superseded_at IS NULL AND message_id IS NOT NULL"),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("in_reply_to", sa.Uuid(), nullable=True),
        sa.Column("kind", sa.Text(), server_default="answer", nullable=False),
        sa.Column("part", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("parts", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("provider_message_id", sa.Text(), nullable=True),
        sa.Column("delivery", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'sending', 'sent', 'unknown', 'failed')", name=op.f("ck_outbox_state")
        ),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["npllm.conversations.id"],
            name=op.f("fk_outbox_conversation_id_conversations"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["message_id"], ["npllm.messages.id"], name=op.f("fk_outbox_message_id_messages"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sa.UniqueConstraint("in_reply_to", "kind", "part", name=op.f("uq_outbox_in_reply_to_kind_part")),
        schema="npllm",
    )
    op.create_index(
        op.f("ix_outbox_channel_provider_message_id"),
        "outbox",
        ["channel", "provider_message_id"],
        unique=True,
        schema="npllm",
    )
    op.create_index(op.f("ix_outbox_message_id"), "outbox", ["message_id"], unique=False, schema="npllm")
    op.create_index(
        "ix_outbox_waiting",
        "outbox",
        ["lane", "id"],
        unique=False,
        schema="npllm",
        postgresql_where=sa.text("state IN ('pending', 'sending', 'unknown')"),
    )
    op.create_table(
        "annotations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("corrected", sa.Text(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("verdict IN ('approve', 'correct', 'reject')", name=op.f("ck_annotations_verdict")),
        sa.ForeignKeyConstraint(
            ["item_id"],
            ["npllm.annotation_items.id"],
            name=op.f("fk_annotations_item_id_annotation_items"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_annotations")),
        sa.UniqueConstraint("item_id", "reviewer", name=op.f("uq_annotations_item_id_reviewer")),
        schema="npllm",
    )

    for table in ("messages", "events"):
        # A row whose month has no partition yet is kept, not refused.
        op.execute(f"CREATE TABLE {SCHEMA}.{table}_default PARTITION OF {SCHEMA}.{table} DEFAULT")
    _contexts()
    _close_to_the_internet()


def downgrade() -> None:
    op.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


def _pgvector() -> None:
    """Take pgvector where it lies; else put it where Supabase puts it. Found by this migration's search_path."""
    found = (
        "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'vector'"
    )
    schema = op.get_bind().execute(sa.text(found)).scalar()
    if schema is None:
        op.execute("CREATE SCHEMA IF NOT EXISTS extensions")
        op.execute("CREATE EXTENSION vector WITH SCHEMA extensions")
        schema = "extensions"
    op.execute(f'SET LOCAL search_path TO {SCHEMA}, "{schema}", public')


def _contexts() -> None:
    contexts = sa.table("contexts", sa.column("name"), sa.column("preset"), schema=SCHEMA)
    op.bulk_insert(
        contexts, [{"name": "customers", "preset": "support"}, {"name": "employees", "preset": "company-chat"}]
    )


def _close_to_the_internet() -> None:
    """Supabase serves tables without row-level security over REST; Alembic's own table is one of them."""
    connection = op.get_bind()
    op.execute(f"REVOKE ALL ON SCHEMA {SCHEMA} FROM PUBLIC")
    tables = connection.execute(
        sa.text(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = :schema AND c.relkind IN ('r', 'p')"
        ),
        {"schema": SCHEMA},
    )
    for (table,) in tables.fetchall():
        protect(connection, table)
