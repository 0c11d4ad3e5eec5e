"""The page as axe-core judges it for people with screen readers, keyboards and weak eyes: no serious or critical finding."""

from __future__ import annotations

import pytest
from page_steps import add_files, ask, choose_files, expect

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="make test-browser installs it")


def findings(page):
    """What axe-core finds: rule, impact and the elements."""
    found = axe.Axe().run(page).response["violations"]
    return [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found if rule["impact"] in ("serious", "critical")]


def test_axe_core_finds_a_fault_that_is_there(opened):
    page = opened("faulty")
    page.evaluate("document.querySelector('label[for=question]').remove(); document.querySelector('#question').placeholder = ''")
    assert "label" in dict(findings(page))


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
def test_no_state_of_the_page_has_a_serious_finding(opened, request):
    page = opened(f"accessible-{request.node.callspec.id}")
    expect(page.locator("#state")).to_have_text("engine ready")
    judged = {"empty": findings(page)}
    page.route("**/v1/documents", lambda route: None if route.request.method == "POST" else route.continue_())  # no answer
    page.route("**/v1/chat/completions", lambda route: None)
    choose_files(page, first="One.", second="Two.")
    page.fill("#question", "Where does Petra Quenruf live?")
    page.press("#question", "Enter")
    expect(page.locator("#stop")).to_be_visible()
    judged["busy"] = findings(page)
    page.click("#stop")
    for name in ("second", "first"):
        page.get_by_role("button", name=f"Stop {name}.txt").click()
    expect(page.locator("#uploads .bad")).to_have_count(2)
    page.unroute_all()
    page.set_input_files("#files", [{"name": "broken.pdf", "mimeType": "application/pdf", "buffer": b"no pdf"}])
    expect(page.locator("#uploads .bad", has_text="broken.pdf")).to_be_visible()
    expect(page.locator(".answer .error")).to_have_text("Stopped.")
    judged["error"] = findings(page)
    add_files(page, staff="Petra Quenruf lives in Oakport. She repairs clocks.")
    answer = ask(page, "Where does Petra Quenruf live?")
    answer.get_by_role("button", name="Copy as curl").click()
    page.fill("#search", "Petra clocks")
    page.press("#search", "Enter")
    expect(page.locator("#found li")).to_have_count(1)
    judged["answered"] = findings(page)
    page.locator("#found a").click()
    expect(page.locator("#viewer .cited")).to_be_focused()
    judged["document"] = findings(page)
    assert judged == {state: [] for state in judged}
