"""What we send to Slack: one message per outbox row, and a look-up by its metadata where the outcome is unknown.

https://docs.slack.dev/reference/methods/chat.postMessage
"""

import http.client
from datetime import datetime
from typing import Any
from urllib.error import URLError

from slack_sdk.errors import SlackApiError
from slack_sdk.web import WebClient

from core.errors import Unavailable, VendorUnavailable
from core.messages import Outgoing

MAX_TEXT = 11_000  # a markdown block takes 12,000 characters; all blocks together about 13,200
TIMEOUT = 10
TRANSIENT = frozenset({"internal_error", "service_unavailable", "request_timeout", "fatal_error", "ratelimited"})


class SlackClient:
    """Posts as the app's bot user."""

    max_text = MAX_TEXT
    supports_lookup = True

    def __init__(self, *, bot_token: str, base_url: str) -> None:
        self.client = WebClient(token=bot_token, base_url=base_url.rstrip("/") + "/", timeout=TIMEOUT)
        self.client.retry_handlers.clear()  # the outbox decides when to try again, not a sleep in here

    def send(self, outgoing: Outgoing) -> str:
        """Post one part; returns CHANNEL:TS.

        Raises:
            VendorUnavailable: try again later; `outcome_unknown` says that it may have been posted.
            Unavailable: Slack refused it for good; the message names its error.
        """
        try:
            answer = self.client.chat_postMessage(
                channel=outgoing.address["channel"],
                thread_ts=outgoing.address.get("thread_ts"),
                text=_escaped(outgoing.text),
                blocks=_blocks(outgoing),
                metadata={"event_type": "npllm_message", "event_payload": {"id": outgoing.our_id}},
                unfurl_links=False,
            )
        except SlackApiError as error:
            raise _refused(error) from error
        except (TimeoutError, http.client.HTTPException, ConnectionResetError) as error:
            raise VendorUnavailable("Slack took the message and did not say so.", outcome_unknown=True) from error
        except (URLError, OSError) as error:
            timed_out = "timed out" in str(error)
            raise VendorUnavailable("Slack does not answer.", outcome_unknown=timed_out) from error
        return f"{answer['channel']}:{answer['ts']}"

    def lookup(self, outgoing: Outgoing, since: datetime) -> str | None:
        """The id of a message that carries our id already; None if there is none."""
        channel, thread = outgoing.address["channel"], outgoing.address.get("thread_ts")
        arguments: dict[str, Any] = {
            "channel": channel, "oldest": f"{since.timestamp():.6f}", "limit": 100, "include_all_metadata": True,
        }  # fmt: skip
        if thread:
            answer = self.client.conversations_replies(ts=thread, **arguments)
        else:
            answer = self.client.conversations_history(**arguments)
        for message in answer.get("messages") or []:
            payload = (message.get("metadata") or {}).get("event_payload") or {}
            if payload.get("id") == outgoing.our_id:
                return f"{channel}:{message['ts']}"
        return None


def _blocks(outgoing: Outgoing) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = [{"type": "markdown", "text": outgoing.text}]
    if len(outgoing.buttons) == 2:
        (up, up_title), (down, down_title) = outgoing.buttons
        feedback = {
            "type": "feedback_buttons",
            "action_id": "feedback",
            "positive_button": {"text": {"type": "plain_text", "text": up_title}, "value": up},
            "negative_button": {"text": {"type": "plain_text", "text": down_title}, "value": down},
        }
        blocks.append({"type": "context_actions", "block_id": f"feedback-{outgoing.our_id}", "elements": [feedback]})
    return blocks


def _refused(error: SlackApiError) -> Unavailable:
    response = error.response
    reason = str(response.get("error", "")) if hasattr(response, "get") else ""
    status = getattr(response, "status_code", 0)
    if status == 429 or status >= 500 or reason in TRANSIENT:
        wait = str(getattr(response, "headers", {}).get("Retry-After", ""))
        return VendorUnavailable(
            f"Slack answered {status} ({reason}).", retry_after=float(wait) if wait.isdigit() else None
        )
    hints = {"invalid_auth": "Check SLACK_BOT_TOKEN.", "not_in_channel": "Invite the bot into the channel."}
    return Unavailable(f"Slack refused the message: {reason}.", hints.get(reason, "See Slack's page on this error."))


def _escaped(text: str) -> str:
    """Plain text for notifications: nothing in an answer may mention or broadcast."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
