import pytest

from core_server.handlers.table import HANDLERS, IDENTIFIED, TRACED
from core_server.protocol.methods import FLEET_METHODS, METHODS, REFUSED, SAYS_NOTHING
from core_server.protocol.schema import documents
from tests.core_server.in_process import served
from tests.stdio_client import RpcError


def test_every_method_has_one_handler() -> None:
    assert sorted([*HANDLERS, *TRACED, *IDENTIFIED]) == sorted([*METHODS, *FLEET_METHODS])


def test_the_schema_names_every_method() -> None:
    found = documents()
    asked = {kind["title"] for kind in found["ClientRequest.json"]["oneOf"]}
    assert asked == set(METHODS) == set(found["ClientResults.json"]["properties"])


def test_what_is_not_served_is_in_one_table_each_with_words() -> None:
    assert not set(METHODS) & set(SAYS_NOTHING) | set(METHODS) & set(REFUSED)
    assert not set(SAYS_NOTHING) & set(REFUSED)
    assert all([*SAYS_NOTHING.values(), *REFUSED.values()])


@pytest.mark.parametrize(("name", "words"), SAYS_NOTHING.items())
async def test_what_needs_more_than_we_have_is_refused_as_the_reference_does(
    name: str, words: str
) -> None:
    async with served() as client:
        with pytest.raises(RpcError) as refused:
            await client.request(name, {})
    assert (refused.value.code, refused.value.message) == (-32600, words)


async def test_what_is_left_out_is_not_found_and_the_reason_is_with_it() -> None:
    async with served() as client:
        for name, why in [*REFUSED.items(), ("nothing/like/it", None)]:
            with pytest.raises(RpcError) as refused:
                await client.request(name, {})
            data = None if why is None else {"reason": "notServed", "detail": why}
            assert (refused.value.code, refused.value.message, refused.value.data) == (
                -32601,
                f"Method not found: {name}",
                data,
            )
