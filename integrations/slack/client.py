"""What we send to Slack: one message per outbox row, and a look-up by its metadata where the outcome is unknown.

https://docs.slack.dev/reference/methods/chat.postMessage
"""

import http.client
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.error import URLError

from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web import SlackResponse, WebClient

from core.errors import Unavailable, VendorUnavailable
from core.messages import Outgoing
from core.untrusted import as_dict, as_dicts, as_text, retry_after

MAX_TEXT = 11_000  # a markdown block takes 12,000 characters; all blocks together about 13,200
TIMEOUT = 10  # seconds
TRANSIENT = frozenset({"internal_error", "service_unavailable", "request_timeout", "fatal_error", "ratelimited"})
# Of these Slack says that part of the operation may have succeeded.
PERHAPS_DONE = frozenset({"internal_error", "fatal_error"})
_HINTS = {
    "invalid_auth": "Check SLACK_BOT_TOKEN.",
    "not_in_channel": "Invite the bot into the channel.",
    "missing_scope": "Add the scope that docs/channels.md names for this, and install the app again.",
}
_UNREADABLE = "non-JSON"  # in the error that slack_sdk makes up for a body that is no JSON
_MENTION = re.compile(r"<(?=[!@#])")


class SlackClient:
    """Posts as the app's bot user.

    Args:
        timeout: seconds to wait for an answer.
    """

    max_text = MAX_TEXT
    supports_lookup = True

    def __init__(self, *, bot_token: str, base_url: str, timeout: float = TIMEOUT) -> None:
        self.client = WebClient(token=bot_token, base_url=base_url.rstrip("/") + "/")
        self.client.timeout = timeout  # type: ignore[assignment]  # urllib takes fractions, the annotation does not
        self.client.retry_handlers.clear()  # the outbox decides when to try again, not a sleep in here

    def send(self, outgoing: Outgoing) -> str:
        """Post one part; returns CHANNEL:TS.

        Raises:
            VendorUnavailable: try again later; `outcome_unknown` says that it may have been posted.
            Unavailable: Slack refused it for good; the message names its error.
        """
        answer = _call(
            self.client.chat_postMessage,
            channel=outgoing.address["channel"],
            thread_ts=outgoing.address.get("thread_ts"),
            text=_escaped(outgoing.text),
            blocks=_blocks(outgoing),
            metadata={"event_type": "npllm_message", "event_payload": {"id": outgoing.our_id}},
            unfurl_links=False,
        )
        channel, ts = as_text(answer.get("channel")), as_text(answer.get("ts"))
        if not channel or not ts:
            raise VendorUnavailable("Slack's answer cannot be read.", outcome_unknown=True)
        return f"{channel}:{ts}"

    def lookup(self, outgoing: Outgoing, since: datetime) -> str | None:
        """The id of a message that carries our id already; None if there is none.

        Raises:
            VendorUnavailable: Slack cannot say now.
            Unavailable: Slack refused to say (a scope is missing).
        """
        channel, thread = outgoing.address["channel"], outgoing.address.get("thread_ts")
        arguments: dict[str, Any] = {
            "channel": channel, "oldest": f"{since.timestamp():.6f}", "limit": 100, "include_all_metadata": True,
        }  # fmt: skip
        if thread:
            answer = _call(self.client.conversations_replies, ts=thread, **arguments)
        else:
            answer = _call(self.client.conversations_history, **arguments)
        for message in as_dicts(answer.get("messages")):
            if as_dict(as_dict(message.get("metadata")).get("event_payload")).get("id") == outgoing.our_id:
                return f"{channel}:{message.get('ts')}"
        return None


def _call(method: Callable[..., SlackResponse], **arguments: Any) -> SlackResponse:
    """One request, its failures as ours."""
    try:
        return method(**arguments)
    except SlackApiError as error:
        raise _refused(error) from error
    except (TimeoutError, http.client.HTTPException, ConnectionResetError, BrokenPipeError) as error:
        raise VendorUnavailable("Slack took the request and did not answer.", outcome_unknown=True) from error
    except (URLError, OSError) as error:
        timed_out = "timed out" in str(error)
        raise VendorUnavailable("Slack does not answer.", outcome_unknown=timed_out) from error
    except (SlackClientError, AttributeError, ValueError) as error:  # JSON, but no object
        raise VendorUnavailable("Slack's answer cannot be read.", outcome_unknown=True) from error


def _refused(error: SlackApiError) -> Unavailable:
    response: Any = error.response
    status, reason = int(response.status_code), as_text(as_dict(response.data).get("error"))
    unreadable = status == 200 and (not reason or _UNREADABLE in reason)
    if status == 429 or status >= 500 or reason in TRANSIENT or unreadable:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return VendorUnavailable(
            f"Slack answered {status} ({reason[:100]}).",
            retry_after=retry_after(headers.get("retry-after")),
            outcome_unknown=unreadable or reason in PERHAPS_DONE or status == 504,
        )
    return Unavailable(f"Slack refused: {reason[:100]}.", _HINTS.get(reason, "See Slack's page on this error."))


def _blocks(outgoing: Outgoing) -> list[dict[str, Any]]:
    # The block has Markdown of its own, so that only what could call people is escaped.
    blocks: list[dict[str, Any]] = [{"type": "markdown", "text": _MENTION.sub("&lt;", outgoing.text)}]
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


def _escaped(text: str) -> str:
    """Plain text for notifications: nothing in an answer may mention or broadcast."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
