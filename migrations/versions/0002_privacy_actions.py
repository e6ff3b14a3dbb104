"""The proof of exports and erasures.

Revision: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from core.partitions import protect

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "privacy_actions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("contexts", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column(
            "counts", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("versions", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.CheckConstraint("verb IN ('export', 'erase')", name=op.f("ck_privacy_actions_verb")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_privacy_actions")),
        schema="npllm",
    )
    protect(op.get_bind(), "privacy_actions")


def downgrade() -> None:
    op.drop_table("privacy_actions", schema="npllm")
