"""Channels that may not send now; what was sent to one person, by time; who wants no templates.

Revision: 0008, after 0007
"""

import sqlalchemy as sa
from alembic import op

from core.partitions import protect

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SCHEMA = "npllm"


def upgrade() -> None:
    op.create_table(
        "channel_pauses",
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.CheckConstraint("channel IN ('twilio', 'meta', 'slack', 'web')", name=op.f("ck_channel_pauses_channel")),
        sa.PrimaryKeyConstraint("channel", name=op.f("pk_channel_pauses")),
        schema=SCHEMA,
    )
    op.add_column("customers", sa.Column("no_templates_at", sa.DateTime(timezone=True), nullable=True), schema=SCHEMA)
    op.create_index(op.f("ix_outbox_lane_sent_at"), "outbox", ["lane", "sent_at"], schema=SCHEMA)
    protect(op.get_bind(), "channel_pauses")


def downgrade() -> None:
    op.drop_column("customers", "no_templates_at", schema=SCHEMA)
    op.drop_index(op.f("ix_outbox_lane_sent_at"), table_name="outbox", schema=SCHEMA)
    op.drop_table("channel_pauses", schema=SCHEMA)
