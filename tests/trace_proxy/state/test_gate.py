"""What a client may send and hear; the texts were observed at the reference server."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.json_values import JSON_VALUES
from trace_proxy.protocol import experimental
from trace_proxy.protocol.methods import traits
from trace_proxy.protocol.refusal import Refusal
from trace_proxy.state import gate
from trace_proxy.state.gate import (
    MAX_NAME_CHARS,
    MAX_OPT_OUTS,
    Session,
    hears,
    open_session,
)

INITIALIZE = b'{"clientInfo":{"name":"probe","version":"1"}}'


def session(*, experimental_api: bool = False, opted_out: tuple[str, ...] = ()) -> Session:
    return Session("probe", "1", None, experimental_api, frozenset(opted_out))


def refusal(message: str) -> Refusal:
    return Refusal(-32600, message)


def with_info(**info: object) -> bytes:
    return json.dumps({"clientInfo": {"name": "a", "version": "1", **info}}).encode()


def with_capabilities(**capabilities: object) -> bytes:
    client = {"name": "a", "version": "1"}
    return json.dumps({"clientInfo": client, "capabilities": capabilities}).encode()


def test_a_session_remembers_what_the_client_said() -> None:
    params = (
        b'{"clientInfo":{"name":"codex-tui","version":"0.169.0","title":"TUI","icon":1},'
        b'"capabilities":{"experimentalApi":true,"optOutNotificationMethods":["turn/started","x"],'
        b'"requestAttestation":false,"extensions":{}},"unknown":[]}'
    )

    assert open_session(params) == Session(
        "codex-tui",
        "0.169.0",
        "TUI",
        experimental=True,
        opted_out=frozenset({"turn/started", "x"}),
    )


def test_a_client_without_capabilities_gets_the_stable_interface() -> None:
    assert open_session(INITIALIZE) == session()


@pytest.mark.parametrize(
    "capabilities", [b"null", b"{}", b'{"optOutNotificationMethods":null}', b'{"other":5}']
)
def test_empty_capabilities_are_as_good_as_none(capabilities: bytes) -> None:
    params = b'{"clientInfo":{"name":"probe","version":"1","title":null},"capabilities":%b}'

    assert open_session(params % capabilities) == session()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (None, "Invalid request: missing field `params`"),
        (b"null", "Invalid request: missing field `params`"),
        (b"{}", "Invalid request: missing field `clientInfo`"),
        (b"5", "Invalid request: invalid type: integer `5`, expected struct InitializeParams"),
        (
            b'"x"',
            'Invalid request: invalid type: string "x", expected struct InitializeParams',
        ),
        (
            b"true",
            "Invalid request: invalid type: boolean `true`, expected struct InitializeParams",
        ),
        (
            b'{"clientInfo":null}',
            "Invalid request: invalid type: null, expected struct ClientInfo",
        ),
        (
            b'{"clientInfo":1.5}',
            "Invalid request: invalid type: floating point `1.5`, expected struct ClientInfo",
        ),
        (b'{"clientInfo":{}}', "Invalid request: missing field `name`"),
        (b'{"clientInfo":{"version":"1"}}', "Invalid request: missing field `name`"),
        (b'{"clientInfo":{"name":"a"}}', "Invalid request: missing field `version`"),
        (
            b'{"clientInfo":{"version":5}}',
            "Invalid request: invalid type: integer `5`, expected a string",
        ),
        (
            b'{"capabilities":{"experimentalApi":"x"}}',
            'Invalid request: invalid type: string "x", expected a boolean',
        ),
        (
            b'{"clientInfo":5,"capabilities":{"experimentalApi":"x"}}',
            "Invalid request: invalid type: integer `5`, expected struct ClientInfo",
        ),
        (with_info(name=None), "Invalid request: invalid type: null, expected a string"),
        (with_info(name=["x"]), "Invalid request: invalid type: sequence, expected a string"),
        (with_info(name={}), "Invalid request: invalid type: map, expected a string"),
        (with_info(name=-5), "Invalid request: invalid type: integer `-5`, expected a string"),
        (with_info(title=5), "Invalid request: invalid type: integer `5`, expected a string"),
        (
            with_info(name="a\nb"),
            "Invalid clientInfo.name: 'a\nb'. Must be a valid HTTP header value.",
        ),
        (
            with_info(name="a\x7fb"),
            "Invalid clientInfo.name: 'a\x7fb'. Must be a valid HTTP header value.",
        ),
        (
            with_capabilities(experimentalApi=None),
            "Invalid request: invalid type: null, expected a boolean",
        ),
        (
            with_capabilities(experimentalApi=1),
            "Invalid request: invalid type: integer `1`, expected a boolean",
        ),
        (
            with_capabilities(optOutNotificationMethods="x"),
            'Invalid request: invalid type: string "x", expected a sequence',
        ),
        (
            with_capabilities(optOutNotificationMethods=[5]),
            "Invalid request: invalid type: integer `5`, expected a string",
        ),
    ],
)
def test_wrong_params_of_initialize_are_answered_as_the_reference_does(
    params: bytes | None, message: str
) -> None:
    assert open_session(params) == refusal(message)


@pytest.mark.parametrize("name", ["", "a\tb", "ä", " a "])
def test_a_name_may_be_whatever_fits_into_a_header(name: str) -> None:
    opened = open_session(with_info(name=name))

    assert isinstance(opened, Session)
    assert opened.client_name == name


def test_what_a_session_keeps_is_bounded() -> None:
    assert open_session(with_info(name="n" * (MAX_NAME_CHARS + 1))) == refusal(
        "Invalid request: a string has 1025 characters, at most 1024 are taken"
    )
    assert open_session(
        with_capabilities(optOutNotificationMethods=["x"] * (MAX_OPT_OUTS + 1))
    ) == refusal(
        "Invalid request: optOutNotificationMethods has 1025 names, at most 1024 are taken"
    )


def test_a_wrong_value_is_quoted_shortly() -> None:
    refused = open_session(json.dumps("x" * 1_000_000).encode())

    assert isinstance(refused, Refusal)
    assert len(refused.message) < 300


@pytest.mark.parametrize("params", [b"{", b"[" * 100_000, b'"\xff"'])
def test_params_that_are_no_json_are_refused_and_nothing_breaks(params: bytes) -> None:
    refused = open_session(params)

    assert isinstance(refused, Refusal)
    assert refused.code == -32600


def refuse(session: Session | None, method: str, params: bytes | None) -> Refusal | None:
    """What the gate says of a method by name."""
    return gate.refuse(session, traits(method), params)


def test_nothing_but_initialize_passes_before_it() -> None:
    assert refuse(None, "initialize", INITIALIZE) is None
    assert refuse(None, "thread/start", b"{}") == refusal("Not initialized")
    assert refuse(None, "mock/experimentalMethod", b"{}") == refusal("Not initialized")


def test_initialize_passes_once() -> None:
    assert refuse(session(), "initialize", INITIALIZE) == refusal("Already initialized")


@pytest.mark.parametrize("method", ["thread/loaded/list", "nope/nope", "turn/interrupt"])
def test_an_ordinary_request_passes(method: str) -> None:
    assert refuse(session(), method, b'{"environments":[]}') is None


@pytest.mark.parametrize("method", sorted(experimental.METHODS))
def test_an_experimental_method_needs_the_capability(method: str) -> None:
    message = f"{method} requires experimentalApi capability"

    assert refuse(session(), method, None) == refusal(message)
    assert refuse(session(experimental_api=True), method, None) is None


FIELDS = [(method, field) for method, fields in experimental.PARAMS.items() for field in fields]


@pytest.mark.parametrize(("method", "field"), FIELDS)
def test_an_experimental_field_needs_the_capability(method: str, field: str) -> None:
    params = b'{ "threadId" : "t", "%b" : [] }' % field.encode()
    message = f"{method}.{field} requires experimentalApi capability"

    assert refuse(session(), method, params) == refusal(message)
    assert refuse(session(experimental_api=True), method, params) is None


@pytest.mark.parametrize("value", [b"[]", b"{}", b'""', b"0", b"true", b'"null"'])
def test_an_empty_value_counts_as_used(value: bytes) -> None:
    assert refuse(session(), "turn/start", b'{"environments":%b}' % value) == refusal(
        "turn/start.environments requires experimentalApi capability"
    )


@pytest.mark.parametrize("value", [b"null", b"false", b" null ", b"\tfalse\n"])
def test_null_and_false_do_not_count_as_used(value: bytes) -> None:
    assert refuse(session(), "turn/start", b'{"environments":%b}' % value) is None


def test_an_escaped_name_is_the_same_name() -> None:
    assert refuse(session(), "turn/start", b'{"env\\u0069ronments":[]}') == refusal(
        "turn/start.environments requires experimentalApi capability"
    )


def test_a_name_inside_a_text_is_only_text() -> None:
    params = b'{"input":[{"type":"text","text":"\\"environments\\":[]","environments":[]}]}'

    assert refuse(session(), "turn/start", params) is None


def test_granular_approval_needs_the_capability() -> None:
    params = b'{"approvalPolicy":{"granular":{"rules":true}}}'

    assert refuse(session(), "thread/start", params) == refusal(
        "askForApproval.granular requires experimentalApi capability"
    )
    assert refuse(session(), "thread/start", b'{"approvalPolicy":"never"}') is None


@pytest.mark.parametrize("params", [None, b"null", b"[]", b"5", b"[" * 100_000, b"{"])
def test_params_of_the_wrong_shape_are_left_to_the_core(params: bytes | None) -> None:
    assert refuse(session(), "thread/start", params) is None


def test_a_client_hears_all_but_what_it_opted_out_of() -> None:
    deaf = session(opted_out=("item/agentMessage/delta",))

    assert not hears(deaf, "item/agentMessage/delta")
    assert hears(deaf, "item/agentMessage/delta2")
    assert hears(session(), "item/agentMessage/delta")


@pytest.mark.parametrize("method", ["thread/readState/changed", "thread/settings/updated"])
def test_experimental_notifications_are_for_those_with_the_capability(method: str) -> None:
    assert not hears(session(), method)
    assert hears(session(experimental_api=True), method)
    assert not hears(session(experimental_api=True, opted_out=(method,)), method)


MEMBERS = st.sampled_from(["clientInfo", "capabilities", "name", "version", "experimentalApi"])


@settings(deadline=None)
@given(st.dictionaries(MEMBERS, JSON_VALUES | st.dictionaries(MEMBERS, JSON_VALUES)) | JSON_VALUES)
def test_any_params_open_a_session_or_say_what_is_wrong(params: object) -> None:
    opened = open_session(json.dumps(params).encode())

    assert isinstance(opened, Session) or opened.code == -32600


@settings(deadline=None)
@given(
    st.sampled_from(sorted(experimental.PARAMS)),
    st.dictionaries(st.sampled_from([field for _, field in FIELDS] + ["x", "y"]), JSON_VALUES),
)
def test_a_request_is_refused_exactly_if_it_uses_an_experimental_field(
    method: str, params: dict[str, object]
) -> None:
    used = [
        field
        for field in experimental.PARAMS[method]
        if params.get(field) is not None and params[field] is not False
    ]
    refused = refuse(session(), method, json.dumps(params).encode())

    assert refused == (
        refusal(f"{method}.{used[0]} requires experimentalApi capability") if used else None
    )
