"""A real browser, where the machine has one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's browser object over the `chromium` of the PATH; skips the test where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium on the PATH (Debian: apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


def log_in(page: Any, url: str, *, name: str = "rita", to: str = "/ops") -> None:
    """Through the log-in page, as a person does."""
    page.goto(f"{url}{to}")
    page.fill("input[name=name]", name)
    page.fill("input[name=password]", "operator-password")
    page.click("button")
    page.wait_for_url(f"{url}{to}")
