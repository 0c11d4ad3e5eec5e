"""What people do on the page, and a picture of it; for the browser tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
expect = pytest.importorskip("playwright.sync_api", reason="make test-browser installs it").expect


def ask(page, question):
    """The answer's view, when it is whole."""
    page.fill("#question", question)
    page.press("#question", "Enter")
    answer = page.locator(".answer").first
    expect(answer.locator("h3")).to_have_text(question)
    expect(page.locator("#ask")).to_be_enabled()
    return answer


def choose_files(page, **texts):
    """Files with these texts; their names end with .txt."""
    files = [{"name": f"{name}.txt", "mimeType": "text/plain", "buffer": text.encode()} for name, text in texts.items()]
    page.set_input_files("#files", files)


def add_files(page, **texts):
    """As `choose_files`, until they are listed."""
    choose_files(page, **texts)
    for name in texts:
        expect(page.locator("#documents li", has_text=f"{name}.txt")).to_have_count(1)


def shoot(page, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.png", full_page=True)
