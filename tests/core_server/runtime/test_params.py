import pytest
from msgspec import UNSET, Raw, inspect

from core_server.context import NO_TRACE, Trace, trace_of
from core_server.errors import WireError
from core_server.protocol.methods import METHODS
from core_server.protocol.wire import ThreadParams
from core_server.runtime.params import ParamsReader

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def _reader(method: str) -> ParamsReader:
    return ParamsReader(method, METHODS[method])


def test_params_are_decoded_and_unknown_members_ignored() -> None:
    raw = Raw(b'{"threadId":"t","unknown":1}')
    assert _reader("thread/archive").read(raw) == ThreadParams("t")


@pytest.mark.parametrize("raw", [UNSET, Raw(b"null"), Raw(b"{}"), Raw(b"{ }")])
def test_a_unit_takes_none_null_or_an_empty_object(raw: Raw) -> None:
    assert _reader("account/logout").read(raw) is None


@pytest.mark.parametrize(
    ("method", "raw", "message"),
    [
        ("account/logout", b"[]", "Invalid params: account/logout takes none"),
        ("thread/archive", b"null", "Invalid params: missing field `params`"),
        ("thread/archive", b"{}", "Invalid params: missing field `threadId`"),
        ("thread/archive", b"[]", "Invalid params: expected `object`, got `array`"),
        (
            "initialize",
            b'{"clientInfo":{"name":"a"}}',
            "Invalid params: missing field `version` in `clientInfo`",
        ),
        (
            "thread/start",
            b'{"sandbox":"zzz"}',
            "Invalid params: `sandbox`: invalid enum value 'zzz'",
        ),
    ],
)
def test_a_wrong_shape_names_the_field(method: str, raw: bytes, message: str) -> None:
    with pytest.raises(WireError) as error:
        _reader(method).read(Raw(raw))
    assert (error.value.code, str(error.value)) == (-32602, message)


@pytest.mark.parametrize(
    ("raw", "refused"),
    [
        (b'{"environments":[]}', True),
        (b'{"environments":null}', False),
        (b'{"environments":false}', False),
    ],
)
def test_an_experimental_member_counts_as_used_unless_null_or_false(
    raw: bytes, *, refused: bool
) -> None:
    reader = _reader("thread/start")
    if refused:
        with pytest.raises(
            WireError, match=r"thread/start\.environments requires experimentalApi"
        ):
            reader.check_experimental(Raw(raw))
    else:
        reader.check_experimental(Raw(raw))
    reader.check_experimental(UNSET)
    _reader("thread/read").check_experimental(Raw(raw))


@pytest.mark.parametrize(
    ("raw", "trace"),
    [
        (UNSET, NO_TRACE),
        (Raw(b'"text"'), NO_TRACE),
        (Raw(b'{"traceparent":5}'), NO_TRACE),
        (Raw(b'{"tracestate":"a=b"}'), NO_TRACE),
        (Raw(b'{"traceparent":"00-' + b"0" * 32 + b'-b7ad6b7169203331-01"}'), NO_TRACE),
        (Raw(b'{"traceparent":"%b"}' % PARENT.encode()), Trace(PARENT, "")),
        (Raw(b'{"traceparent":"%b","tracestate":"a=b"}' % PARENT.encode()), Trace(PARENT, "a=b")),
        (Raw(b'{"traceparent":"%b","tracestate":"a\\n"}' % PARENT.encode()), Trace(PARENT, "")),
    ],
)
def test_a_trace_context_is_taken_when_it_is_one(raw: Raw, trace: Trace) -> None:
    assert trace_of(raw) == trace


def test_every_integer_of_params_has_the_range_that_is_worked_with() -> None:
    # A longer one would be an OverflowError of a clock or of a column.
    unbounded = [
        f"{name}.{path}"
        for name, method in METHODS.items()
        if method.params is not None
        for path in _unbounded(inspect.type_info(method.params), "")
        if not path.endswith(".limit")  # clamped where it is used
    ]
    assert unbounded == []


def _unbounded(kind: inspect.Type, path: str) -> list[str]:
    match kind:
        case inspect.IntType(ge=None) | inspect.IntType(le=None):
            return [path]
        case inspect.StructType(fields=fields):
            return [
                found
                for field in fields
                for found in _unbounded(field.type, f"{path}.{field.encode_name}")
            ]
        case inspect.UnionType(types=types):
            return [found for each in types for found in _unbounded(each, path)]
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            return _unbounded(item, path)
        case _:
            return []
