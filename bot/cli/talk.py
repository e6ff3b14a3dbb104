"""chat and simulate."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import click
import httpx
from rich.console import Console
from rich.live import Live
from rich.text import Text

from bot.cli.common import as_json_option, print_json, settings
from bot.simulator import traffic
from core.errors import BadInput, Unavailable
from core.settings import Settings


@click.command()
@click.argument("text")
@click.option("--visitor", default=None, help="The visitor token of an earlier answer, to go on with it.")
@as_json_option
def chat(text: str, visitor: str | None, as_json: bool) -> None:
    """Say TEXT to the running bot, as a visitor of the website; on a terminal the answer is seen as it comes."""
    body = {"message": text, "visitor": visitor}
    url, answers, token, pieces = f"{_url(settings())}/api/chat", [], visitor, ""
    # What streams is only shown until the answer is there: a guard may have replaced it. A file or pipe never gets it.
    coming = ExitStack()
    try:
        with (
            httpx.stream("POST", url, json=body, headers={"accept": "text/event-stream"}, timeout=120.0) as response,
            coming,
        ):
            if not response.is_success:
                problem = json.loads(response.read())
                raise BadInput(problem.get("error", "The bot refused."), problem.get("next_step", ""))
            for name, data in _server_events(response):
                if name == "visitor":
                    token = data["visitor"]
                elif name == "piece" and not as_json:
                    if not pieces:
                        shown = coming.enter_context(Live(console=Console(), auto_refresh=False, transient=True))
                    pieces += data["text"]
                    shown.update(Text(pieces.lstrip()), refresh=True)
                elif name == "message":
                    answers.append(data)
                    coming.close()
                    pieces = ""
                    if not as_json:
                        click.echo(data["text"])
                elif name == "error":
                    raise Unavailable(data["error"], data["next_step"])
    except httpx.HTTPError as error:
        raise Unavailable("The bot does not answer.", "Start it: npllm up") from error
    if as_json:
        print_json({"visitor": token, "messages": answers})


@click.command()
@click.argument("channel", type=click.Choice(["twilio", "meta", "slack"]))
@click.option("--text", default="Quanto custa o colchão de casal?", show_default=True)
@click.option("--sender", default=None, help="Phone, or Slack user; default: a new one for each message.")
@click.option("--reaction", default=None, help="React instead of writing: an emoji (Slack: a name such as +1).")
@click.option("--to", "target", default=None, help="Provider id of the message that is reacted to.")
@click.option("--remove", is_flag=True, help="Take the reaction back.")
@click.option("--count", type=click.IntRange(1, 10_000), default=1, show_default=True)
@click.option("--concurrency", type=click.IntRange(1, 64), default=8, show_default=True)
@click.option("--wait", type=float, default=0.0, help="Seconds to wait for the replies at the fake vendor.")
@as_json_option
def simulate(
    channel: str, text: str, sender: str | None, reaction: str | None, target: str | None, remove: bool,
    count: int, concurrency: int, wait: float, as_json: bool,
) -> None:  # fmt: skip
    """Send correctly signed traffic of a vendor to the running system."""
    found = settings()
    if reaction is not None and not target:
        raise BadInput("A reaction needs the message it is about.", "Add --to PROVIDER_MESSAGE_ID (npllm events list).")
    people = [sender or _somebody(channel, number) for number in range(count)]
    requests = [_request(found, channel, person, text, reaction, target, remove) for person in people]
    before = len(_sent(found)) if wait else 0
    started = time.perf_counter()
    with httpx.Client(timeout=30.0) as client, ThreadPoolExecutor(concurrency) as pool:
        try:
            answers = list(pool.map(lambda r: client.post(r.url, content=r.body, headers=r.headers), requests))
        except httpx.HTTPError as error:
            raise Unavailable("The web process does not answer.", "Start it: npllm up") from error
    seconds = time.perf_counter() - started
    refused = [answer for answer in answers if not answer.is_success]
    replies = (
        _wait_for(found, before, {_bare(person) for person in people}, count, wait) if wait and not reaction else []
    )
    ids = [request.message_id for request in requests]
    if as_json:
        print_json(
            {"sent": count, "accepted": count - len(refused), "seconds": seconds, "ids": ids, "replies": replies}
        )
    else:
        click.echo(f"{count - len(refused)} of {count} accepted in {seconds:.2f} s")
        for reply in replies:
            click.echo(f"  → {reply['to']}: {reply['text']}")
    if refused:
        click.echo(refused[0].text, err=True)
        raise SystemExit(1)
    if wait and not reaction and len(replies) < count:
        raise Unavailable(f"{len(replies)} of {count} replies came in {wait:.0f} s.", "Look at `npllm status`.")


def _request(
    settings: Settings, channel: str, person: str, text: str, reaction: str | None, target: str | None, remove: bool
) -> traffic.Signed:
    if channel == "twilio":
        if reaction is not None:
            return traffic.twilio_message(settings, reaction, sender=person, OriginalRepliedMessageSid=target or "")
        return traffic.twilio_message(settings, text, sender=person)
    if channel == "meta":
        if reaction is not None:
            return traffic.meta_reaction(settings, target or "", None if remove else reaction, sender=person)
        return traffic.meta_text(settings, text, sender=person)
    if reaction is not None:
        return traffic.slack_reaction(settings, target or "", reaction, user=person, added=not remove)
    return traffic.slack_message(settings, text, user=person, channel=f"D{person[1:]}")


def _somebody(channel: str, number: int) -> str:
    stamp = int(time.time() * 1000) % 10_000_000
    return f"U{stamp}{number:04d}" if channel == "slack" else f"+55119{(stamp * 10 + number) % 100_000_000:08d}"


def _sent(settings: Settings) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = httpx.get(f"{settings.twilio_api_base_url}/_sent", timeout=5.0).json()
        return found
    except (httpx.HTTPError, ValueError):
        return []


def _wait_for(settings: Settings, since: int, people: set[str], count: int, wait: float) -> list[dict[str, Any]]:
    end, replies = time.monotonic() + wait, []
    while time.monotonic() < end:
        replies = [reply for reply in _sent(settings)[since:] if _bare(str(reply.get("to"))) in people]
        if len({reply["to"] for reply in replies}) >= min(count, len(people)):
            break
        time.sleep(0.1)
    return replies


def _bare(address: str) -> str:
    return "".join(c for c in address if c.isalnum()).removeprefix("whatsapp").lstrip("DU")


def _url(settings: Settings) -> str:
    if not settings.public_base_url:
        raise Unavailable("No running system is known.", "Start it: npllm up")
    return settings.public_base_url


def _server_events(response: httpx.Response) -> Any:
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])
