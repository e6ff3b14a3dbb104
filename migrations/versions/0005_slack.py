"""Where the Slack app is installed, installations that were begun, review cards.

Revision: 0005
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from core.partitions import protect

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "slack_installations",
        sa.Column("team", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("bot_user", sa.Text(), nullable=True),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("token", sa.Text(), nullable=True),
        sa.Column("installed_by", sa.Text(), nullable=True),
        sa.Column("installed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("team", name=op.f("pk_slack_installations")),
        schema="npllm",
    )
    op.create_table(
        "slack_states",
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("state", name=op.f("pk_slack_states")),
        schema="npllm",
    )
    op.create_table(
        "review_cards",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("item_id", sa.Uuid(), nullable=True),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("ts", sa.Text(), nullable=True),
        sa.Column("shown", sa.Text(), server_default="new", nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "shown IN ('new', 'sending', 'open', 'done', 'failed', 'gone')", name=op.f("ck_review_cards_shown")
        ),
        sa.ForeignKeyConstraint(
            ["item_id"],
            ["npllm.annotation_items.id"],
            name=op.f("fk_review_cards_item_id_annotation_items"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_review_cards")),
        sa.UniqueConstraint("item_id", name=op.f("uq_review_cards_item_id")),
        schema="npllm",
    )
    for table in ("slack_installations", "slack_states", "review_cards"):
        protect(op.get_bind(), table)


def downgrade() -> None:
    for table in ("review_cards", "slack_states", "slack_installations"):
        op.drop_table(table, schema="npllm")
