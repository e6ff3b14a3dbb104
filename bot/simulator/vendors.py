"""The fake vendors: Twilio's Messages, Content and media, Meta's Graph messages and media, and Slack's Web API, on
loopback.

They accept what the real ones accept, answer as they do, send delivery reports back to our own webhooks, and
misbehave on demand:

    GET  /_sent?since=N     everything accepted so far, as {"n", "vendor", "to", "text", "id", "ours", ...}
    GET  /_calls            what else was asked of Slack, as {"method", ...its arguments}, notes to one person too
    GET  /_typing           who was shown that an answer is on its way, as {"vendor", "message"}
    POST /_media            {"id", "type", "base64"}: what the media of that id is (else a small picture)
    POST /_received         {"MessageSid", "From", "To", "Body", "at"}: what Twilio took and no webhook told
    POST /_faults           {"vendor", "times", "kind", ...}; see bot/simulator/desk.py
"""

import contextlib
from collections.abc import AsyncIterator

import httpx
from fastapi import FastAPI

from bot.simulator import meta, twilio
from bot.simulator.desk import Desk, gone
from bot.simulator.slack_api import FakeSlack, add_slack
from core.settings import Settings


def create_vendors(settings: Settings) -> FastAPI:
    """The application; `settings` tell it which secrets to sign delivery reports with."""
    desk = Desk(settings)
    sent, calls, fault, misbehave = desk.sent, desk.calls, desk.fault, desk.misbehave

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=10.0) as client:
            app.state.client = client
            yield

    app = FastAPI(title="fake vendors", lifespan=lifespan)
    app.state.sent, app.state.calls = sent, calls
    app.include_router(desk.routes())
    app.include_router(twilio.routes(desk))
    app.include_router(meta.routes(desk))
    app.state.slack = FakeSlack(sent, sent.take, calls)
    add_slack(app, app.state.slack, fault, misbehave, gone)
    return app
