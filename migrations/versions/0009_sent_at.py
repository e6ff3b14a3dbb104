"""When a person wrote, by the vendor's clock: WhatsApp's window counts from then.

Revision: 0009, after 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SCHEMA = "npllm"


def upgrade() -> None:
    op.add_column("messages", sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True), schema=SCHEMA)


def downgrade() -> None:
    op.drop_column("messages", "sent_at", schema=SCHEMA)
