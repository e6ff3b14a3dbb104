"""/slack/install: an operator installs the app in a workspace.

One deployment serves one business, and what its employees may read must not be read elsewhere: only who is logged in
as an operator begins an installation, and Slack's answer counts only for one that was begun here.
"""

import logging

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy import Engine

from bot.hooks import closed
from bot.login import Login
from core.errors import NpllmError, Unavailable
from core.settings import Settings

log = logging.getLogger(__name__)

INSTALL, REDIRECT = "/slack/install", "/slack/oauth_redirect"
SCOPES = [
    "app_mentions:read", "channels:history", "chat:write", "commands", "groups:history", "im:history",
    "reactions:read",
]  # fmt: skip


def install_pages(settings: Settings, engine: Engine, login: Login) -> APIRouter:
    """The two addresses of bolt's OAuth flow."""
    router = APIRouter(include_in_schema=False)
    if not settings.slack_installable or not settings.public_base_url:

        @router.get(INSTALL)
        @router.get(REDIRECT)
        def not_set_up() -> Response:
            raise closed("Slack installation", "SLACK_CLIENT_ID, SLACK_CLIENT_SECRET and PUBLIC_BASE_URL")

        return router

    from slack_bolt.adapter.starlette.async_handler import to_async_bolt_request, to_starlette_response
    from slack_bolt.oauth.async_oauth_flow import AsyncOAuthFlow
    from slack_bolt.oauth.async_oauth_settings import AsyncOAuthSettings
    from slack_sdk.web.async_client import AsyncWebClient

    from integrations.slack.installations import Installations, States

    assert settings.slack_client_secret
    secret = settings.slack_client_secret.get_secret_value()
    flow = AsyncOAuthFlow(
        client=AsyncWebClient(base_url=settings.slack_api_base_url.rstrip("/") + "/"),
        settings=AsyncOAuthSettings(
            client_id=settings.slack_client_id,
            client_secret=secret,
            scopes=SCOPES,
            redirect_uri=f"{settings.public_base_url}{REDIRECT}",
            install_path=INSTALL,
            redirect_uri_path=REDIRECT,
            install_page_rendering_enabled=False,
            installation_store=Installations(engine, secret=secret),
            state_store=States(engine),
        ),
    )

    @router.get(INSTALL)
    async def begin(request: Request) -> Response:
        login.require(request)
        return to_starlette_response(await flow.handle_installation(to_async_bolt_request(request, b"")))

    @router.get(REDIRECT)
    async def end(request: Request) -> Response:
        try:
            return to_starlette_response(await flow.handle_callback(to_async_bolt_request(request, b"")))
        except NpllmError:
            raise
        except Exception as error:  # Slack did not answer, or nothing that can be read
            log.warning("An installation failed: %s", type(error).__name__)
            raise Unavailable("Slack did not finish the installation.", f"Begin again at {INSTALL}.") from error

    return router
