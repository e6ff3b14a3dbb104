"""Workspaces that installed the app: their bot tokens in Postgres, encrypted with a key made from the client secret.

Bolt's OAuth flow saves here; whoever sends asks for a workspace's token.
https://docs.slack.dev/authentication/installing-with-oauth/
"""

import asyncio
import base64
import hashlib
import secrets
from datetime import UTC, datetime, timedelta

from cryptography.fernet import Fernet, InvalidToken
from slack_sdk.oauth.installation_store import Installation
from slack_sdk.oauth.installation_store.async_installation_store import AsyncInstallationStore
from slack_sdk.oauth.state_store.async_state_store import AsyncOAuthStateStore
from sqlalchemy import Engine, delete, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.db import transaction
from core.errors import BadInput, Unavailable
from core.tables import SlackInstallation, SlackState

STATE_LASTS = timedelta(minutes=10)


class Installations(AsyncInstallationStore):
    """One row a workspace (or organisation); installed again, it is open again.

    Args:
        secret: the app's client secret.
        default: the token of a workspace that never went through the OAuth flow (SLACK_BOT_TOKEN).
    """

    def __init__(self, engine: Engine, *, secret: str, default: str | None = None) -> None:
        self.engine = engine
        self.default = default
        key = hashlib.scrypt(secret.encode(), salt=b"npllm slack installations", n=2**14, r=8, p=1, dklen=32)
        self._cipher = Fernet(base64.urlsafe_b64encode(key))

    async def async_save(self, installation: Installation) -> None:
        await asyncio.to_thread(self.save, installation)

    def save(self, installation: Installation) -> None:
        """Raises:
        BadInput: Slack named no workspace, or gave no bot token.
        """
        whole = installation.is_enterprise_install
        team = installation.enterprise_id if whole else installation.team_id
        if not team or not installation.bot_token:
            raise BadInput("Slack gave no bot token.", "Does the app ask for bot scopes? See docs/channels.md.")
        values = {
            "name": installation.enterprise_name if whole else installation.team_name,
            "bot_user": installation.bot_user_id,
            "scopes": list(installation.bot_scopes or []),
            "token": self._cipher.encrypt(installation.bot_token.encode()).decode(),
            "installed_by": installation.user_id,
            "installed_at": datetime.now(UTC),
            "removed_at": None,
        }
        with transaction(self.engine) as session:
            added = insert(SlackInstallation).values(team=team, **values)
            session.execute(added.on_conflict_do_update(index_elements=["team"], set_=values))

    def token(self, team: str) -> str:
        """A workspace's bot token.

        Raises:
            Unavailable: it has none, or cannot be read any more; the message says which.
        """
        with transaction(self.engine) as session:
            row = session.get(SlackInstallation, team)
        if row is None and self.default:
            return self.default
        if row is None or not row.token:
            what = "never installed the app" if row is None else "removed the app"
            raise Unavailable(
                f"Workspace {team} {what}.", "An operator can install it: /slack/install.",
                action="alert" if row is None else "permanent",  # a removal was told when it came
            )  # fmt: skip
        try:
            return self._cipher.decrypt(row.token.encode()).decode()
        except InvalidToken:
            raise Unavailable(
                f"The token of workspace {team} cannot be read: SLACK_CLIENT_SECRET changed.",
                "Install the app again.",
                action="alert",
            ) from None


def remove(session: Session, team: str, at: datetime | None) -> bool:
    """Forget a workspace's token, unless it installed the app again since `at`; says whether there was one."""
    removed = update(SlackInstallation).where(
        SlackInstallation.team == team, SlackInstallation.removed_at.is_(None),
        SlackInstallation.installed_at <= (at or datetime.now(UTC)),
    )  # fmt: skip
    done = session.execute(removed.values(token=None, removed_at=datetime.now(UTC)))
    return int(done.rowcount) > 0  # type: ignore[attr-defined]


class States(AsyncOAuthStateStore):
    """What ties Slack's answer to the installation that an operator began; each counts once."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def async_issue(self, *args: object, **kwargs: object) -> str:
        return await asyncio.to_thread(self.issue)

    async def async_consume(self, state: str) -> bool:
        return await asyncio.to_thread(self.consume, state)

    def issue(self) -> str:
        state, now = secrets.token_urlsafe(32), datetime.now(UTC)
        with transaction(self.engine) as session:
            session.execute(delete(SlackState).where(SlackState.expires_at < now))
            session.add(SlackState(state=state, expires_at=now + STATE_LASTS))
        return state

    def consume(self, state: str) -> bool:
        with transaction(self.engine) as session:
            known = delete(SlackState).where(SlackState.state == state, SlackState.expires_at >= datetime.now(UTC))
            return int(session.execute(known).rowcount) == 1  # type: ignore[attr-defined]
