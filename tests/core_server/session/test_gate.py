import pytest

from core_server.errors import WireError
from core_server.protocol.session import Capabilities, ClientInfo, InitializeParams
from core_server.session.gate import Gate, State


def _params(name: str = "client", *, capabilities: Capabilities | None = None) -> InitializeParams:
    return InitializeParams(ClientInfo(name, "1"), capabilities)


def test_nothing_is_served_before_initialize() -> None:
    with pytest.raises(WireError, match="Not initialized"):
        Gate().admit("thread/list", experimental=False)


def test_a_second_initialize_is_refused_and_changes_nothing() -> None:
    gate = Gate()
    gate.initialize(_params("first"))
    with pytest.raises(WireError, match="Already initialized"):
        gate.initialize(_params("second"))
    assert repr(gate) == "<Gate INITIALIZED first/1>"


def test_a_name_that_no_header_can_carry_is_refused() -> None:
    gate = Gate()
    with pytest.raises(WireError, match="Must be a valid HTTP header value"):
        gate.initialize(_params("bad\nname"))
    assert gate.state is State.NEW


def test_the_experimental_surface_needs_its_capability() -> None:
    gate = Gate()
    gate.initialize(InitializeParams(ClientInfo("plain", "1")))
    gate.admit("thread/list", experimental=False)
    with pytest.raises(WireError, match="x/y requires experimentalApi capability"):
        gate.admit("x/y", experimental=True)
    assert not gate.wants("thread/settings/updated")


def test_a_client_hears_what_it_did_not_opt_out_of() -> None:
    gate = Gate()
    assert not gate.wants("turn/started")
    gate.initialize(
        _params(
            capabilities=Capabilities(
                experimental_api=True, opt_out_notification_methods=("warning",)
            )
        )
    )
    heard = [
        method
        for method in ("turn/started", "warning", "thread/settings/updated")
        if gate.wants(method)
    ]
    assert heard == ["turn/started", "thread/settings/updated"]
