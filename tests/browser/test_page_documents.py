"""Documents on the page: their way in, collections, search, and from an answer to the passage that it rests on."""

from __future__ import annotations

import json
import re

from page_steps import add_files, ask, choose_files, expect

STAFF = "Petra Quenruf lives in Oakport. She repairs clocks."
BOATS = "The Copperleaf was built in 1987.\n\nThe Copperleaf carries 412 passengers.\n\nThe Silverfin is a tug."
STATES = """() => {
    window.states = [];
    new MutationObserver(() => window.states.push(document.querySelector("#uploads").textContent))
        .observe(document.querySelector("#uploads"), { childList: true, subtree: true });
}"""


def test_dropping_a_file_adds_it_and_a_wrong_one_says_why(opened):
    page = opened("dropped")
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
    assert page.locator("#documents li").count() == 1
    page.get_by_role("button", name="Delete dropped.txt").click()
    expect(page.locator("#documents li", has_text="dropped.txt")).to_have_count(0)


def test_each_file_says_how_far_it_is_and_what_could_not_be_read(opened):
    page = opened("progress")

    def note(route):
        route.fulfill(json={"id": "1", "ids": ["1"], "passages": 7, "notes": ["scan.txt: page 2 holds no text (scanned?)"]})

    page.evaluate(STATES)
    add_files(page, small=STAFF)
    seen = page.evaluate("window.states")
    assert any("waiting" in state for state in seen) and any("reading" in state for state in seen)
    assert seen[-1] == "small.txtread: 1 passage"
    page.route("**/v1/documents", lambda route: note(route) if route.request.method == "POST" else route.continue_())
    choose_files(page, scan="a scanned page")
    scanned = page.locator("#uploads li", has_text="scan.txt")
    expect(scanned).to_contain_text("read: 7 passages")
    assert scanned.locator(".note").all_inner_texts() == ["page 2 holds no text (scanned?)"]
    expect(page.locator("#said")).to_have_text("scan.txt: read: 7 passages; page 2 holds no text (scanned?)")
    page.click("#hide-uploads")
    expect(page.locator("#uploads li")).to_have_count(0)


def test_an_upload_can_be_stopped_and_the_next_file_is_still_read(opened):
    page = opened("stopped")
    held = []

    def hold_the_first(route):
        if route.request.method == "POST" and not held:
            held.append(route)  # and never answer it
        else:
            route.continue_()

    page.route("**/v1/documents", hold_the_first)
    choose_files(page, long="Long text.", short=STAFF)
    page.get_by_role("button", name="Stop long.txt").click()
    expect(page.locator("#uploads .bad")).to_have_text("long.txtstopped")
    expect(page.locator("#documents li")).to_have_count(1)
    expect(page.locator("#documents li")).to_contain_text("short.txt")


def test_a_collection_has_documents_of_its_own_and_is_asked_alone(opened):
    page = opened("boats")
    add_files(page, boats=BOATS)
    opened("staff")
    expect(page.locator("#documents-empty")).to_be_visible()
    add_files(page, staff=STAFF)
    answer = ask(page, "Does the Copperleaf live in Oakport?")
    expect(answer.locator(".mode")).to_have_text("documents as an adapter, collection staff")
    assert answer.locator(".passages a").all_inner_texts() == ["staff.txt, passage 1"]
    page.reload()
    expect(page.locator("#documents li")).to_contain_text("staff.txt")
    page.select_option("#collection", "boats")
    expect(page.locator("#documents li")).to_contain_text("boats.txt")
    expect(page.locator("#count")).to_have_text("(1)")


def test_a_search_leads_to_the_passage_in_its_document_and_back(opened):
    page = opened("searched")
    add_files(page, boats=BOATS, staff=STAFF)
    page.fill("#search", "Silverfin tug")
    page.press("#search", "Enter")
    expect(page.locator("#search-status")).to_have_text("1 passage with these words")
    assert page.locator("#found mark").all_inner_texts() == ["Silverfin", "tug"]
    page.locator("#found a").click()
    cited = page.locator("#viewer .cited")
    expect(cited).to_be_focused()
    expect(cited).to_contain_text("The Silverfin is a tug.")
    assert "cited" in cited.inner_text() and page.locator("#viewer-title").inner_text() == "boats.txt"
    assert "#document/" in page.url
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator("#found a")).to_be_focused()
    expect(page).not_to_have_url(re.compile("#document/"))  # the dialog tells of its end a moment later
    page.fill("#search", "zebra")
    page.press("#search", "Enter")
    expect(page.locator("#search-status")).to_have_text("no passage has one of these words")
    page.click("#end-search")
    expect(page.locator("#search-results")).to_be_hidden()


def test_an_answer_cites_the_passage_that_holds_it_and_leads_there(opened):
    page = opened("cited")
    add_files(page, boats=BOATS, staff=STAFF)
    ask(page, "How many passengers does the Copperleaf carry?")
    stored = json.loads(page.evaluate("localStorage.getItem('distilledprag.answers')"))
    right, wrong = stored[0] | {"text": "412  Passengers."}, stored[0] | {"text": "413 passengers"}  # as a good model answers
    page.evaluate("all => localStorage.setItem('distilledprag.answers', all)", json.dumps([right, wrong]))
    page.reload()
    wrong, right = page.locator(".answer").nth(0), page.locator(".answer").nth(1)
    expect(wrong.locator(".cited-in")).to_have_text("Not word for word in any of the passages; check it there.")
    expect(right.locator(".cited-in")).to_contain_text("Word for word in [")
    assert right.locator(".passages mark").all_inner_texts() == ["412 passengers"]
    right.locator(".cited-in a").click()
    expect(page.locator("#viewer .cited")).to_contain_text("The Copperleaf carries 412 passengers.")
    page.click("#viewer-close")
    page.get_by_role("button", name="Delete boats.txt").click()
    expect(page.locator("#documents li")).to_have_count(1)
    right.locator(".cited-in a").click()
    expect(page.locator("#viewer-about")).to_contain_text("no document with this id")
