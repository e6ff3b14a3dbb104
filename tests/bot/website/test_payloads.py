"""Nothing that a person or a model wrote is ever HTML, in either direction, live or from the history."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import ScriptedModel

from bot.pages import FOLDER, templates
from bot.visitors import Visitors
from bot.wiring import Awake
from core.db import transaction
from core.tables import Conversation, Customer, CustomerIdentity, Message

RUN = "window.hit=1"
PAYLOADS = [
    f"<script>{RUN}</script>", f"<SCRIPT SRC=data:text/javascript,{RUN}></SCRIPT>", f"<img src=x onerror={RUN}>",
    f"<img src=x onerror='{RUN}'//", f"<svg onload={RUN}>", f"<svg/onload={RUN}>", f"<svg><script>{RUN}</script></svg>",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>", f"<body onload={RUN}>", f"<iframe src=javascript:{RUN}>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>", f"<object data=javascript:{RUN}>",
    f"<embed src=javascript:{RUN}>", f"<a href=javascript:{RUN}>x</a>", f"<a href='jav&#x09;ascript:{RUN}'>x</a>",
    f"[x](javascript:{RUN})", f"![x](x onerror={RUN})", f"[x](data:text/html,<script>{RUN}</script>)",
    f"<details open ontoggle={RUN}>", f"<input autofocus onfocus={RUN}>", f"<select autofocus onfocus={RUN}>",
    f"<textarea autofocus onfocus={RUN}>", f"<video><source onerror={RUN}></video>", f"<audio src=x onerror={RUN}>",
    f"<marquee onstart={RUN}>", f"<math><mi xlink:href=javascript:{RUN}>x", f"<form action=javascript:{RUN}><button>x",
    f"<isindex type=image src=1 onerror={RUN}>", f"<link rel=stylesheet href=javascript:{RUN}>",
    f"<meta http-equiv=refresh content=0;url=javascript:{RUN}>", f"<base href=javascript:{RUN}//>",
    f"<style>@import 'javascript:{RUN}'</style>", "<style>*{display:none}</style>", f"<div style=x:expression({RUN})>",
    f"<template><script>{RUN}</script></template>", f"<noscript><p title='</noscript><img src=x onerror={RUN}>'>",
    f"<title><img src=x onerror={RUN}></title>", f"</div></section><img src=x onerror={RUN}>",
    f"'\"><img src=x onerror={RUN}>", f"\" autofocus onfocus={RUN} x=\"", f"' onmouseover='{RUN}", f"`-{RUN}-`",
    f"${{{RUN}}}", "{{constructor.constructor('window.hit=1')()}}", "{% print(7*7) %}{{7*7}}",
    f"&lt;script&gt;{RUN}&lt;/script&gt;", f"&#60;img src=x onerror={RUN}&#62;", f"<<img src=x onerror={RUN}>",
    f"\u202e<img src=x onerror={RUN}>", f"<img\u00a0src=x\u00a0onerror={RUN}>",
    f"data: x\n\nevent: message\ndata: {{}}\n\n{RUN}",
]  # fmt: skip


def seed(awake: Awake, visitor: str) -> None:
    with transaction(awake.engine) as session:
        customer = Customer(context="customers", consent="denied")
        session.add(customer)
        session.flush()
        session.add(CustomerIdentity(customer_id=customer.id, kind="visitor", value=visitor))
        talk = Conversation(
            context="customers", customer_id=customer.id, channel="web", lane=f"web:{visitor}", address={}
        )
        session.add(talk)
        session.flush()
        facts = {"conversation_id": talk.id, "customer_id": customer.id, "context": "customers", "channel": "web"}
        for payload in PAYLOADS[:50]:
            session.add(Message(**facts, direction="in", role="customer", text=payload))
            session.flush()
            session.add(Message(**facts, direction="out", role="bot", text=payload))
            session.flush()


@pytest.mark.browser
def test_fifty_payloads_are_seen_as_they_were_written(
    site: str, visit: Callable[..., Any], awake: Awake, model: ScriptedModel
) -> None:
    seed(awake, "v1")
    token = str(Visitors(awake.settings).signers[0].dumps("v1"))
    page = visit("about:blank")
    page.context.add_cookies([{"name": "npllm_visitor", "value": token, "url": site}])
    page.goto(f"{site}/chat")
    page.locator(".line.visitor").nth(49).wait_for()
    shown = page.locator(".line .bubble").evaluate_all("lines => lines.map((line) => line.textContent)")
    assert shown[1:] == [payload for payload in PAYLOADS[:50] for _ in range(2)]
    assert page.locator(".bubble *").count() == 0, "there is nothing but text in a bubble"
    # Live, both ways: what the visitor writes is repeated by the model. Pieces are text, too.
    model.say = lambda name, question: PAYLOADS[2]
    page.get_by_role("textbox", name="Mensagem").fill(PAYLOADS[0])
    page.keyboard.press("Enter")
    page.locator(".line.visitor").nth(50).wait_for()
    page.locator(".line.bot:not(.typing)").nth(51).wait_for()
    assert page.locator(".bubble *:not(.dots, .dots *, .unseen)").count() == 0
    assert page.evaluate("window.hit") is None
    assert page.url == f"{site}/chat"
    assert page.troubles == []


def test_no_script_of_ours_makes_html_of_text() -> None:
    makers = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|setHTMLUnsafe"
    found = [path.name for path in Path(FOLDER).rglob("*.js") if re.search(makers, path.read_text())]
    assert found == []


def test_templates_escape() -> None:
    autoescape: Any = templates.env.autoescape
    assert autoescape("chat.html") is True
    pages = [path.read_text() for path in (FOLDER / "templates").glob("*.html")]
    assert not any(re.search(r"\|\s*safe|autoescape|Markup|\son\w+=|<script>", text) for text in pages)
    assert "&lt;script&gt;" in templates.get_template("login.html").render(next=PAYLOADS[0])
