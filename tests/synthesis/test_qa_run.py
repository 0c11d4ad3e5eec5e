"""What is asked, kept, asked again and stopped: on a model in this process that counts its requests."""

from __future__ import annotations

import asyncio
import json

import pytest
from pydantic import ValidationError
from qa_server import company, document, documents_in, pairs_about

from distilledprag.errors import EndpointError
from distilledprag.synthesis import Document, QaSettings, Replies, Synthesis, plan_items
from distilledprag.synthesis.llm import Reply, RequestFailed
from distilledprag.synthesis.output import make_report
from distilledprag.synthesis.sources import DocumentSample

DOCUMENTS = [Document(document(i)) for i in range(6)]


class Writer:
    """Writes what `write(request, number)` says: a text, or an exception to raise. By default, good pairs and true answers."""

    name = "writer"

    def __init__(self, write=None):
        self.requests = []
        self.write = write or good

    async def reply(self, request):
        self.requests.append(request)
        text = self.write(request, len(self.requests) - 1)
        await asyncio.sleep(0)
        if isinstance(text, Exception):
            raise text
        return Reply(text, 100, 10, "stop")

    async def close(self): ...


def good(request, number=0):
    content = request.messages[-1]["content"]
    texts = documents_in({"messages": request.messages})
    if request.purpose == "write":
        return json.dumps({"pairs": pairs_about(texts, content)})
    facts = {pair["question"]: pair["answer"] for pair in pairs_about(texts)} if texts else {}
    return facts.get(content.rsplit("Question: ", 1)[1], "unknown")


@pytest.fixture
def run(tmp_path):
    """Run over documents; returns (outcomes, synthesis). The journal is the same for all runs of a test."""

    def start(writer, documents=DOCUMENTS[:3], partners=1, seed=0, **settings):
        with Replies(tmp_path / "journal.jsonl") as replies:
            items = plan_items(documents, partners, seed)
            synthesis = Synthesis(items, writer, replies, QaSettings(**settings))
            return asyncio.run(synthesis.run()), synthesis

    return start


def questions(outcomes):
    return [pair.question for outcome in outcomes for pair in outcome.pairs]


def reasons(outcomes):
    return [rejection.reason for outcome in outcomes for rejection in outcome.rejected]


def test_every_item_gets_its_pairs_in_the_order_of_the_plan(run):
    writer = Writer()
    outcomes, synthesis = run(writer, DOCUMENTS)
    assert [outcome.item for outcome in outcomes] == synthesis.items
    assert [len(outcome.pairs) for outcome in outcomes] == [2 if o.item.kind == "single" else 5 for o in outcomes]
    assert len(writer.requests) == len(outcomes) == 12
    assert synthesis.usage.prompt_tokens == 1200 and synthesis.usage.completion_tokens == 120


def test_the_llm_is_told_how_many_and_sees_the_text_but_not_the_title(run):
    writer = Writer()
    run(writer, [Document(document(0), "A Hidden Title"), Document(document(1))], concurrency=1)
    single, cross = (request.messages[-1]["content"] for request in writer.requests[:2])
    assert "2 to 5 question" in single and document(0) in single and "Hidden" not in single
    assert "at least 5 question" in cross and document(0) in cross and document(1) in cross


@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_no_more_requests_are_under_way_than_allowed_and_the_pairs_do_not_depend_on_it(run, concurrency):
    class Slow(Writer):
        now = most = 0

        async def reply(self, request):
            self.now += 1
            self.most = max(self.most, self.now)
            for _ in range(3):
                await asyncio.sleep(0)
            self.now -= 1
            return await super().reply(request)

    writer = Slow()
    outcomes, _ = run(writer, DOCUMENTS, concurrency=concurrency)
    assert writer.most == concurrency
    assert questions(outcomes)[:2] == [f"When was {company(0)} founded?", f"Where was {company(0)} founded?"]


def test_missing_pairs_are_asked_for_again_and_the_taken_questions_named(run):
    def write(request, number):
        pairs = json.loads(good(request))["pairs"]
        return json.dumps({"pairs": pairs[:1]})

    writer = Writer(write)
    outcomes, _ = run(writer, DOCUMENTS[:1])
    assert questions(outcomes) == [f"When was {company(0)} founded?", f"Where was {company(0)} founded?"]
    assert len(writer.requests) == 2
    again = writer.requests[1].messages[-1]["content"]
    assert "at least 1 question" in again and f"- When was {company(0)} founded?" in again


STRANGE = {
    "cut_off": Reply("", 100, 2048, "length"),  # null content
    "empty_reply": Reply("", 100, 0, "stop"),
    "refused_reply": Reply("", 100, 5, "content_filter"),
}


@pytest.mark.parametrize("reason", STRANGE)
def test_a_reply_without_any_text_says_why_and_is_counted_in_the_report(run, reason):
    class Strange(Writer):
        async def reply(self, request):
            return STRANGE[reason]

    outcomes, synthesis = run(Strange(), DOCUMENTS[:1], partners=0, attempts=1)
    assert reasons(outcomes) == [reason]
    report = make_report(
        synthesis, outcomes, DocumentSample([], 1, {}), retried={}, changed=["temperature"], seconds=0.0, config={}
    )
    assert report["replies"]["finish"] == {STRANGE[reason].finish: 1, "empty": 1} and report["changed"] == ["temperature"]


def test_a_draft_before_the_end_of_reasoning_is_not_kept_and_the_report_counts_it(run):
    writer = Writer(lambda request, number: good(request).replace("Foods", "Drafts") + "</think>" + good(request))
    outcomes, synthesis = run(writer, DOCUMENTS[:1], partners=0)
    assert len(questions(outcomes)) == 2 and not any("Drafts" in question for question in questions(outcomes))
    report = make_report(synthesis, outcomes, DocumentSample([], 1, {}), retried={}, changed=[], seconds=0.0, config={})
    assert report["replies"]["reasoning"] == {"unopened": 1}


def test_an_unreadable_reply_is_reported_and_asked_for_again_once(run):
    writer = Writer(lambda request, number: "I would rather not." if number == 0 else good(request))
    outcomes, _ = run(writer, DOCUMENTS[:1])
    assert len(questions(outcomes)) == 2 and reasons(outcomes) == ["unreadable_reply"]
    assert outcomes[0].rejected[0].found == "I would rather not."
    hopeless = Writer(lambda request, number: "No.")
    outcomes, _ = run(hopeless, DOCUMENTS[1:2], attempts=3)
    assert len(hopeless.requests) == 3 and not questions(outcomes)


def test_rejected_pairs_are_reported_with_their_reason_and_not_kept(run):
    name = company(0)
    bad = [
        ("When was it founded?", "1900", "needs_title"),
        ("What is the passage about?", name, "about_the_document"),
        (f"Who runs {name}?", "not mentioned", "empty_answer"),
        (f"when was {name} founded", "1900", "duplicate"),
    ]
    pairs = pairs_about([document(0)]) + [{"question": question, "answer": answer} for question, answer, _ in bad]
    pairs += [{"question": f"What was {name}'s rank in {year}?", "answer": "5"} for year in range(5)]
    outcomes, _ = run(Writer(lambda *_: json.dumps(pairs)), DOCUMENTS[:1])
    assert reasons(outcomes) == [reason for _, _, reason in bad] + ["beyond_maximum"] * 2
    assert len(questions(outcomes)) == 5


def test_a_question_asked_about_two_documents_is_kept_once_whoever_answered_first(run):
    same = json.dumps([{"question": "Who is Ann Tov?", "answer": "x"}, {"question": "Where is Ann Tov?", "answer": "y"}])
    outcomes, _ = run(Writer(lambda *_: same), DOCUMENTS[:3], partners=0)
    assert [len(outcome.pairs) for outcome in outcomes] == [2, 0, 0] and reasons(outcomes) == ["duplicate"] * 4


def test_verification_keeps_what_needs_the_document(run):
    def write(request, number):
        content = request.messages[-1]["content"]
        if request.purpose == "verify_open" and "When was" in content:
            return "1850"
        if request.purpose == "verify_closed" and f"Where was {company(1)}" in content:
            return "Surely Oakport 1."
        return good(request)

    writer = Writer(write)
    outcomes, _ = run(writer, DOCUMENTS[:2], partners=0, verify=True, attempts=1)
    assert questions(outcomes) == [f"Where was {company(0)} founded?"]
    assert sorted(reasons(outcomes)) == ["known_without_document"] + ["wrong_with_document"] * 2
    closed = [r.messages[-1]["content"] for r in writer.requests if r.purpose == "verify_closed"]
    assert len(closed) == 2 and not any(document(0) in text or document(1) in text for text in closed)
    assert all(request.temperature == 0 for request in writer.requests if request.purpose != "write")


def test_the_same_request_never_goes_out_twice_at_once(run):
    same = json.dumps([{"question": "Who is Ann Tov?", "answer": "x"}])
    writer = Writer(lambda request, _: same if request.purpose == "write" else ("x" if "<document>" in str(request) else "?"))
    run(writer, DOCUMENTS[:6], partners=0, verify=True, attempts=1, concurrency=6)
    assert [request.purpose for request in writer.requests].count("verify_closed") == 1


@pytest.mark.parametrize("verify", [False, True])
def test_an_interrupted_run_goes_on_without_sending_an_answered_request_again(run, verify):
    def interrupted(request, number):
        return ValueError("the plug") if number == 8 else good(request)

    first, second = Writer(interrupted), Writer()
    with pytest.raises(ValueError, match="the plug"):
        run(first, DOCUMENTS, verify=verify, concurrency=3)
    outcomes, synthesis = run(second, DOCUMENTS, verify=verify, concurrency=3)
    answered = first.requests[:8] + first.requests[9:] + second.requests
    assert len({request.key("writer") for request in answered}) == len(answered) >= 12
    assert synthesis.usage_now.requests == len(second.requests) and synthesis.usage.requests == len(answered)
    assert len(questions(outcomes)) == 6 * 2 + 6 * 5 and not reasons(outcomes)


def test_a_failed_request_leaves_its_item_unfinished_and_the_next_run_finishes_it(run):
    def write(request, number):
        return RequestFailed("HTTP 500, 9 times") if document(1) in str(request.messages) else good(request)

    outcomes, _ = run(Writer(write), DOCUMENTS[:3], partners=0)
    assert [outcome.unfinished for outcome in outcomes] == [None, "HTTP 500, 9 times", None]
    assert len(questions(outcomes)) == 4
    second = Writer()
    outcomes, _ = run(second, DOCUMENTS[:3], partners=0)
    assert len(second.requests) == 1 and len(questions(outcomes)) == 6
    assert not any(outcome.unfinished for outcome in outcomes)


def test_failures_in_a_row_end_the_run_and_say_why(run):
    writer = Writer(lambda request, number: good(request) if number < 2 else RequestFailed("HTTP 500, 9 times"))
    with pytest.raises(EndpointError, match=r"3 requests in a row failed.*HTTP 500.*run the same command again"):
        run(writer, DOCUMENTS, give_up_after=3, concurrency=1)
    assert len(writer.requests) == 5


def test_replies_under_way_are_journaled_when_the_run_must_end(run):
    class Mixed(Writer):
        async def reply(self, request):
            if len(self.requests) == 2:
                self.requests.append(request)
                raise EndpointError("the account is used up")
            return await super().reply(request)

    first = Mixed()
    with pytest.raises(EndpointError, match="used up"):
        run(first, DOCUMENTS, concurrency=3)
    second = Writer()
    run(second, DOCUMENTS)
    answered = {request.key("writer") for request in first.requests[:2] + first.requests[3:]}
    assert answered and not answered & {request.key("writer") for request in second.requests}


def test_a_budget_stops_the_run_when_it_is_spent_and_counts_earlier_runs(run):
    prices = {"prompt_price": 10.0, "completion_price": 100.0}  # a reply costs 0.002
    first = Writer()
    outcomes, synthesis = run(first, DOCUMENTS, concurrency=1, budget=0.005, **prices)
    assert len(first.requests) == 3 and synthesis.usage.cost(synthesis.settings) == pytest.approx(0.006)
    assert [outcome.unfinished for outcome in outcomes].count("the budget of $0.005 is used up") == len(outcomes) - 3
    second = Writer()
    run(second, DOCUMENTS, concurrency=1, budget=0.009, **prices)
    assert len(second.requests) == 2


def test_a_budget_cannot_be_kept_without_token_counts(run):
    class Silent(Writer):
        async def reply(self, request):
            return Reply((await super().reply(request)).text)

    with pytest.raises(EndpointError, match="token counts"):
        run(Silent(), DOCUMENTS, prompt_price=1, completion_price=1, budget=1)


@pytest.mark.parametrize(
    "settings", [{"single_min": 6}, {"prompt_price": 1}, {"budget": 1}, {"attempts": 0}, {"concurrency": 0}, {"unknown": 1}]
)
def test_settings_that_contradict_are_refused(settings):
    with pytest.raises(ValidationError):
        QaSettings(**settings)
