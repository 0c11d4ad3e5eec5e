"""The pictures of the page in docs/images, from a running gateway with an empty store: what a newcomer sees, state by state.

    dprag serve --no-browser --store NEW --port 8080        # in another terminal; the default base
    python scripts/make_page_pictures.py http://127.0.0.1:8080

Needs `pip install '.[browser]'` and a Chromium (apt install chromium).
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
DOCUMENTS = sorted((ROOT / "examples" / "documents").iterdir())
QUESTION = "How much is the deposit that the tenant pays?"
WAIT = 300_000  # milliseconds


def main(url: str) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 760}, color_scheme="light")
        page.set_default_timeout(WAIT)
        expect.set_options(timeout=WAIT)
        page.goto(url)
        expect(page.locator("#state")).to_have_text("engine ready")
        expect(page.locator("#documents-empty")).to_be_visible()
        picture(page, "empty")
        busy(page)
        answered(page)
        error(page, url)
        browser.close()


def busy(page: Page) -> None:
    """Files being read, and a question that waits for its answer."""
    page.set_input_files("#files", DOCUMENTS[0])
    expect(page.locator("#documents li")).to_have_count(1)
    long = {
        "name": "minutes-1950-2020.txt",
        "mimeType": "text/plain",
        "buffer": b"The board met and closed at nine.\n\n" * 20_000,
    }
    page.set_input_files("#files", [long, *({"name": f.name, "mimeType": "", "buffer": f.read_bytes()} for f in DOCUMENTS[1:3])])
    expect(page.locator("#uploads")).to_contain_text("reading …")
    page.fill("#question", "Who chaired the board meeting of the Fenbrook Rowing Club?")
    page.press("#question", "Enter")
    picture(page, "busy")
    expect(page.locator("#uploads progress")).to_have_count(0)
    expect(page.locator("#ask")).to_be_enabled()
    page.get_by_role("button", name="Delete minutes-1950-2020.txt").click()
    expect(page.locator("#documents li", has_text="minutes-1950-2020.txt")).to_have_count(0)


def answered(page: Page) -> None:
    """An answer with its passages beside what left, and the passage in its document."""
    page.set_input_files("#files", DOCUMENTS)
    expect(page.locator("#uploads progress")).to_have_count(0)
    page.click("#hide-uploads")
    page.click("#clear")
    ask(page, QUESTION)
    page.locator("#ask").focus()
    picture(page, "answered", full_page=True)
    page.locator(".passages a").first.click()
    expect(page.locator("#viewer .cited")).to_be_focused()
    picture(page, "citation")
    page.keyboard.press("Escape")


def error(page: Page, url: str) -> None:
    """A file that cannot be read, and a question that would send a document's words."""
    page.click("#clear")
    page.set_input_files("#files", {"name": "scan.pdf", "mimeType": "application/pdf", "buffer": b"not a PDF at all"})
    expect(page.locator("#uploads .bad")).to_be_visible()
    quoted = page.request.get(f"{url}/v1/search", params={"q": QUESTION, "limit": 1}).json()["data"][0]["text"]
    page.fill("#question", f"Is this right: {' '.join(quoted.split()[:14])}")
    page.press("#question", "Enter")
    expect(page.locator(".answer .error")).to_be_visible()
    picture(page, "error")


def ask(page: Page, question: str) -> None:
    page.fill("#question", question)
    page.press("#question", "Enter")
    expect(page.locator("#ask")).to_be_enabled()
    expect(page.locator(".answer .text").first).not_to_be_empty()


def picture(page: Page, state: str, full_page: bool = False) -> None:
    """docs/images/page-STATE.png, in 64 colours to keep it small."""
    image = Image.open(io.BytesIO(page.screenshot(full_page=full_page))).convert("RGB")
    image.quantize(64).save(IMAGES / f"page-{state}.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
