"""Which trace context wins, and what is refused on the way."""

import json
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from trace_proxy.context import w3c
from trace_proxy.context.extract import Propagators
from trace_proxy.context.span_record import SpanContext
from trace_proxy.context.trace_context import (
    Extracted,
    Handshake,
    Inherited,
    Reason,
    Rejection,
    RemoteContext,
    Resolution,
    Sampling,
    Source,
    Trust,
    from_environment,
    from_handshake,
    from_message,
    from_message_raw,
    inherit,
    own_flags,
    resolve,
    resolve_raw,
    trace_member,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
ZERO_TRACE, ZERO_SPAN = "0" * 32, "0" * 16
OTHER = SpanContext(0xABC, 0xDEF, 1, remote=True)


def context(flags: int = 1, state: str = "") -> SpanContext:
    return SpanContext(int(TRACE, 16), int(SPAN, 16), flags, state, remote=True)


def fake_b3(carrier: Mapping[str, str]) -> SpanContext | None:
    """Read the clean headers that the front lets through, as a propagator would."""
    pair = carrier["b3"].split("-") if "b3" in carrier else list(carrier.values())
    return SpanContext(int(pair[0], 16), int(pair[1], 16), 1, remote=True)


def handshake(*headers: tuple[str, str], propagators: str = "") -> Handshake:
    return from_handshake(headers, Propagators.parse(propagators), fake_b3)


def inherited(*headers: tuple[str, str], env: str = "", trust: Trust = Trust.PARENT) -> Inherited:
    environment = from_environment({"TRACEPARENT": env}, Propagators())
    return inherit(handshake(*headers), environment, trust)


# --- W3C text ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "kept"),
    [("00", 0), ("01", 1), ("02", 2), ("03", 3), ("ff", 3), ("04", 0), ("f9", 1)],
)
def test_only_the_known_flag_bits_are_kept(flags: str, kept: int) -> None:
    assert w3c.parse_traceparent(f"00-{TRACE}-{SPAN}-{flags}") == context(kept)


@pytest.mark.parametrize("rest", ["", "-", "-extra", "-01-what-the-future-will-be-like"])
def test_a_later_version_is_read_as_far_as_version_00_goes(rest: str) -> None:
    assert w3c.parse_traceparent(f"cc-{TRACE}-{SPAN}-03{rest}") == context(3)


MALFORMED_PARENTS = [
    ("", Reason.MALFORMED),
    ("00", Reason.MALFORMED),
    (f"{PARENT}-extra", Reason.MALFORMED),
    (f"{PARENT}-", Reason.MALFORMED),
    (f"{PARENT}\n", Reason.MALFORMED),
    (f" {PARENT}", Reason.MALFORMED),
    (f"{PARENT},{PARENT}", Reason.MALFORMED),
    (f"0-{TRACE}-{SPAN}-01", Reason.MALFORMED),
    (f"0x-{TRACE}-{SPAN}-01", Reason.MALFORMED),
    (f"CC-{TRACE}-{SPAN}-01", Reason.MALFORMED),
    (f"00-{TRACE.upper()}-{SPAN}-01", Reason.MALFORMED),
    (f"00-{TRACE}-{SPAN.upper()}-01", Reason.MALFORMED),
    (f"00-{TRACE[1:]}-{SPAN}-01", Reason.MALFORMED),
    (f"00-{TRACE}0-{SPAN}-01", Reason.MALFORMED),
    (f"00-{TRACE}-{SPAN[1:]}-01", Reason.MALFORMED),
    (f"00-{TRACE}-{SPAN}-1", Reason.MALFORMED),
    (f"00-{TRACE}-{SPAN}-0g", Reason.MALFORMED),
    (f"00-{TRACE}-{SPAN}", Reason.MALFORMED),
    (f"00_{TRACE}_{SPAN}_01", Reason.MALFORMED),
    (f"00-{'_'.join(['1' * 15, '1' * 16])}-{SPAN}-01", Reason.MALFORMED),
    (f"00-{'٣' * 32}-{SPAN}-01", Reason.MALFORMED),
    (f"01-{TRACE}-{SPAN}-01.extra", Reason.MALFORMED),
    (f"01-{TRACE}-{SPAN}-01-a\nb", Reason.MALFORMED),
    (f"ff-{TRACE}-{SPAN}-01", Reason.BAD_VERSION),
    (f"00-{ZERO_TRACE}-{SPAN}-01", Reason.ZERO_ID),
    (f"00-{TRACE}-{ZERO_SPAN}-01", Reason.ZERO_ID),
    (f"01-{ZERO_TRACE}-{SPAN}-01-x", Reason.ZERO_ID),
    (f"01-{TRACE}-{SPAN}-01-{'x' * 512}", Reason.TOO_LONG),
    ("x" * 1_000_000, Reason.TOO_LONG),
]


@pytest.mark.parametrize(("text", "reason"), MALFORMED_PARENTS)
def test_a_malformed_traceparent_is_refused_at_every_level(text: str, reason: Reason) -> None:
    expected: dict[Source, tuple[None, tuple[Rejection, ...]]] = {
        source: (None, (Rejection(source, reason),))
        for source in (Source.MESSAGE, Source.TRACEPARENT, Source.ENV)
    }
    if not text:
        expected[Source.ENV] = (None, ())  # an empty variable is an unset one

    message = from_message({"traceparent": text})
    raw = from_message_raw(json.dumps({"traceparent": text}).encode())
    env = from_environment({"TRACEPARENT": text}, Propagators())
    headers = handshake(("traceparent", text))

    assert (message.context, message.rejections) == expected[Source.MESSAGE]
    assert raw == message
    assert (env.context, env.rejections) == expected[Source.ENV]
    assert (headers.winner, headers.rejections) == expected[Source.TRACEPARENT]


@pytest.mark.parametrize(
    ("given_state", "kept"),
    [
        ("", ""),
        ("a=1", "a=1"),
        ("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        ("a=1 ,\tb=2,,", "a=1,b=2"),
        ("tenant@vendor=x,0@=y", "tenant@vendor=x,0@=y"),
        ('a=quote"back\\slash', 'a=quote"back\\slash'),
        (",".join(f"k{n}=v" for n in range(32)), ",".join(f"k{n}=v" for n in range(32))),
        (f"{'k' * 256}={'v' * 256}", f"{'k' * 256}={'v' * 256}"),
    ],
)
def test_a_valid_tracestate_goes_with_its_parent(given_state: str, kept: str) -> None:
    trace = {"traceparent": PARENT, "tracestate": given_state}

    assert from_message(trace) == Extracted(context(state=kept))
    assert from_message_raw(json.dumps(trace).encode()) == Extracted(context(state=kept))


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("no-value", Reason.STATE_MALFORMED),
        ("a=", Reason.STATE_MALFORMED),
        ("=1", Reason.STATE_MALFORMED),
        ("A=1", Reason.STATE_MALFORMED),
        ("a =1", Reason.STATE_MALFORMED),
        ("a=1=2", Reason.STATE_MALFORMED),
        ("a=é", Reason.STATE_MALFORMED),
        ("a=1\nb=2", Reason.STATE_MALFORMED),
        ("a=1,b", Reason.STATE_MALFORMED),
        ("a=1,a=2", Reason.STATE_MALFORMED),
        (",".join(f"k{n}=v" for n in range(33)), Reason.STATE_MALFORMED),
        (f"{'k' * 257}=v", Reason.STATE_MALFORMED),
        (f"k={'v' * 257}", Reason.STATE_MALFORMED),
        ("a" * 8_193, Reason.STATE_TOO_LONG),
        (5, Reason.STATE_WRONG_TYPE),
        (0, Reason.STATE_WRONG_TYPE),
        (["a=1"], Reason.STATE_WRONG_TYPE),
        ({}, Reason.STATE_WRONG_TYPE),
    ],
)
def test_a_bad_tracestate_is_dropped_and_its_parent_kept(state: object, reason: Reason) -> None:
    trace = {"traceparent": PARENT, "tracestate": state}
    expected = Extracted(context(), (Rejection(Source.MESSAGE, reason),))

    assert from_message(trace) == expected
    assert from_message_raw(json.dumps(trace).encode()) == expected


def oracle(traceparent: str, tracestate: str = "") -> SpanContext | None:
    carrier = {"traceparent": traceparent, "tracestate": tracestate}
    found = TraceContextTextMapPropagator().extract(carrier, Context())
    ids = get_current_span(found).get_span_context()
    if not ids.is_valid:
        return None
    state = ids.trace_state.to_header()
    return SpanContext(ids.trace_id, ids.span_id, int(ids.trace_flags), state, remote=True)


@given(
    st.from_regex(
        r"(00|01|ff|[0-9a-f]{2})-([0-9a-f]{32}|0{32})-([0-9a-f]{16}|0{16})-[0-9a-f]{2}(-.{0,9}| )?"
    )
    | st.text("0123456789abcdefAF-_ \t\n", max_size=60)
)
def test_what_we_accept_the_stock_propagator_accepts_with_the_same_ids(text: str) -> None:
    ours, theirs = w3c.parse_traceparent(text), oracle(text)

    if isinstance(ours, SpanContext):
        assert theirs is not None
        # The one difference in what is accepted: unknown flag bits are cleared.
        assert ours == msgspec.structs.replace(theirs, flags=theirs.flags & 3)
    elif theirs is not None:
        # The one difference in what is refused: white space around the value.
        assert text != text.strip(" \t\n")


LEVEL_1_KEYS = st.from_regex(r"[a-z][a-z0-9_\-*/]{0,9}", fullmatch=True)
VALUES = st.from_regex(
    r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,9}[\x21-\x2b\x2d-\x3c\x3e-\x7e]", fullmatch=True
)


@given(st.lists(st.tuples(LEVEL_1_KEYS, VALUES), max_size=34) | st.text(max_size=40))
def test_a_tracestate_reads_as_the_stock_propagator_reads_it(
    members: list[tuple[str, str]] | str,
) -> None:
    text = members if isinstance(members, str) else ", ".join("=".join(pair) for pair in members)
    theirs = oracle(PARENT, text)

    ours = w3c.check_tracestate(text)

    assert theirs is not None
    assert theirs.state == ("" if isinstance(ours, Reason) else ours)


CONTEXTS = st.builds(
    SpanContext,
    trace_id=st.integers(1, 2**128 - 1),
    span_id=st.integers(1, 2**64 - 1),
    flags=st.integers(0, 3),
    state=st.lists(
        st.tuples(LEVEL_1_KEYS, VALUES), max_size=9, unique_by=lambda pair: pair[0]
    ).map(lambda pairs: ",".join(f"{key}={value}" for key, value in pairs)),
    remote=st.just(value=True),
)


def member_value(member: bytes) -> bytes:
    """The value of a member that is written with its comma and its name."""
    return member.removeprefix(b',"trace":')


@given(CONTEXTS)
def test_what_we_inject_we_extract_again(sent: SpanContext) -> None:
    field = member_value(trace_member(sent))

    assert from_message_raw(field) == Extracted(sent)
    assert from_message(json.loads(field)) == Extracted(sent)
    assert ("tracestate" in json.loads(field)) == bool(sent.state)


def test_a_trace_field_is_safe_json_whatever_the_tracestate_holds() -> None:
    state = 'a="},"method":"x'

    assert json.loads(member_value(trace_member(context(3, state)))) == {
        "traceparent": f"00-{TRACE}-{SPAN}-03",
        "tracestate": state,
    }


@pytest.mark.parametrize(
    ("parent", "sampled", "flags"),
    [
        (None, True, 3),
        (None, False, 2),
        (context(3), False, 2),
        (context(1), True, 1),
        (context(0), False, 0),
    ],
)
def test_the_random_bit_is_a_roots_and_inherited(
    parent: SpanContext | None, *, sampled: bool, flags: int
) -> None:
    assert own_flags(parent, sampled=sampled) == flags


# --- the message ---------------------------------------------------------------------


@pytest.mark.parametrize("trace", [None, {}, {"traceparent": None}, {"tracestate": "a=1"}])
def test_a_message_without_a_traceparent_has_no_context_and_no_fault(trace: object) -> None:
    assert from_message(trace) == Extracted()
    assert from_message_raw(json.dumps(trace).encode()) == Extracted()


@pytest.mark.parametrize(
    "trace", [5, 0, True, "x", PARENT, [], [PARENT], {"traceparent": 5}, {"traceparent": [PARENT]}]
)
def test_a_trace_of_the_wrong_type_is_refused(trace: object) -> None:
    expected = Extracted(None, (Rejection(Source.MESSAGE, Reason.WRONG_TYPE),))

    assert from_message(trace) == expected
    assert from_message_raw(json.dumps(trace).encode()) == expected


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b'{"traceparent":"\xff"}',
        b'{"traceparent":"\\ud800"}',
        DEEP,
        b'{"traceparent":"%b","x":%b}' % (PARENT.encode(), DEEP),
    ],
)
def test_unreadable_text_is_refused_not_raised(raw: bytes) -> None:
    assert from_message_raw(raw) == Extracted(None, (Rejection(Source.MESSAGE, Reason.MALFORMED),))


def test_unknown_members_of_a_trace_are_ignored() -> None:
    raw = b'{"traceparent":"%b","baggage":{"a":[1]},"tracestate":null}' % PARENT.encode()

    assert from_message_raw(raw) == Extracted(context())


@given(st.binary(max_size=40) | st.recursive(
    st.none() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["traceparent", "tracestate", "x"]), inner, max_size=3),
    max_leaves=6,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_no_message_makes_extraction_raise(raw: bytes) -> None:
    extracted = from_message_raw(raw)

    assert extracted.context is None
    assert len(extracted.rejections) <= 1


# --- the handshake -------------------------------------------------------------------


def test_one_traceparent_and_all_tracestate_headers_count_in_any_case() -> None:
    found = handshake(
        ("Host", "localhost"),
        ("TraceParent", PARENT),
        ("tracestate", "a=1"),
        ("Tracestate", "b=2"),
    )

    assert found == Handshake(
        Source.TRACEPARENT, RemoteContext(context(state="a=1,b=2"), Sampling.YES)
    )


def test_two_traceparents_are_refused_even_when_they_agree() -> None:
    assert handshake(("traceparent", PARENT), ("traceparent", PARENT)) == Handshake(
        rejections=(Rejection(Source.TRACEPARENT, Reason.DUPLICATE),)
    )


def test_joined_tracestate_headers_share_one_bound() -> None:
    states = [("tracestate", f"k{n}={'v' * 250}") for n in range(33)]

    found = handshake(("traceparent", PARENT), *states)

    assert found.winner == RemoteContext(context(), Sampling.YES)
    assert found.rejections == (Rejection(Source.TRACEPARENT, Reason.STATE_TOO_LONG),)


B3_CONTEXTS = [
    ([("b3", f"{TRACE}-{SPAN}-1")], Sampling.YES),
    ([("b3", f"{TRACE}-{SPAN}-d")], Sampling.YES),
    ([("B3", f"{TRACE.upper()}-{SPAN.upper()}-0")], Sampling.NO),
    ([("b3", f"{TRACE}-{SPAN}")], Sampling.UNDECIDED),
    ([("b3", f"{TRACE}-{SPAN}-1-{SPAN}")], Sampling.YES),
    ([("X-B3-TraceId", TRACE), ("X-B3-SpanId", SPAN)], Sampling.UNDECIDED),
    ([("X-B3-TraceId", TRACE), ("X-B3-SpanId", SPAN), ("X-B3-Sampled", "1")], Sampling.YES),
    ([("X-B3-TraceId", TRACE), ("X-B3-SpanId", SPAN), ("X-B3-Sampled", "True")], Sampling.YES),
    ([("X-B3-TraceId", TRACE), ("X-B3-SpanId", SPAN), ("X-B3-Sampled", "0")], Sampling.NO),
    ([("X-B3-TraceId", TRACE), ("X-B3-SpanId", SPAN), ("X-B3-Sampled", "false")], Sampling.NO),
    ([("X-B3-TraceId", TRACE), ("X-B3-SpanId", SPAN), ("X-B3-Flags", "1")], Sampling.YES),
    ([("X-B3-TraceId", TRACE), ("X-B3-SpanId", SPAN), ("X-B3-Flags", "0")], Sampling.UNDECIDED),
]


@pytest.mark.parametrize(("headers", "sampling"), B3_CONTEXTS)
def test_b3_is_read_in_both_forms_and_keeps_its_decision(
    headers: list[tuple[str, str]], sampling: Sampling
) -> None:
    remote = RemoteContext(context(int(sampling is Sampling.YES)), sampling)

    assert handshake(*headers) == Handshake(Source.B3, remote)


def test_a_64_bit_b3_trace_id_is_padded() -> None:
    winner = handshake(("b3", f"{SPAN}-{SPAN}-1")).winner

    assert winner == RemoteContext(
        SpanContext(int(SPAN, 16), int(SPAN, 16), 1, remote=True), Sampling.YES
    )


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([("b3", "")], Reason.MALFORMED),
        ([("b3", "2")], Reason.MALFORMED),
        ([("b3", "-")], Reason.MALFORMED),
        ([("b3", TRACE)], Reason.MALFORMED),
        ([("b3", f"{TRACE}-{SPAN}-")], Reason.MALFORMED),
        ([("b3", f"{TRACE}-{SPAN}-2")], Reason.MALFORMED),
        ([("b3", f"{TRACE}-{SPAN}-true")], Reason.MALFORMED),
        ([("b3", f"{TRACE}-{SPAN}-1-")], Reason.MALFORMED),
        ([("b3", f"{TRACE}-{SPAN}-1-{SPAN}-x")], Reason.MALFORMED),
        ([("b3", f"{TRACE[1:]}-{SPAN}-1")], Reason.MALFORMED),
        ([("b3", f"{TRACE}-{SPAN[1:]}-1")], Reason.MALFORMED),
        ([("b3", f"{'٣' * 32}-{SPAN}-1")], Reason.MALFORMED),
        ([("b3", f"{ZERO_TRACE}-{SPAN}-1")], Reason.ZERO_ID),
        ([("b3", f"{ZERO_SPAN}-{SPAN}-1")], Reason.ZERO_ID),
        ([("b3", f"{TRACE}-{ZERO_SPAN}-1")], Reason.ZERO_ID),
        ([("b3", f"{TRACE}-{SPAN}-1{'x' * 512}")], Reason.TOO_LONG),
        ([("b3", "0"), ("b3", "0")], Reason.DUPLICATE),
        ([("x-b3-traceid", TRACE)], Reason.INCOMPLETE),
        ([("x-b3-spanid", SPAN), ("x-b3-sampled", "1")], Reason.INCOMPLETE),
        ([("x-b3-flags", "0")], Reason.INCOMPLETE),
        ([("x-b3-sampled", "maybe")], Reason.MALFORMED),
        ([("x-b3-flags", "2")], Reason.MALFORMED),
        ([("x-b3-traceid", "x"), ("x-b3-spanid", SPAN)], Reason.MALFORMED),
        ([("x-b3-traceid", ZERO_TRACE), ("x-b3-spanid", SPAN)], Reason.ZERO_ID),
        ([("x-b3-traceid", TRACE), ("x-b3-spanid", ZERO_SPAN)], Reason.ZERO_ID),
        ([("x-b3-traceid", TRACE), ("x-b3-traceid", TRACE)], Reason.DUPLICATE),
        ([("x-b3-traceid", "a" * 513), ("x-b3-spanid", SPAN)], Reason.TOO_LONG),
    ],
)
def test_malformed_b3_is_refused_and_never_replaces_a_valid_parent(
    headers: list[tuple[str, str]], reason: Reason
) -> None:
    refused = (Rejection(Source.B3, reason),)

    assert handshake(*headers) == Handshake(rejections=refused)
    assert handshake(("traceparent", PARENT), *headers) == Handshake(
        Source.TRACEPARENT, RemoteContext(context(), Sampling.YES), rejections=refused
    )


def test_b3_that_the_propagator_does_not_understand_is_refused() -> None:
    found = from_handshake([("b3", f"{TRACE}-{SPAN}-1")], Propagators(), lambda _: None)

    assert found == Handshake(rejections=(Rejection(Source.B3, Reason.MALFORMED),))


def test_invalid_single_b3_falls_to_the_many_headers() -> None:
    found = handshake(("b3", "x"), ("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN))

    assert found.winner == RemoteContext(context(0), Sampling.UNDECIDED)
    assert found.rejections == (Rejection(Source.B3, Reason.MALFORMED),)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("", Propagators(w3c=True, b3=True)),
        ("tracecontext", Propagators(w3c=True, b3=False)),
        ("b3", Propagators(w3c=False, b3=True)),
        (" b3multi , b3 ", Propagators(w3c=False, b3=True)),
        ("tracecontext,baggage", Propagators(w3c=True, b3=False)),
        ("none", Propagators(w3c=False, b3=False)),
        ("none,b3", Propagators(w3c=False, b3=False)),
        ("xray,xray,b3,jaeger", Propagators(w3c=False, b3=True, unknown=("xray", "jaeger"))),
    ],
)
def test_otel_propagators_chooses_the_formats(names: str, expected: Propagators) -> None:
    assert Propagators.parse(names) == expected


def test_a_format_that_is_switched_off_is_not_even_refused() -> None:
    headers = (("traceparent", "x"), ("b3", "x"))
    off = Propagators.parse("none")

    assert handshake(*headers, propagators="none") == Handshake()
    assert handshake(*headers, propagators="b3").rejections == (
        Rejection(Source.B3, Reason.MALFORMED),
    )
    assert from_environment({"TRACEPARENT": PARENT}, off) == Extracted()


# --- who wins ------------------------------------------------------------------------

MESSAGE = {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-00"}
MESSAGE_CONTEXT = SpanContext(int("a" * 32, 16), int("b" * 16, 16), 0, remote=True)
W3C = ("traceparent", PARENT)
SINGLE = ("b3", f"{'c' * 32}-{'d' * 16}-1")
SINGLE_CONTEXT = SpanContext(int("c" * 32, 16), int("d" * 16, 16), 1, remote=True)
MULTI = (("x-b3-traceid", "e" * 32), ("x-b3-spanid", "f" * 16))
MULTI_CONTEXT = SpanContext(int("e" * 32, 16), int("f" * 16, 16), 0, remote=True)
ENV = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
ENV_CONTEXT = SpanContext(int("1" * 32, 16), int("2" * 16, 16), 1, remote=True)
YES, NO, UNDECIDED = Sampling.YES, Sampling.NO, Sampling.UNDECIDED


def test_each_level_wins_over_those_below_and_the_handshakes_losers_are_linked() -> None:
    everything = inherited(W3C, SINGLE, *MULTI, env=ENV)

    assert resolve(MESSAGE, everything) == Resolution(
        Source.MESSAGE, MESSAGE_CONTEXT, (context(), SINGLE_CONTEXT, MULTI_CONTEXT), NO
    )
    assert resolve(None, everything) == Resolution(
        Source.TRACEPARENT, context(), (SINGLE_CONTEXT, MULTI_CONTEXT), YES
    )
    assert inherited(SINGLE, *MULTI, env=ENV).default == Resolution(
        Source.B3, SINGLE_CONTEXT, (MULTI_CONTEXT,), YES
    )
    assert inherited(*MULTI, env=ENV).default == Resolution(Source.B3, MULTI_CONTEXT)
    assert inherited(env=ENV).default == Resolution(Source.ENV, ENV_CONTEXT, (), YES)
    assert inherited().default == Resolution(Source.GENERATED)


def test_an_unsampled_environment_is_honoured() -> None:
    assert inherited(env=ENV[:-1] + "0").default.sampling is NO


def test_a_refused_message_falls_to_its_connection_and_is_counted() -> None:
    connection = inherited(W3C)

    assert resolve({"traceparent": 5}, connection) == Resolution(
        Source.TRACEPARENT, context(), (), YES, (Rejection(Source.MESSAGE, Reason.WRONG_TYPE),)
    )
    assert connection.default.rejections == (), "the next request is not blamed"


def test_what_is_refused_in_the_handshake_does_not_show_on_requests() -> None:
    assert resolve(None, inherited(("traceparent", "x"), env=ENV)) == Resolution(
        Source.ENV, ENV_CONTEXT, (), YES
    )


def test_the_same_span_said_twice_is_no_link() -> None:
    same_b3 = ("b3", f"{TRACE}-{SPAN}-1")
    connection = inherited(W3C, same_b3, *MULTI)

    assert connection.default.links == (MULTI_CONTEXT,)
    assert resolve({"traceparent": PARENT}, connection).links == (MULTI_CONTEXT,)
    assert inherited(W3C, same_b3, trust=Trust.LINK).default.links == (context(),)


@pytest.mark.parametrize(
    ("header", "sampling"),
    [
        (("b3", "0"), NO),
        (("b3", "1"), UNDECIDED),
        (("b3", "d"), UNDECIDED),
        (("x-b3-sampled", "0"), NO),
        (("x-b3-sampled", "true"), UNDECIDED),
        (("x-b3-flags", "1"), UNDECIDED),
    ],
)
def test_a_b3_decision_without_ids_makes_a_new_root(
    header: tuple[str, str], sampling: Sampling
) -> None:
    root = inherited(header, env=ENV)

    assert root.default == Resolution(Source.GENERATED, sampling=sampling)
    assert resolve(MESSAGE, root) == Resolution(Source.MESSAGE, MESSAGE_CONTEXT, (), NO)


@pytest.mark.parametrize("header", [W3C, SINGLE])
def test_a_valid_context_beats_b3_without_ids(header: tuple[str, str]) -> None:
    no = ("x-b3-sampled", "0")

    assert inherited(no, header).default.sampling is YES


def test_under_link_no_client_joins_its_own_trace_or_decides_on_sampling() -> None:
    edge = inherited(W3C, SINGLE, env=ENV, trust=Trust.LINK)

    assert resolve(MESSAGE, edge) == Resolution(
        Source.GENERATED, None, (MESSAGE_CONTEXT, context(), SINGLE_CONTEXT)
    )
    assert resolve(None, edge) == Resolution(Source.GENERATED, None, (context(), SINGLE_CONTEXT))
    assert inherited(("b3", "0"), trust=Trust.LINK).default == Resolution(Source.GENERATED)


def test_under_link_the_operators_environment_stays_the_parent() -> None:
    expected = Resolution(Source.ENV, ENV_CONTEXT, (), YES)

    assert inherited(env=ENV, trust=Trust.LINK).default == expected
    assert inherited(("b3", "0"), env=ENV, trust=Trust.LINK).default == expected


@given(
    st.sampled_from([None, MESSAGE, {"traceparent": "x"}, 5]),
    st.lists(st.sampled_from([W3C, SINGLE, MULTI[0], MULTI[1], ("b3", "0"), ("b3", "x")])),
    st.sampled_from(["", ENV, "x"]),
    st.sampled_from(Trust),
)
def test_every_request_gets_one_answer_however_its_trace_is_decoded(
    trace: object, headers: list[tuple[str, str]], env: str, trust: Trust
) -> None:
    connection = inherited(*headers, env=env, trust=trust)

    answer = resolve(trace, connection)

    assert resolve_raw(json.dumps(trace).encode(), connection) == answer
    assert (answer.parent is None) == (answer.source is Source.GENERATED)
    assert answer.parent not in answer.links
    assert len({(link.trace_id, link.span_id) for link in answer.links}) == len(answer.links) <= 4
