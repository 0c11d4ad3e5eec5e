"""Asking on the page, and what it shows beside an answer."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from page_steps import add_files, ask, expect, shoot
from processes import engine, gateway

EXAMPLES = Path(__file__).parents[2] / "examples"
MASK = "<|doc_mask|>"


def questions():
    return [json.loads(line) for line in (EXAMPLES / "questions.jsonl").read_text().splitlines()]


def test_a_newcomer_adds_files_asks_and_sees_what_left(opened):
    page = opened("newcomer")
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


def test_the_same_question_without_documents_and_as_plain_rag(opened):
    page = opened("plain")
    add_files(page, staff="Petra Quenruf lives in Oakport.")
    ask(page, "Where does Petra Quenruf live?")
    page.get_by_role("button", name="Ask the same without documents").first.click()
    closed = page.locator(".answer").first
    expect(closed.locator(".mode")).to_have_text("without documents")
    expect(page.locator("#ask")).to_be_enabled()
    assert "no adapter" in closed.locator(".sizes").inner_text() and closed.locator(".prompt .mask").count() == 0
    page.get_by_role("button", name="Ask the same as plain RAG").first.click()
    plain = page.locator(".answer").first
    expect(plain.locator(".mode")).to_have_text("documents in plain text, collection plain")
    expect(page.locator("#ask")).to_be_enabled()
    assert "documents in plain text" in plain.locator(".sizes").inner_text()


def test_what_is_copied_as_curl_and_python_asks_the_same(opened):
    page = opened("copied")
    add_files(page, staff="Petra Quenruf lives in Oakport.")
    answer = ask(page, """Where does "Petra" Quenruf's family live, naïvely?""")
    written = answer.locator(".text").inner_text()
    for name, run in (("curl", ["bash", "-c"]), ("Python", [sys.executable, "-c"])):
        answer.get_by_role("button", name=f"Copy as {name}").click()
        expect(page.locator("#said")).to_have_text(f"copied as {name}")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert answer.locator("pre").inner_text() == copied and '"collection":"copied"' in copied
        printed = subprocess.run([*run, copied], capture_output=True, text=True, check=True).stdout
        if name == "curl":
            printed = json.loads(printed)["choices"][0]["message"]["content"]
        assert printed.split() == written.split()


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
    assert {"collection", "New collection", "files", "search", "mode", "top-k", "Copy as curl", "clear"} <= reached


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
        page.get_by_role("button", name="Ask again").click()
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
