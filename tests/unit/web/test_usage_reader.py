"""Tokens of an answer, read from JSON and from event streams in any chunks."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlimit.core.quota import MAX_SAFE_INTEGER
from fleetlimit.core.usage import Provider
from fleetlimit.web import usage_scanner
from fleetlimit.web.usage_reader import UsageReader
from fleetlimit.web.usage_scanner import MAX_OBJECT_BYTES, UsageScanner

OPENAI, ANTHROPIC = Provider.OPENAI, Provider.ANTHROPIC
CHAT = {
    "id": "chatcmpl-1",
    "choices": [{"message": {"content": 'say "usage": {"total_tokens": 9} \\ é {['}}],
    "usage": {
        "prompt_tokens": 12,
        "completion_tokens": 8,
        "total_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 4},
    },
}
RESPONSES = {"output": [], "usage": {"input_tokens": 5, "output_tokens": 6, "total_tokens": 11}}
MESSAGE = {
    "content": [{"type": "text", "text": "}"}],
    "usage": {
        "input_tokens": 10,
        "cache_creation_input_tokens": 100,
        "cache_read_input_tokens": 1000,
        "output_tokens": 7,
        "service_tier": "standard",
    },
}
CHAT_STREAM = [
    {"choices": [{"delta": {"content": "a"}}], "usage": None},
    {"choices": [{"delta": {"content": '"usage": {"total_tokens": 1}'}}], "usage": None},
    {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}},
]
RESPONSES_STREAM = [
    {"type": "response.created", "response": {"id": "r", "usage": None}},
    {"type": "response.output_text.delta", "delta": "usage"},
    {"type": "response.completed", "response": {"output": [{"usage": {}}], **RESPONSES}},
]
MESSAGE_STREAM = [
    {"type": "message_start", "message": {"usage": {"input_tokens": 25, "output_tokens": 1}}},
    {"type": "content_block_delta", "delta": {"text": "\n\ndata: x"}},
    {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 8}},
    {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 15}},
    {"type": "message_stop"},
]
ANSWERS = [
    (OPENAI, CHAT, 20),
    (OPENAI, RESPONSES, 11),
    (OPENAI, {"usage": {"prompt_tokens": 8, "total_tokens": 8}}, 8),
    (OPENAI, {"usage": {"prompt_tokens": 8, "completion_tokens": 1}}, 9),
    (ANTHROPIC, MESSAGE, 1117),
]
STREAMS = [
    (OPENAI, CHAT_STREAM, 7),
    (OPENAI, RESPONSES_STREAM, 11),
    (ANTHROPIC, MESSAGE_STREAM, 40),
]


def event_stream(events: Sequence[Any], end: str = "\n") -> bytes:
    """Return the events as a server sends them, with comments, names and a final marker."""
    lines = [": a comment", ""]
    for each in events:
        lines += [f"event: {each.get('type', 'chunk')}", f"data: {json.dumps(each)}", ""]
    return end.join([*lines, "data: [DONE]", "", ""]).encode()


def read(provider: Provider, chunks: Sequence[bytes], *, events: bool) -> UsageReader:
    """Return a reader that has received the chunks."""
    reader = UsageReader(provider, events=events)
    for chunk in chunks:
        reader.feed(chunk)
    return reader


def split(text: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Return the text in chunks that begin at these places."""
    places = sorted({0, len(text), *(each % (len(text) + 1) for each in cuts)})
    return [text[begin:end] for begin, end in itertools.pairwise(places)]


cuts = st.lists(st.integers(0, 5000), max_size=30)


@pytest.mark.parametrize(("provider", "answer", "tokens"), ANSWERS)
@given(cuts=cuts, indent=st.sampled_from([None, 2]))
def test_json_answer_states_its_tokens_in_any_chunks(
    provider: Provider, answer: Any, tokens: int, cuts: list[int], indent: int | None
) -> None:
    """However the answer is split, its tokens are those of `usage`."""
    text = json.dumps(answer, indent=indent, ensure_ascii=False).encode()
    reader = read(provider, split(text, cuts), events=False)
    assert (reader.tokens, reader.is_complete, reader.is_too_large) == (tokens, True, False)


@pytest.mark.parametrize(("provider", "events", "tokens"), STREAMS)
@given(cuts=cuts, end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_event_stream_states_its_tokens_in_any_chunks(
    provider: Provider, events: Any, tokens: int, cuts: list[int], end: str
) -> None:
    """However the stream is split, and whatever ends its lines, its tokens are the last ones."""
    chunks = split(event_stream(events, end), cuts)
    reader = read(provider, chunks, events=True)
    assert (reader.tokens, reader.is_complete, reader.is_too_large) == (tokens, True, False)


@pytest.mark.parametrize(("provider", "events", "tokens"), STREAMS)
def test_event_stream_is_read_byte_by_byte(provider: Provider, events: Any, tokens: int) -> None:
    """Each byte may be a chunk of its own, and chunks may be empty."""
    text = event_stream(events, "\r\n")
    chunks = [part for byte in text for part in (bytes([byte]), b"")]
    assert read(provider, chunks, events=True).tokens == tokens


def test_event_of_several_data_lines_is_one_text() -> None:
    """The lines of an event are joined by line breaks."""
    text = b'data: {"usage":\ndata:{"total_tokens":\ndata: 5}}\n\n'
    assert read(OPENAI, [text], events=True).tokens == 5


def test_interrupted_message_has_what_was_stated() -> None:
    """Of a stream that ends early, the input is known, and the output so far is not."""
    reader = read(ANTHROPIC, [event_stream(MESSAGE_STREAM[:2])], events=True)
    assert (reader.tokens, reader.is_complete) == (26, False)


def test_event_without_an_end_does_not_spoil_the_next() -> None:
    """A text that ends in the middle of a string is followed by another event."""
    text = b'data: {"a": "\n\ndata: {"usage": {"total_tokens": 5}}\n\n'
    assert read(OPENAI, [text], events=True).tokens == 5


@pytest.mark.parametrize(
    "usage",
    [
        '{"total_tokens": -5, "prompt_tokens": 1, "completion_tokens": 1}',
        '{"total_tokens": NaN}',
        '{"total_tokens": 1e999}',
        '{"total_tokens": 12.5}',
        '{"total_tokens": "12"}',
        '{"total_tokens": true}',
        '{"total_tokens": ' + "9" * 5000 + "}",
        '{"total_tokens": {"a": 1}}',
        '{"prompt_tokens": 5, "completion_tokens": -1}',
        '{"total_tokens": 5,, }',
        '{"total_tokens": ' + "[" * 8000 + "]" * 8000 + "}",
        '{"total_tokens": 5, "pad": "' + "x" * MAX_OBJECT_BYTES + '"}',
        "{}",
        "[]",
        "null",
        "5",
        '"total_tokens"',
        '[{"total_tokens": 5}]',
    ],
)
def test_hostile_usage_states_nothing(usage: str) -> None:
    """What is no number of tokens leaves the estimate, and raises nothing."""
    for provider in Provider:
        spelled = usage
        if provider is ANTHROPIC:
            spelled = usage.replace("total_tokens", "output_tokens")
            spelled = spelled.replace("completion_tokens", "output_tokens")
        text = f'{{"usage": {spelled}}}'.encode()
        if provider is ANTHROPIC and '"output_tokens": -5' in spelled:
            continue
        reader = read(provider, [text], events=False)
        assert (reader.tokens, reader.is_complete) == (None, False)
        assert read(provider, [b"data: " + text + b"\n\n"], events=True).tokens is None


def test_one_wrong_number_makes_anthropic_usage_unreadable() -> None:
    """A negative number must not reduce the sum."""
    text = b'{"usage": {"input_tokens": 9, "output_tokens": -5}}'
    assert read(ANTHROPIC, [text], events=False).tokens is None


def test_huge_numbers_are_bounded() -> None:
    """A number above any limit is the largest that a limit can count."""
    for provider, field in ((OPENAI, "total_tokens"), (ANTHROPIC, "output_tokens")):
        text = f'{{"usage": {{"{field}": {10**30}}}}}'.encode()
        assert read(provider, [text], events=False).tokens == MAX_SAFE_INTEGER


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"}}}}]]]]",
        b"[" * 200_000,
        b'{"usage"',
        b'{"usage": {',
        b'{"usage": {"total_tokens": 5',
        b'{"a": {"usage": {"total_tokens": 5}}}',
        b'[{"usage": {"total_tokens": 5}}]',
        b'{"usage": [{"total_tokens": 5}]}',
        b'{"usag\\u0065": {"total_tokens": 5}}',
        b'"usage": {"total_tokens": 5}',
        b'{"choices": "\\"usage\\": {\\"total_tokens\\": 5}"}',
        b"\xff\xfe\x00",
    ],
)
def test_text_without_own_usage_states_nothing(text: bytes) -> None:
    """Only a member of the answer itself counts, at whatever depth the text ends."""
    for events in (False, True):
        prefixed = b"data: " + text if events else text
        assert read(OPENAI, [prefixed], events=events).tokens is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["usage", "response", "message", "a"]) | st.text(), inner)
    ),
    max_leaves=20,
)


@given(answer=json_values, cuts=cuts, ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
def test_scanner_finds_what_a_parser_finds(
    answer: Any,
    cuts: list[int],
    *,
    ascii_only: bool,
    indent: int | None,
) -> None:
    """In any JSON text the scanner finds the objects that a parser of the whole text finds."""
    text = json.dumps(answer, ensure_ascii=ascii_only, indent=indent)
    found: list[tuple[Any, bool]] = []
    scanner = UsageScanner(
        b"response", lambda part, is_own: found.append((json.dumps(json.loads(part)), is_own))
    )
    for chunk in split(text.encode(errors="surrogatepass"), cuts):
        scanner.feed(chunk)
    expected: list[tuple[Any, bool]] = []
    if isinstance(answer, dict):
        for key, value in answer.items():
            if key == "usage" and isinstance(value, dict):
                expected.append((json.dumps(value), True))
            elif key == "response" and isinstance(value, dict):
                inner = value.get("usage")
                expected += [(json.dumps(inner), False)] if isinstance(inner, dict) else []
    assert sorted(found) == sorted(expected)


@given(chunks=st.lists(st.binary(max_size=40) | st.sampled_from([b'{"usage":{', b"data:", b"\r"])))
def test_any_bytes_are_read_without_an_error(chunks: list[bytes]) -> None:
    """No bytes raise an exception, which would break the response."""
    for provider in Provider:
        for events in (False, True):
            read(provider, chunks, events=events)


def test_scan_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of more than the bound is not searched any further, and says so."""
    monkeypatch.setattr(usage_scanner, "MAX_TEXT_BYTES", 100)
    usage = b'{"usage": {"total_tokens": 5}}'
    reader = read(OPENAI, [b" " * 90, usage, usage], events=False)
    assert (reader.tokens, reader.is_too_large) == (None, True)
    # In a stream the bound is that of each event.
    small, large = b"data: " + usage + b"\n\n", b"data: " + b" " * 200 + b"\n\n"
    reader = read(OPENAI, [small] * 9, events=True)
    assert (reader.tokens, reader.is_too_large) == (5, False)
    reader = read(OPENAI, [large, small], events=True)
    assert (reader.tokens, reader.is_too_large) == (5, True)
