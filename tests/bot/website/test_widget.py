"""The widget in a real browser: on a shop's own site (another origin, a strict content policy) and on /chat."""

import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from servers import ScriptedModel
from sqlalchemy import select
from together import eventually

from bot import chat_api, handover
from bot.wiring import Awake
from core.db import transaction
from core.tables import Conversation, Customer, Feedback, InboundEvent, Message

pytestmark = pytest.mark.browser
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}
REPLY = "O colchão de casal tem molas ensacadas e noventa noites para experimentar em casa."


@pytest.fixture
def open_chat(site: str, shop: Any, visit: Callable[..., Any]) -> Callable[..., Any]:
    """A visitor of the shop's site who opens the chat."""

    def opened(**options: Any) -> Any:
        page = visit(shop[1], **options)
        page.get_by_role("button", name=re.compile("Abrir conversa|Open chat")).click()
        return page

    return opened


def panel(page: Any) -> Any:
    return page.locator(".panel")


def ask(page: Any, text: str) -> None:
    page.get_by_role("textbox", name=re.compile("^(Mensagem|Message)$")).fill(text)
    page.keyboard.press("Enter")


def ask_without_a_connection(page: Any) -> None:
    """The question is not sent, and the visitor is told; then the connection is back."""
    page.locator(".bubble", has_text="Olá!").wait_for()
    page.context.set_offline(True)
    ask(page, "Como é o colchão?")
    page.locator(".excuse", has_text="Não foi enviada. Sem conexão.").wait_for()
    page.context.set_offline(False)


def answered(page: Any, text: str) -> Any:
    """The line with this answer, once it is whole."""
    line = page.locator(".line.bot", has=page.locator(".bubble:not(.coming)", has_text=text))
    line.first.wait_for()
    return line.first


def wait_for(awake: Awake, table: Any, count: int = 1) -> list[Any]:
    import time

    end = time.monotonic() + 10
    while time.monotonic() < end:
        with transaction(awake.engine) as session:
            rows = list(session.scalars(select(table).order_by(table.id)))
            if len(rows) >= count:
                return rows
        time.sleep(0.02)
    raise AssertionError(f"no {count} rows of {table.__tablename__}")


def outcome(awake: Awake, event_id: int) -> str | None:
    with transaction(awake.engine) as session:
        return session.get_one(InboundEvent, event_id).outcome


class TestOnAnotherSite:
    def test_a_conversation_its_ratings_and_a_reload(
        self, open_chat: Callable[..., Any], awake: Awake, model: ScriptedModel, picture: Any
    ) -> None:
        model.say = lambda name, question: REPLY if "casal" in question else "Sim, em todo o Brasil, em até dez dias."
        page = open_chat()
        page.locator(".bubble", has_text="Olá! Sou Lia, da Alvorada Colchões").wait_for()
        ask(page, "Como é o colchão de casal?")
        first = answered(page, REPLY)
        page.get_by_role("button", name="Sim, pode").click()
        answered(page, "Vou aprender com esta conversa")
        ask(page, "Vocês entregam em Manaus?")
        second = answered(page, "Sim, em todo o Brasil")
        first.get_by_role("button", name="Gostei", exact=True).click()
        first.locator("[aria-pressed=true]").wait_for()
        second.get_by_role("button", name="Não gostei").click()
        missing = "Faltou o preço do frete."
        second.get_by_role("textbox", name="O que faltou?").fill(missing)
        picture(page, "widget-desktop")
        second.get_by_role("button", name="Enviar comentário").click()
        second.get_by_text("Obrigada pelo retorno!").wait_for()
        rows = wait_for(awake, Feedback, 3)
        assert [(row.signal, row.value, row.comment) for row in rows] == [
            ("button", 1.0, None), ("button", 0.0, missing), ("comment", None, missing),
        ]  # fmt: skip
        with transaction(awake.engine) as session:
            assert session.scalars(select(Customer.consent)).one() == "granted"
        assert page.evaluate("document.cookie") == ""
        page.reload()
        page.get_by_role("button", name="Abrir conversa").click()
        answered(page, "Sim, em todo o Brasil")
        texts = page.locator(".line .bubble").all_inner_texts()
        assert texts[1:3] == ["Como é o colchão de casal?", REPLY]
        assert texts[-2:] == ["Vocês entregam em Manaus?", "Sim, em todo o Brasil, em até dez dias."]
        assert page.locator("[aria-pressed=true]").count() == 2
        ask(page, "E o colchão de casal?")
        page.locator(".line.bot", has_text=REPLY).nth(1).wait_for()
        with transaction(awake.engine) as session:
            assert len(session.scalars(select(Conversation)).all()) == 1, "the reload went on with the conversation"
        assert page.troubles == []

    def test_what_was_begun_goes_where_a_person_takes_the_conversation(
        self, open_chat: Callable[..., Any], awake: Awake, model: ScriptedModel
    ) -> None:
        def say(name: str, question: str) -> str:
            with transaction(awake.engine) as session:
                handover.ask(session, awake.settings, session.scalars(select(Conversation)).one(), by="bia")
            return REPLY

        model.say = say
        page = open_chat()
        ask(page, "Como é o colchão de casal?")
        [event] = [one for one in wait_for(awake, InboundEvent) if one.kind == "message"]
        eventually(lambda: outcome(awake, event.id) == "with a person")
        page.get_by_text("Você está com nossa equipe").wait_for()
        page.locator(".bubble", has_text="noventa noites").wait_for(state="detached")
        assert page.troubles == []

    def test_stars_at_the_end(
        self, open_chat: Callable[..., Any], awake: Awake, model: ScriptedModel, picture: Any
    ) -> None:
        model.say = lambda name, question: REPLY
        page = open_chat(**PHONE)
        ask(page, "Como é o colchão?")
        answered(page, REPLY)
        page.get_by_role("button", name="Mais opções").click()
        page.get_by_role("button", name="Encerrar e avaliar").click()
        assert page.get_by_role("radio").count() == 5
        page.get_by_title("4 estrelas").click()
        assert page.get_by_role("radio", name="4 estrelas").is_checked()
        page.get_by_role("textbox", name="Quer dizer mais alguma coisa?").fill("Rápido e claro.")
        picture(page, "widget-stars")
        page.get_by_role("button", name="Enviar avaliação").click()
        page.get_by_text("Sua avaliação nos ajuda a melhorar").wait_for()
        [row] = wait_for(awake, Feedback)
        assert (row.signal, row.value, row.comment) == ("stars", 0.75, "Rápido e claro.")
        page.get_by_role("button", name="Voltar à conversa").click()
        assert page.get_by_role("textbox", name="Mensagem").is_visible()
        assert page.troubles == []

    def test_by_keyboard_alone(self, site: str, shop: Any, visit: Callable[..., Any], model: ScriptedModel) -> None:
        model.say = lambda name, question: f"Recebi: {question.splitlines()[-1]}"
        page = visit(shop[1])
        focused = "(() => { let e = document.activeElement; while (e.shadowRoot?.activeElement) e = e.shadowRoot.activeElement; return e.getAttribute('aria-label') ?? e.textContent; })()"  # noqa: E501
        page.locator(".launcher").wait_for()
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate(focused) == "Abrir conversa"
        page.keyboard.press("Enter")
        assert page.evaluate(focused) == "Mensagem"
        page.keyboard.type("primeira")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("segunda")
        assert page.get_by_role("textbox").input_value() == "primeira\nsegunda"
        page.keyboard.press("Enter")
        answered(page, "Recebi")
        assert page.locator(".line.visitor .bubble").inner_text() == "primeira\nsegunda"
        page.get_by_role("button", name="Sim, pode").wait_for()
        stops = []
        for _ in range(12):
            page.keyboard.press("Tab")
            stops.append(page.evaluate(focused))
        wanted = {"Mais opções", "Fechar conversa", "Conversa", "Gostei", "Não gostei", "Sim, pode", "Não", "Mensagem"}
        assert set(stops) == wanted, "Tab stays in the open panel and reaches all of it"
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Escape")
        assert not panel(page).is_visible()
        assert page.evaluate(focused) == "Abrir conversa", "focus goes back to where it came from"
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Mais opções").press("Enter")
        page.keyboard.press("Escape")
        assert panel(page).is_visible(), "Escape closes the menu first"
        assert not page.locator(".menu").is_visible()

    @pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
    def test_everything_has_a_name_and_is_large_enough_for_a_thumb(
        self, open_chat: Callable[..., Any], model: ScriptedModel, options: dict[str, Any]
    ) -> None:
        model.say = lambda name, question: REPLY
        page = open_chat(**options)
        ask(page, "Como é o colchão?")
        answered(page, REPLY).get_by_role("button", name="Não gostei").click()
        page.get_by_role("button", name="Mais opções").click()
        for control in page.locator("button, textarea").all():
            if not control.is_visible():
                continue
            name = control.evaluate("e => e.getAttribute('aria-label') || e.innerText.trim()")
            box = control.bounding_box()
            assert name
            assert min(box["width"], box["height"]) >= 43.5, (name, box)
        dialog = page.get_by_role("dialog", name="Fale com Lia")
        assert dialog.is_visible()
        assert page.get_by_role("log", name="Conversa").is_visible()
        heard = page.get_by_role("status").locator("p").all_inner_texts()
        assert heard.count(REPLY) == 1, "a screen reader hears the whole answer, once"

    def test_on_a_phone_it_fills_the_screen(
        self, open_chat: Callable[..., Any], model: ScriptedModel, picture: Any
    ) -> None:
        model.say = lambda name, question: REPLY
        page = open_chat(**PHONE)
        ask(page, "Como é o colchão de casal?")
        answered(page, REPLY)
        page.get_by_role("button", name="Sim, pode").wait_for()
        picture(page, "widget-phone")
        assert panel(page).bounding_box() == {"x": 0, "y": 0, "width": 390, "height": 844}
        assert panel(page).get_attribute("aria-modal") == "true"
        assert not page.locator(".launcher").is_visible()
        page.get_by_role("button", name="Fechar conversa").click()
        assert page.locator(".launcher").is_visible()

    def test_in_the_dark(self, open_chat: Callable[..., Any], model: ScriptedModel, picture: Any) -> None:
        model.say = lambda name, question: REPLY
        page = open_chat(color_scheme="dark")
        ask(page, "Como é o colchão de casal?")
        answered(page, REPLY)
        page.get_by_role("button", name="Sim, pode").wait_for()
        picture(page, "widget-dark")
        ground = panel(page).evaluate("e => getComputedStyle(e).backgroundColor")
        ink = panel(page).evaluate("e => getComputedStyle(e).color")
        assert _light(ground) < 0.2 < 0.8 < _light(ink)

    def test_in_english(self, open_chat: Callable[..., Any], shop: Any, model: ScriptedModel, picture: Any) -> None:
        model.say = lambda name, question: "The double mattress has pocket springs."
        shop[0].lang = "en"
        page = open_chat(**PHONE)
        page.locator(".bubble", has_text="How can I help?").wait_for()
        ask(page, "What is the double mattress like?")
        answered(page, "has pocket springs")
        page.get_by_role("button", name="Yes, you may").wait_for()
        picture(page, "widget-english")

    def test_the_shop_chooses_language_colour_and_corner(self, site: str, shop: Any, visit: Callable[..., Any]) -> None:
        shop[
            0
        ].attributes = 'data-lang="en" data-color="rgb(10, 120, 80)" data-position="left" data-theme="light" data-open'
        page = visit(shop[1], color_scheme="dark")
        header = page.locator("header")
        page.get_by_role("heading", name="Chat with Lia").wait_for()
        assert header.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(10, 120, 80)"
        assert panel(page).bounding_box()["x"] == 20
        assert _light(panel(page).evaluate("e => getComputedStyle(e).backgroundColor")) > 0.9

    def test_a_site_that_is_not_allowed_gets_no_answer(
        self, awake: Awake, shop: Any, visit: Callable[..., Any]
    ) -> None:
        from servers import serving

        from bot.app import create_app

        with serving(create_app(awake.settings)) as url:
            shop[0].site = url
            page = visit(shop[1])
            page.locator(".launcher").click()
            ask(page, "Oi")
            page.locator(".excuse").wait_for()
            with transaction(awake.engine) as session:
                assert session.scalars(select(Message)).all() == []


class TestWhenItGoesWrong:
    def test_a_reload_while_the_answer_is_made(
        self, open_chat: Callable[..., Any], awake: Awake, model: ScriptedModel
    ) -> None:
        model.say, model.delay = lambda name, question: REPLY, 1.5
        page = open_chat()
        ask(page, "Como é o colchão?")
        wait_for(awake, Message)
        page.reload()
        page.get_by_role("button", name="Abrir conversa").click()
        page.locator(".typing").wait_for()
        answered(page, REPLY)
        assert page.locator(".line.visitor").count() == 1
        assert page.locator(".line.bot", has_text=REPLY).count() == 1
        assert len(model.asked) == 1, "it was asked once"

    def test_a_reload_after_the_answer_was_made(
        self, open_chat: Callable[..., Any], awake: Awake, model: ScriptedModel
    ) -> None:
        model.say, model.delay = lambda name, question: REPLY, 1.0
        page = open_chat()
        ask(page, "Como é o colchão?")
        wait_for(awake, Message)
        page.goto("about:blank")
        wait_for(awake, Message, 3)
        page.go_back()
        page.get_by_role("button", name="Abrir conversa").click()
        answered(page, REPLY)
        assert eventually(lambda: page.evaluate("localStorage.getItem('npllm-chat-pending') === null"))
        assert page.locator(".line.visitor").count() == 1
        assert page.locator(".line.bot").count() == 3, "the greeting, the answer, the question about consent: once each"
        assert len(model.asked) == 1

    def test_a_stream_that_breaks_off_is_waited_for(
        self, open_chat: Callable[..., Any], awake: Awake, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was stored, so nobody is told that it was not sent."""
        model.say, model.delay = lambda name, question: REPLY, 1.0
        whole = chat_api._as_sse

        async def torn(*given: Any) -> AsyncIterator[str]:
            async for line in whole(*given):
                yield line
                return

        monkeypatch.setattr(chat_api, "_as_sse", torn)
        page = open_chat()
        ask(page, "Como é o colchão?")
        page.locator(".excuse", has_text="A resposta está demorando").wait_for()
        answered(page, REPLY)
        assert page.locator(".excuse").count() == 0
        assert page.locator(".line.visitor").count() == 1

    def test_our_own_troubles_are_told_in_the_visitors_language(
        self, open_chat: Callable[..., Any], model: ScriptedModel
    ) -> None:
        page = open_chat()
        page.locator(".bubble", has_text="Olá!").wait_for()
        page.route("**/api/chat", lambda route: route.fulfill(
            status=503, headers={"retry-after": "5", "access-control-allow-origin": "*"},
            json={"error": "The ledger does not answer.", "next_step": "Try again in a moment."},
        ))  # fmt: skip
        ask(page, "Oi")
        page.locator(".excuse", has_text="Algo deu errado do nosso lado").wait_for()
        assert "ledger" not in page.locator(".excuse").inner_text()

    def test_opened_without_a_line(
        self, site: str, shop: Any, visit: Callable[..., Any], model: ScriptedModel, awake: Awake
    ) -> None:
        model.say = lambda name, question: REPLY if "colchão" in question else "Sim."
        page = visit(shop[1])
        page.locator(".launcher").wait_for()
        page.context.set_offline(True)
        page.get_by_role("button", name="Abrir conversa").click()
        page.locator(".excuse", has_text="Sem conexão.").wait_for()
        ask(page, "Vocês entregam?")
        page.locator(".excuse", has_text="Não foi enviada.").wait_for()
        page.context.set_offline(False)
        ask(page, "Como é o colchão?")
        answered(page, REPLY)
        page.get_by_role("heading", name="Fale com Lia").wait_for()
        page.locator(".excuse", has_text="Não foi enviada.").get_by_role("button").click()
        answered(page, "Sim.")
        assert page.locator(".line.visitor .bubble").all_inner_texts() == ["Vocês entregam?", "Como é o colchão?"]

    def test_two_tabs_are_one_conversation(self, open_chat: Callable[..., Any], model: ScriptedModel) -> None:
        model.say = lambda name, question: f"Recebi: {question.splitlines()[-1]}"
        page = open_chat()
        ask(page, "primeira")
        answered(page, "Recebi")
        other = page.context.new_page()
        other.goto(page.url)
        other.get_by_role("button", name="Abrir conversa").click()
        answered(other, "primeira")
        ask(other, "na outra aba")
        answered(other, "na outra aba")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        answered(page, "na outra aba")
        assert page.locator(".line.visitor .bubble").all_inner_texts() == ["primeira", "na outra aba"]

    def test_a_cut_line_and_the_same_question_again(
        self, open_chat: Callable[..., Any], awake: Awake, model: ScriptedModel
    ) -> None:
        model.say = lambda name, question: REPLY
        page = open_chat()
        ask_without_a_connection(page)
        page.get_by_role("button", name="Tentar de novo").click()
        answered(page, REPLY)
        assert page.locator(".line.visitor").count() == 1
        assert len(model.asked) == 1

    def test_what_was_never_sent_is_asked_after_a_reload_and_stands_there(
        self, open_chat: Callable[..., Any], model: ScriptedModel
    ) -> None:
        model.say = lambda name, question: REPLY
        page = open_chat()
        ask_without_a_connection(page)
        page.reload()
        page.get_by_role("button", name="Abrir conversa").click()
        answered(page, REPLY)
        assert page.locator(".line.visitor .bubble").all_inner_texts() == ["Como é o colchão?"]

    def test_a_frame_that_may_submit_no_forms(
        self, site: str, shop: Any, visit: Callable[..., Any], model: ScriptedModel
    ) -> None:
        model.say = lambda name, question: REPLY
        frame = visit(f"{shop[1]}/framed").frame_locator("iframe")
        frame.get_by_role("button", name="Abrir conversa").click()
        text = frame.get_by_role("textbox", name=re.compile("^Mensagem$"))
        text.fill("Como é o colchão?")
        text.press("Enter")
        answered(frame, REPLY)
        text.fill("E a capa?")
        frame.get_by_role("button", name="Enviar").click()
        assert eventually(lambda: len(model.asked) == 2)
        frame.get_by_role("button", name="Não gostei").first.click()
        frame.get_by_role("textbox", name="O que faltou?").fill("Faltou o prazo.")
        frame.get_by_role("button", name="Enviar comentário").click()
        frame.locator(".thanks").wait_for()

    def test_a_person_takes_over(self, open_chat: Callable[..., Any], awake: Awake, model: ScriptedModel) -> None:
        model.say = lambda name, question: REPLY
        page = open_chat()
        ask(page, "Como é o colchão?")
        answered(page, REPLY)
        with transaction(awake.engine) as session:
            conversation = session.scalars(select(Conversation)).one()
            conversation.state = "person"
            facts = {
                "conversation_id": conversation.id,
                "customer_id": conversation.customer_id,
                "context": "customers",
            }
        page.get_by_role("button", name="Mais opções").click()
        page.get_by_role("button", name="Falar com uma pessoa").click()
        page.locator(".note", has_text="Uma pessoa vai responder aqui").wait_for()
        with transaction(awake.engine) as session:
            session.add(
                Message(channel="web", direction="out", role="person", kind="text", text="Oi, aqui é a Rita.", **facts)
            )
        page.locator(".line.person", has_text="Oi, aqui é a Rita.").wait_for()
        assert page.locator(".line.visitor").count() == 2

    def test_opting_out_and_in_again(self, open_chat: Callable[..., Any], awake: Awake, model: ScriptedModel) -> None:
        model.say = lambda name, question: REPLY
        page = open_chat()
        ask(page, "Como é o colchão?")
        answered(page, REPLY)
        page.get_by_role("button", name="Mais opções").click()
        page.get_by_role("button", name="Não aprender com minhas mensagens").click()
        answered(page, "não vou aprender com esta conversa")
        page.get_by_role("button", name="Mais opções").click()
        assert page.get_by_role("button", name="Não aprender com minhas mensagens").count() == 0
        page.get_by_role("button", name="Parar as respostas").click()
        page.locator(".note", has_text="Você pediu para parar").wait_for()
        page.get_by_role("button", name="Voltar a conversar").click()
        page.locator(".note").wait_for(state="hidden")
        with transaction(awake.engine) as session:
            customer = session.scalars(select(Customer)).one()
            assert (customer.consent, customer.opted_out_at) == ("denied", None)


class TestWritingFromRightToLeft:
    def test_goes_from_right_to_left(self, open_chat: Callable[..., Any], model: ScriptedModel) -> None:
        model.say = lambda name, question: "مرحبا بكم في المتجر (abc)!"
        page = open_chat()
        ask(page, "שלום, abc")
        answered(page, "مرحبا")
        seen = page.locator(".bubble").evaluate_all("all => all.map(each => getComputedStyle(each).direction)")
        assert seen[:3] == ["ltr", "rtl", "rtl"]


class TestOurOwnPage:
    def test_the_cookie_is_out_of_scripts_reach_and_can_be_forgotten(
        self, site: str, visit: Callable[..., Any], model: ScriptedModel, picture: Any
    ) -> None:
        model.say = lambda name, question: REPLY
        page = visit(f"{site}/chat")
        ask(page, "Como é o colchão de casal?")
        answered(page, REPLY)
        page.get_by_role("button", name="Sim, pode").wait_for()
        picture(page, "chat-page")
        [cookie] = page.context.cookies()
        assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("npllm_visitor", True, "Lax")
        assert page.evaluate("[document.cookie, Object.keys(localStorage).length]") == ["", 0]
        page.reload()
        answered(page, REPLY)
        page.get_by_role("button", name="Mais opções").click()
        page.get_by_role("button", name="Esquecer a conversa").click()
        page.locator(".line.visitor").wait_for(state="detached")
        page.reload()
        page.locator(".bubble", has_text="Olá!").wait_for()
        assert page.locator(".line").count() == 1
        assert page.troubles == []


def _light(color: str) -> float:
    numbers = [float(number) for number in re.findall(r"[\d.]+", color)[:3]]
    return sum(numbers) / 3 / (255 if color.startswith("rgb") else 1)
