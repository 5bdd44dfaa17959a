from core_server.handlers.table import HANDLERS, IDENTIFIED, TRACED
from core_server.protocol.methods import FLEET_METHODS, METHODS
from core_server.protocol.schema import documents


def test_every_method_has_one_handler() -> None:
    assert sorted([*HANDLERS, *TRACED, *IDENTIFIED]) == sorted([*METHODS, *FLEET_METHODS])


def test_the_schema_names_every_method() -> None:
    found = documents()
    asked = {kind["title"] for kind in found["ClientRequest.json"]["oneOf"]}
    assert asked == set(METHODS) == set(found["ClientResults.json"]["properties"])
