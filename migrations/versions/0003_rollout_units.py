"""Units of rollouts: what was drawn and what was rated, each with its own facts; audiences; the holdback's arm.

Revision: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SCHEMA = "npllm"


def upgrade() -> None:
    for name in ("slow", "unsafe"):
        op.add_column(
            "assignments", sa.Column(name, sa.Integer(), server_default=sa.text("0"), nullable=False), schema=SCHEMA
        )
    op.add_column(
        "assignments", sa.Column("holdback", sa.Float(), server_default=sa.text("0"), nullable=False), schema=SCHEMA
    )
    op.add_column(
        "assignments", sa.Column("solicited", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        schema=SCHEMA,
    )  # fmt: skip
    op.add_column("assignments", sa.Column("vote_arm", sa.Text(), nullable=True), schema=SCHEMA)
    op.add_column("assignments", sa.Column("vote_probability", sa.Float(), nullable=True), schema=SCHEMA)
    op.add_column("assignments", sa.Column("vote_stage", sa.Integer(), nullable=True), schema=SCHEMA)
    op.execute(
        f"UPDATE {SCHEMA}.assignments SET vote_arm = arm, vote_probability = probability, vote_stage = stage"
        " WHERE vote IS NOT NULL"
    )
    op.drop_constraint(op.f("ck_assignments_arm"), "assignments", schema=SCHEMA, type_="check")
    op.create_check_constraint(
        op.f("ck_assignments_arm"), "assignments", "arm IN ('base', 'champion', 'challenger', 'holdback')",
        schema=SCHEMA,
    )  # fmt: skip
    op.add_column("rollouts", sa.Column("slow_ms", sa.Float(), nullable=True), schema=SCHEMA)
    op.add_column(
        "rollouts", sa.Column("failed_in_a_row", sa.Integer(), server_default=sa.text("0"), nullable=False),
        schema=SCHEMA,
    )  # fmt: skip
    op.add_column("customers", sa.Column("audience", sa.Text(), server_default="all", nullable=False), schema=SCHEMA)
    op.create_check_constraint(
        op.f("ck_customers_audience"), "customers", "audience IN ('internal', 'beta', 'all')", schema=SCHEMA
    )


def downgrade() -> None:
    op.drop_constraint(op.f("ck_customers_audience"), "customers", schema=SCHEMA, type_="check")
    op.drop_column("customers", "audience", schema=SCHEMA)
    op.drop_column("rollouts", "failed_in_a_row", schema=SCHEMA)
    op.drop_column("rollouts", "slow_ms", schema=SCHEMA)
    op.execute(f"DELETE FROM {SCHEMA}.assignments WHERE arm = 'holdback'")
    op.drop_constraint(op.f("ck_assignments_arm"), "assignments", schema=SCHEMA, type_="check")
    op.create_check_constraint(
        op.f("ck_assignments_arm"), "assignments", "arm IN ('base', 'champion', 'challenger')", schema=SCHEMA
    )
    for name in ("vote_stage", "vote_probability", "vote_arm", "solicited", "holdback", "unsafe", "slow"):
        op.drop_column("assignments", name, schema=SCHEMA)
