"""The website as people see it: a web process on a real port, a worker behind it, a shop's page on another origin,
and a browser."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from servers import serving
from worker import working

from bot.app import create_app
from bot.wiring import Awake

SHOP = (Path(__file__).parent / "shop.html").read_text()


class Shop:
    """A shop's own site, on another origin than ours: it embeds the widget and says what its pages may load."""

    def __init__(self) -> None:
        self.site, self.attributes, self.lang = "", "", "pt-BR"
        self.app = FastAPI()
        self.app.get("/")(self._page)
        self.app.get("/framed")(self._framed)

    def _page(self) -> HTMLResponse:
        policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {self.site}; connect-src {self.site}"
        text = SHOP.replace("SITE", self.site).replace("ATTRIBUTES", self.attributes).replace("LANG", self.lang)
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    def _framed(self) -> HTMLResponse:
        """The same page within one that lets it do little."""
        return HTMLResponse("<iframe src=/ sandbox='allow-scripts allow-same-origin' width=900 height=700></iframe>")


@pytest.fixture
def shop() -> Iterator[tuple[Shop, str]]:
    """The shop and its address."""
    shop = Shop()
    with serving(shop.app) as url:
        yield shop, url


@pytest.fixture
def site(awake: Awake, shop: tuple[Shop, str]) -> Iterator[str]:
    """Our address; the shop's pages may use the chat."""
    settings = awake.settings.model_copy(update={"chat_allowed_origins": [shop[1]]})
    with serving(create_app(settings)) as url, working(awake):
        shop[0].site = url
        yield url


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    binary = shutil.which("chromium")
    if binary is None:
        pytest.skip("no chromium on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page in a browser of its own, and notes what goes wrong in it."""
    contexts = []

    def open_page(url: str, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, "locale": "pt-BR", **options})
        contexts.append(context)
        page = context.new_page()
        page.troubles = []
        page.on("pageerror", lambda error: page.troubles.append(str(error)))
        page.on("console", lambda m: page.troubles.append(m.text) if m.type == "error" else None)
        page.on("dialog", lambda dialog: (page.troubles.append("dialog"), dialog.dismiss()))
        page.set_default_timeout(30_000)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def picture(request: pytest.FixtureRequest) -> Callable[[Any, str], None]:
    """Takes a page's picture where --screenshots FOLDER asks for it."""
    folder = request.config.getoption("--screenshots")

    def take(page: Any, name: str) -> None:
        if folder:
            path = request.config.invocation_params.dir / folder
            path.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=path / f"{name}.png")

    return take
