"""The short way does what the general way does, and leaves alone what is not plain."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trace_proxy.recording import Proxy
from trace_proxy.context.span_record import AttributeValue, SpanRecord

METHODS = ("echo", "model/list", "config/read", "thread/list", "command/exec", "turn/interrupt")

IDS = st.sampled_from(
    [b"1", b"2", b'"1"', b'"a\\"b"', b"-5", b"9223372036854775807", b"1.5", b"null", b"1e3"]
)
PARAMS = st.sampled_from(
    [b"{}", b'{"p":"x"}', b'{"p":[1,\n2]}', b"[]", b"null", '{"p":"ü"}'.encode(), b'{"p":NaN}']
)
EXTRAS = st.sampled_from(
    [b"", b',"jsonrpc":"2.0"', b',"id":3', b',"x":1', b',"trace":{"traceparent":"nonsense"}']
)
REQUESTS = st.builds(
    lambda request_id, method, params, extra, blank: (
        b'{"id":%b%b,"method":"%b","params":%b%b}'
        % (blank, request_id, method.encode(), params, extra)
    ),
    IDS,
    st.sampled_from(METHODS),
    PARAMS,
    EXTRAS,
    st.sampled_from([b"", b" "]),
)
STEPS = st.lists(st.one_of(REQUESTS, st.sampled_from(["answer", "fail", "leave"])), max_size=20)


def everything(record: SpanRecord) -> tuple[object, ...]:
    """A record with its attributes in one, wherever they are kept."""
    attributes: dict[str, AttributeValue] = {**record.shared, **record.attributes}
    plain = msgspec.structs.replace(record, attributes={}, shared={})
    return plain, attributes


def played(steps: list[bytes | str], *, express: bool) -> tuple[object, ...]:
    """What a world of one core and one client comes to after these steps."""
    proxy = Proxy().up()
    proxy.hub.express.enabled = express
    client = proxy.client()
    asked: list[int] = []
    lines: list[bytes] = []
    for step in steps:
        if isinstance(step, bytes):
            client.raw(step)
            written = proxy.core.got_raw()
            lines += written
            asked += [msgspec.json.decode(line)["id"] for line in written]
        elif step == "leave":
            client.leave()
            client = proxy.client()
            lines += proxy.core.got_raw()
        elif asked and step == "answer":
            proxy.core.answer(asked.pop(0), {"ok": True})
        elif asked:
            proxy.core.fail(asked.pop(0), -32600, "no")
    effects, board = proxy.effects, proxy.hub.board
    spans = [everything(record) for record in effects.spans]
    counts = (board.admission.requests, board.admission.size_bytes, len(proxy.core.session.router))
    return lines, effects.sent, spans, effects.calls, effects.shed_for, counts


@settings(deadline=None, max_examples=200)
@given(STEPS)
def test_both_ways_have_the_same_effects(steps: list[bytes | str]) -> None:
    assert played(steps, express=True) == played(steps, express=False)


def test_a_plain_request_takes_the_short_way() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    now_ns = proxy.tick()

    taken = proxy.hub.express.request(
        client.connection, b'{"id":7,"method":"echo","params":{"p":1}}', now_ns
    )

    assert taken
    line = msgspec.json.decode(proxy.core.got_raw()[0])
    assert (line["method"], line["params"]) == ("echo", {"p": 1})
    assert set(line["trace"]) == {"traceparent"}


def test_several_cores_have_no_short_way() -> None:
    proxy = Proxy(cores=2).up()
    client = proxy.client()

    assert not proxy.hub.express.enabled
    client.request(1, "echo")
    assert sum(len(core.got()) for core in proxy.cores) == 1
