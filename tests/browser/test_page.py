"""The gateway's page in a real headless Chromium, in front of a real gateway and engine. Screenshots: build/screenshots/."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from prepared import prepared
from processes import engine, gateway, server

sync_api = pytest.importorskip("playwright.sync_api", reason="make test-browser installs it")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium: apt install chromium")

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"
EXAMPLES = ROOT / "examples"
expect = sync_api.expect
MASK = "<|doc_mask|>"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def address(base, tmp_path_factory):
    store = tmp_path_factory.mktemp("up") / "store"
    ports = ["--port", 0, "--engine-port", 0]
    with server("serve", "--store", store, *ports, "--no-browser", "--allow-plaintext", "--base", base) as (_, url):
        yield url


@pytest.fixture
def page(browser, request):
    """A page that fails its test when a script fails or something is fetched from elsewhere; and a screenshot at the end."""
    with browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=getattr(request, "param", "light")) as context:
        page, faults, hosts = context.new_page(), [], set()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: hosts.add(re.sub(r"(https?://[^/]+).*", r"\1", asked.url)))
        page.set_default_timeout(30_000)
        yield page
        shoot(page, request.node.name)
        assert not faults and len(hosts) <= 1, (faults, hosts)


def shoot(page, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.png", full_page=True)


def questions():
    return [json.loads(line) for line in (EXAMPLES / "questions.jsonl").read_text().splitlines()]


def ask(page, question):
    page.fill("#question", question)
    page.press("#question", "Enter")
    answer = page.locator(".answer").first
    expect(answer.locator("h3")).to_have_text(question)
    expect(page.locator("#ask")).to_be_enabled()
    return answer


def test_a_newcomer_drops_files_asks_and_sees_what_left(page, address):
    page.goto(address)
    expect(page.locator("#state")).to_have_text("engine ready")
    expect(page.locator("#documents-empty")).to_be_visible()
    shoot(page, "the empty page")
    files = sorted((EXAMPLES / "documents").iterdir())
    page.set_input_files("#files", files)
    expect(page.locator("#documents li")).to_have_count(len(files))
    for record in questions()[:2]:
        answer = ask(page, record["question"])
        assert answer.locator(".text").inner_text().strip()
        assert answer.locator(".passages li").count() >= 1
        wire = answer.locator(".wire")
        expect(wire.locator(".prompt .mask").first).to_contain_text(MASK)
        assert "adapter of" in wire.locator(".sizes").inner_text()
        expect(wire.locator(".caution")).to_contain_text("can question it")
        assert re.search(r"\d+ rows of 32 numbers.* after layer 1;", wire.locator("figcaption").inner_text())
        assert "POST /v1/completions" in wire.locator("table").inner_text()
    hidden = page.locator(".answer").first.locator(".passages li").first.inner_text().split()[:6]
    assert " ".join(hidden) not in page.locator(".answer").first.locator(".wire").inner_text()


def test_dropping_a_file_adds_it_and_a_wrong_one_says_why(page, address):
    page.goto(address)
    expect(page.locator("#state")).to_have_text("engine ready")
    before = page.locator("#documents li").count()
    page.evaluate(
        """() => {
            const transfer = new DataTransfer();
            transfer.items.add(new File(["Petra Quenruf lives in Oakport."], "dropped.txt", { type: "text/plain" }));
            transfer.items.add(new File([new Uint8Array([0, 1, 2, 255, 0])], "broken.pdf"));
            document.querySelector("#drop").dispatchEvent(
                new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }"""
    )
    expect(page.locator("#documents li", has_text="dropped.txt")).to_have_count(1)
    expect(page.locator("#uploads .bad")).to_contain_text("broken.pdf")
    assert page.locator("#documents li").count() == before + 1 or before == 0
    page.get_by_role("button", name="Delete dropped.txt").click()
    expect(page.locator("#documents li", has_text="dropped.txt")).to_have_count(0)


def test_the_same_question_without_documents_and_as_plain_rag(page, address):
    record = questions()[1]
    page.goto(address)
    ask(page, record["question"])
    page.get_by_role("button", name="Ask the same without documents").first.click()
    closed = page.locator(".answer").first
    expect(closed.locator(".mode")).to_have_text("without documents")
    expect(page.locator("#ask")).to_be_enabled()
    assert "no adapter" in closed.locator(".sizes").inner_text() and closed.locator(".prompt .mask").count() == 0
    page.get_by_role("button", name="Ask the same as plain RAG").first.click()
    plain = page.locator(".answer").first
    expect(plain.locator(".mode")).to_have_text("documents in plain text")
    expect(page.locator("#ask")).to_be_enabled()
    assert "documents in plain text" in plain.locator(".sizes").inner_text()


def test_history_stays_in_this_browser_until_it_is_forgotten(page, address):
    page.goto(address)
    ask(page, questions()[2]["question"])
    page.reload()
    expect(page.locator(".answer h3").first).to_have_text(questions()[2]["question"])
    page.click("#clear")
    expect(page.locator(".answer")).to_have_count(0)
    page.reload()
    expect(page.locator("#answers-empty")).to_be_visible()
    expect(page.locator(".answer")).to_have_count(0)


@pytest.mark.parametrize("page", ["dark"], indirect=True)
def test_everything_works_from_the_keyboard_and_in_the_dark(page, address):
    page.goto(address)
    expect(page.locator("#state")).to_have_text("engine ready")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", background)[:3])) < 200
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.type(questions()[3]["question"])
    page.keyboard.press("Enter")
    expect(page.locator(".answer .text").first).not_to_be_empty()
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert {"files", "mode", "top-k", "clear"} <= reached


def test_a_phone_shows_everything_without_scrolling_sideways(page, address):
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(address)
    ask(page, questions()[4]["question"])
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for place in ("#drop", "#ask"):
        box = page.locator(place).bounding_box()
        assert box["height"] >= 32 and box["x"] >= 0 and box["x"] + box["width"] <= 360


def test_a_lost_engine_and_a_lost_gateway_are_said(page, base, tmp_path):
    with engine(tmp_path, base) as (engine_process, engine_url), gateway(tmp_path, engine_url, base) as (gateway_process, url):
        page.goto(url)
        expect(page.locator("#state")).to_have_text("engine ready")
        engine_process.kill()
        page.fill("#question", "Where?")
        page.select_option("#mode", "closed_book")
        page.click("#ask")
        expect(page.locator(".answer .error").first).to_contain_text("cannot be reached")
        shoot(page, "the engine is lost")
        gateway_process.kill()
        expect(page.locator("#ask")).to_be_enabled()
        page.click("#ask")
        expect(page.locator(".answer .error").first).to_contain_text("does not answer")


def test_a_gateway_with_keys_asks_for_one(page, base, tmp_path):
    key = tmp_path / "gateway-key"
    key.write_text("a-key-for-people-only\n")
    with engine(tmp_path, base) as (_, engine_url), gateway(tmp_path, engine_url, base, "--api-key-file", key) as (_, url):
        page.goto(url)
        expect(page.locator("#key-form")).to_be_visible()
        page.fill("#key", "wrong-wrong-wrong-wrong")
        page.click("#key-form button")
        expect(page.locator("#documents .error")).to_contain_text("key")
        page.fill("#key", "a-key-for-people-only")
        page.click("#key-form button")
        expect(page.locator("#documents-empty")).to_be_visible()
        expect(page.locator("#key-form")).to_be_hidden()
