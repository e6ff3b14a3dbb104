"""What we send to Slack: one message per outbox row, and a look-up by its metadata where the outcome is unknown.

https://docs.slack.dev/reference/methods/chat.postMessage
"""

import http.client
import logging
import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar
from urllib.error import URLError
from urllib.parse import urlsplit

from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web import WebClient
from slack_sdk.webhook import WebhookClient

from core.errors import NpllmError, Unavailable, VendorUnavailable
from core.messages import Limits, Outgoing, read_feedback_button
from core.untrusted import as_dict, as_dicts, as_text, retry_after
from integrations.slack.errors import HINTS, PERHAPS_DONE, action_of

log = logging.getLogger(__name__)

MAX_TEXT = 11_000  # a markdown block takes 12,000 characters; all blocks together about 13,200
TIMEOUT, QUICK = 10, 3  # seconds
RATHER_NOT, REFUSED_FOR = 60.0, 3600.0  # seconds without a nicety that failed, or that Slack does not allow here
TOO_MUCH_FOR_BLOCKS = ("msg_blocks_too_long", "invalid_blocks")  # then the plain text has to do
MAX_PAGES = 5  # of 100 messages, for a look-up
RESPONSE_HOST = "hooks.slack.com"  # where answers to clicks and commands go
_UNREADABLE = "non-JSON"  # in the error that slack_sdk makes up for a body that is no JSON
_MENTION = re.compile(r"<(?=[!@#])")
T = TypeVar("T")


class SlackClient:
    """Speaks as the app's bot user, in the workspace that an address names.

    Args:
        token: a workspace's bot token by its team id; raises what there is to say where it has none.
        several: whether there may be several workspaces.
        timeout: seconds to wait for an answer.
    """

    max_text = MAX_TEXT
    supports_lookup = True
    limits = Limits()

    def __init__(
        self, *, token: Callable[[str], str], base_url: str, several: bool = False, timeout: float = TIMEOUT
    ) -> None:
        self.client, self.quick = _web_client(base_url, timeout), _web_client(base_url, min(timeout, QUICK))
        self._refused: dict[tuple[str, str | None], float] = {}
        self._token, self._several = token, several
        self._host = urlsplit(base_url).hostname

    def send(self, outgoing: Outgoing) -> str:
        """Post one part; returns CHANNEL:TS.

        Raises:
            VendorUnavailable: try again later; `outcome_unknown` says that it may have been posted.
            Unavailable: Slack refused it for good; the message names its error.
        """
        stream = as_dict(outgoing.extra.get("stream"))
        if stream and (finished := self._finish(outgoing, stream)):
            return finished
        where: dict[str, Any] = {"channel": outgoing.address["channel"], "thread_ts": outgoing.address.get("thread_ts")}
        said: dict[str, Any] = {"text": escaped(outgoing.text), "metadata": _metadata(outgoing), "unfurl_links": False}
        team = outgoing.address.get("team")
        try:
            answer = self.call("chat.postMessage", team=team, blocks=_blocks(outgoing), **where, **said)
        except Unavailable as error:
            if not any(reason in error.message for reason in TOO_MUCH_FOR_BLOCKS):
                raise
            answer = self.call("chat.postMessage", team=team, blocks=None, **where, **said)
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
            "team": outgoing.address.get("team"), "channel": channel, "ts": thread, "limit": 100,
            "oldest": f"{since.timestamp():.6f}", "include_all_metadata": True,
        }  # fmt: skip
        for _ in range(MAX_PAGES):
            answer = self.call("conversations.replies" if thread else "conversations.history", **arguments)
            for message in as_dicts(answer.get("messages")):
                if as_dict(as_dict(message.get("metadata")).get("event_payload")).get("id") == outgoing.our_id:
                    return f"{channel}:{message.get('ts')}"
            arguments["cursor"] = as_text(as_dict(answer.get("response_metadata")).get("next_cursor"))
            if not arguments["cursor"]:
                return None
        raise VendorUnavailable("The channel has more messages since then than can be looked through.")

    def _finish(self, outgoing: Outgoing, stream: dict[str, Any]) -> str | None:
        """End the message that was shown while it was written, in the words that hold; None where it is not there.

        What is shown may differ from them (a guard, another model): then they replace it. Done twice, it is the same.
        """
        team, channel, ts = outgoing.address.get("team"), outgoing.address["channel"], as_text(stream.get("ts"))
        shown = as_text(stream.get("shown"))
        fits = stream.get("sure") is True and outgoing.text.startswith(shown)
        rest: dict[str, Any] = {}
        if fits:  # our id only with the whole text: a look-up must not take half of it for all
            rest = {"markdown_text": unmentioned(outgoing.text[len(shown) :]) or None, "metadata": _metadata(outgoing)}
            rest["blocks"] = _feedback(outgoing) or None
        try:
            self.call("chat.stopStream", team=team, channel=channel, ts=ts, **rest)
        except VendorUnavailable:
            raise
        except Unavailable:
            fits = False  # ended by an earlier try
        if not fits:
            said: dict[str, Any] = {
                "text": escaped(outgoing.text), "blocks": _blocks(outgoing), "metadata": _metadata(outgoing)
            }  # fmt: skip
            try:
                self.call("chat.update", team=team, channel=channel, ts=ts, **said)
            except VendorUnavailable:
                raise
            except Unavailable:
                return None
        return f"{channel}:{ts}"

    def offer(self, method: str, *, team: str | None, lasting: bool = True, **arguments: Any) -> dict[str, Any] | None:
        """A nicety that may fail: tried once, quickly, and (`lasting`) after a refusal not again for a while."""
        if time.monotonic() < self._refused.get((method, team), 0.0):
            return None
        try:
            return self.call(method, team=team, quickly=True, **arguments)
        except NpllmError as error:
            wait = error.retry_after or RATHER_NOT if isinstance(error, VendorUnavailable) else REFUSED_FOR
            if lasting:
                self._refused[method, team] = time.monotonic() + wait
            log.info("%s: %s", method, error)
            return None

    def call(self, method: str, *, team: str | None, quickly: bool = False, **arguments: Any) -> dict[str, Any]:
        """Any method of the Web API, in a workspace; arguments that are None are left out.

        Raises: as `send`.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        headers = {"Authorization": f"Bearer {self._token(team or '')}"}
        body: dict[str, Any] = {"params" if method.startswith("conversations.") else "json": given}
        client = self.quick if quickly else self.client
        answer = _reached(lambda: client.api_call(method, headers=headers, **body), several=self._several)
        return as_dict(answer.data)

    def tell(self, response_url: str, text: str) -> None:
        """Say something that only who clicked or commanded sees; the original message stays as it is.

        Raises: as `send`; `Unavailable` too where the address is no longer, or never was, one of Slack's.
        """
        if urlsplit(response_url).hostname not in (RESPONSE_HOST, self._host):
            raise Unavailable("This is no address of Slack's to answer to.", "Look at who signed this request.")
        webhook = WebhookClient(response_url, timeout=self.client.timeout, retry_handlers=[])
        answer = _reached(lambda: webhook.send(text=text, response_type="ephemeral", replace_original=False))
        if answer.status_code == 429 or answer.status_code >= 500:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            wait = retry_after(headers.get("retry-after"))
            raise VendorUnavailable(f"Slack answered {answer.status_code}.", retry_after=wait)
        if answer.status_code >= 400:
            raise Unavailable(f"Slack refused: {answer.body[:100]}.", "An answer is possible for half an hour.")


def _web_client(base_url: str, timeout: float) -> WebClient:
    client = WebClient(base_url=base_url.rstrip("/") + "/")
    client.timeout = timeout  # type: ignore[assignment]  # urllib takes fractions, the annotation does not
    client.retry_handlers.clear()  # the outbox decides when to try again, not a sleep in here
    return client


def _reached(call: Callable[[], T], *, several: bool = False) -> T:
    """One request, its failures as ours."""
    try:
        return call()
    except SlackApiError as error:
        raise _refused(error, several) from error
    except (TimeoutError, http.client.HTTPException, ConnectionResetError, BrokenPipeError) as error:
        raise VendorUnavailable("Slack took the request and did not answer.", outcome_unknown=True) from error
    except (URLError, OSError) as error:
        timed_out = "timed out" in str(error)
        raise VendorUnavailable("Slack does not answer.", outcome_unknown=timed_out) from error
    except (SlackClientError, AttributeError, ValueError) as error:  # JSON, but no object
        raise VendorUnavailable("Slack's answer cannot be read.", outcome_unknown=True) from error


def _refused(error: SlackApiError, several: bool) -> Unavailable:
    response: Any = error.response
    status, reason = int(response.status_code), as_text(as_dict(response.data).get("error"))
    unreadable = status == 200 and (not reason or _UNREADABLE in reason)
    action = action_of(reason, several=several)
    if status == 429 or status >= 500 or action == "retry" or unreadable:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return VendorUnavailable(
            f"Slack answered {status} ({reason[:100]}).",
            retry_after=retry_after(headers.get("retry-after")),
            outcome_unknown=unreadable or reason in PERHAPS_DONE or status == 504,
        )
    hint = HINTS.get(reason, "See Slack's page on this error.")
    return Unavailable(f"Slack refused: {reason[:100]}.", hint, action=action)


def _metadata(outgoing: Outgoing) -> dict[str, Any]:
    return {"event_type": "npllm_message", "event_payload": {"id": outgoing.our_id}}


def _blocks(outgoing: Outgoing) -> list[dict[str, Any]]:
    return [{"type": "markdown", "text": unmentioned(outgoing.text)}, *(_feedback(outgoing) or _actions(outgoing))]


def _feedback(outgoing: Outgoing) -> list[dict[str, Any]]:
    if len(outgoing.buttons) != 2 or not all(read_feedback_button(key) for key, _ in outgoing.buttons):
        return []
    (up, up_title), (down, down_title) = outgoing.buttons
    feedback = {
        "type": "feedback_buttons",
        "action_id": "feedback",
        "positive_button": {"text": {"type": "plain_text", "text": up_title}, "value": up},
        "negative_button": {"text": {"type": "plain_text", "text": down_title}, "value": down},
    }
    return [{"type": "context_actions", "block_id": f"feedback-{outgoing.our_id}", "elements": [feedback]}]


def _actions(outgoing: Outgoing) -> list[dict[str, Any]]:
    """Buttons that are no rating; each answers to its own value."""
    buttons = [
        {"type": "button", "action_id": key, "text": {"type": "plain_text", "text": title}, "value": key}
        for key, title in outgoing.buttons
    ]
    return [{"type": "actions", "block_id": f"actions-{outgoing.our_id}", "elements": buttons}] if buttons else []


def unmentioned(text: str) -> str:
    """Markdown in which nothing calls people; the block has Markdown of its own, so that nothing else is escaped."""
    return _MENTION.sub("&lt;", text)


def escaped(text: str) -> str:
    """Plain text for notifications: nothing in an answer may mention or broadcast."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
