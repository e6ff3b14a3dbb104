"""Alerts as an outbox, a line of one for rollouts, frozen contexts, and what came of conversations.

Revision: 0004
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from core.partitions import protect

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SCHEMA = "npllm"
STATES = "'running', 'paused', 'held', 'promoted', 'rolled_back', 'aborted'"


def upgrade() -> None:
    op.add_column("contexts", sa.Column("frozen_reason", sa.Text(), nullable=True), schema=SCHEMA)
    op.add_column("contexts", sa.Column("watched_since", sa.DateTime(timezone=True), nullable=True), schema=SCHEMA)
    op.drop_constraint(op.f("ck_rollouts_state"), "rollouts", schema=SCHEMA, type_="check")
    op.create_check_constraint(
        op.f("ck_rollouts_state"), "rollouts", f"state IN ('waiting', 'superseded', {STATES})", schema=SCHEMA
    )
    op.create_index(
        "uq_rollouts_waiting", "rollouts", ["context"], unique=True, schema=SCHEMA,
        postgresql_where=sa.text("state = 'waiting'"),
    )  # fmt: skip
    now = sa.text("now()")
    op.create_table(
        "alerts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        sa.Column("done", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_alerts_due", "alerts", ["not_before"], schema=SCHEMA, postgresql_where=sa.text("settled_at IS NULL")
    )
    op.create_table(
        "outcomes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("context", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(), server_default=sa.text("1"), nullable=False),
        sa.Column("version", sa.Text(), nullable=True),
        sa.Column("rollout_id", sa.Uuid(), nullable=True),
        sa.Column("arm", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["npllm.conversations.id"], name=op.f("fk_outcomes_conversation_id_conversations"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outcomes")),
        sa.UniqueConstraint("conversation_id", "kind", name=op.f("uq_outcomes_conversation_id_kind")),
        schema=SCHEMA,
    )  # fmt: skip
    op.create_index(op.f("ix_outcomes_context_at"), "outcomes", ["context", "at"], schema=SCHEMA)
    for table in ("alerts", "outcomes"):
        protect(op.get_bind(), table)


def downgrade() -> None:
    for table in ("outcomes", "alerts"):
        op.drop_table(table, schema=SCHEMA)
    op.drop_index("uq_rollouts_waiting", "rollouts", schema=SCHEMA)
    op.execute(f"DELETE FROM {SCHEMA}.rollout_events WHERE rollout_id IN (SELECT id FROM {SCHEMA}.rollouts"
               " WHERE state IN ('waiting', 'superseded'))")  # fmt: skip
    op.execute(f"DELETE FROM {SCHEMA}.rollouts WHERE state IN ('waiting', 'superseded')")
    op.drop_constraint(op.f("ck_rollouts_state"), "rollouts", schema=SCHEMA, type_="check")
    op.create_check_constraint(op.f("ck_rollouts_state"), "rollouts", f"state IN ({STATES})", schema=SCHEMA)
    for column in ("watched_since", "frozen_reason"):
        op.drop_column("contexts", column, schema=SCHEMA)
