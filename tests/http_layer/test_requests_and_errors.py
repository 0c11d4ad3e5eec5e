"""OpenAI's chat schema as both servers read it, and errors in OpenAI's shape."""

from __future__ import annotations

import pytest

from distilledprag.errors import InputError
from distilledprag.gateway.chat import ChatRequest as GatewayChatRequest
from distilledprag.http.answers import event
from distilledprag.http.errors import BusyError, KeyRefusedError, RequestError, error_record
from distilledprag.http.openai import ChatRequest, parse_request

CHAT = {"model": "base", "messages": [{"role": "user", "content": "Where?"}]}


def refusal(kind, fields, **options):
    with pytest.raises(RequestError) as caught:
        parse_request(kind, fields, **options)
    return caught.value


def test_content_may_be_parts_of_text_and_nothing_else():
    parts = [{"type": "text", "text": "Where "}, {"type": "text", "text": "is it?"}]
    request = parse_request(ChatRequest, CHAT | {"messages": [{"role": "user", "content": parts}]})
    assert request.conversation == [{"role": "user", "content": "Where is it?"}]
    for part in ({"type": "image_url", "image_url": {"url": "x"}}, {"type": "text"}, {"type": "text", "text": 1}, "text"):
        error = refusal(ChatRequest, CHAT | {"messages": [{"role": "user", "content": [part]}]})
        assert error.status == 400 and "only text" in str(error) and error.param.startswith("messages.0.content")


@pytest.mark.parametrize("fields", [
    {"best_of": 2}, {"tools": [{"type": "function"}]}, {"tool_choice": "required"}, {"logit_bias": {"5": 1}},
    {"audio": {"voice": "x"}}, {"presence_penalty": 0.5},
])  # fmt: skip
def test_what_would_change_an_answer_is_refused_by_both_servers(fields):
    for kind, options in ((ChatRequest, {}), (GatewayChatRequest, {"ignore_unknown": True})):
        error = refusal(kind, CHAT | fields, **options)
        assert (error.code, error.param) == ("unsupported_parameter", next(iter(fields)))


@pytest.mark.parametrize("fields", [
    {"n": 9}, {"n": True}, {"top_logprobs": 21}, {"response_format": {"type": "xml"}},
    {"response_format": {"type": "json_schema"}},
    {"stop": ["a"] * 5}, {"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": ["x" * 70_000]}}}},
])  # fmt: skip
def test_a_value_outside_its_bounds_is_refused_by_its_field(fields):
    for kind, options in ((ChatRequest, {}), (GatewayChatRequest, {"ignore_unknown": True})):
        error = refusal(kind, CHAT | fields, **options)
        assert error.code == "invalid_request" and error.param.partition(".")[0] == next(iter(fields))


def test_values_that_do_nothing_are_let_through():
    harmless = {"n": 1, "tools": [], "tool_choice": "auto", "logprobs": None, "presence_penalty": 0.0, "logit_bias": {}}
    for kind in (ChatRequest, GatewayChatRequest):
        assert parse_request(kind, CHAT | harmless | {"user": "u", "metadata": {}}).model == "base"


def test_unknown_fields_are_refused_unless_they_are_to_be_ignored():
    assert refusal(ChatRequest, CHAT | {"unheard_of": 1}).param == "unheard_of"
    answered = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    messages = [CHAT["messages"][0], answered, {"role": "user", "content": "And?"}]
    strict = parse_request(ChatRequest, CHAT | {"messages": messages})
    lenient = parse_request(GatewayChatRequest, CHAT | {"messages": messages, "unheard_of": 1}, ignore_unknown=True)
    for request in (strict, lenient):
        assert [message["content"] for message in request.conversation] == ["Where?", "", "And?"]
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}
    assert refusal(ChatRequest, CHAT | {"messages": [called]}).param.startswith("messages.0")
    silent = {"role": "user", "content": None}
    for kind in (ChatRequest, GatewayChatRequest):
        assert refusal(kind, CHAT | {"messages": [silent]}).param == "messages.0"


def test_a_refusal_never_repeats_what_was_sent():
    for fields in ({"temperature": "Zorvathian"}, {"messages": "Zorvathian"}, {"messages": [{"role": "Zorvathian"}]}):
        assert "Zorvathian" not in str(refusal(ChatRequest, CHAT | fields))


def test_errors_have_openais_shape_and_tell_nothing_of_faults():
    def explain(error):
        return RequestError(str(error)) if isinstance(error, InputError) else None

    assert error_record(KeyRefusedError("no key"), explain) == (
        401,
        {"error": {"message": "no key", "type": "authentication_error", "param": None, "code": "invalid_api_key"}},
        {"www-authenticate": "Bearer"},
    )
    assert error_record(BusyError("busy", retry_after=0.2), explain)[2] == {"retry-after": "1"}
    assert error_record(InputError("empty"), explain)[0] == 400
    status, record, _ = error_record(RuntimeError("Zorvathian"), explain)
    assert status == 500 and record["error"]["code"] == "internal_error" and "Zorvathian" not in str(record)


def test_stream_events_are_one_line_of_json_each():
    assert event({"a": "é\n"}) == 'data: {"a": "é\\n"}\n\n'.encode()
