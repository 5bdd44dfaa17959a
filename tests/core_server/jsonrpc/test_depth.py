"""How many values a document has, against a walk through what it says."""

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from core_server.jsonrpc.depth import values

TEXTS = st.text(alphabet='a"\\,[{}]\n\u00e4')
DOCUMENTS = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(TEXTS, inner, max_size=6),
    max_leaves=40,
)


def counted(document: Any) -> int:
    """The same, slowly: what is in each container, itself where that is nothing."""
    match document:
        case list():
            inner = document
        case dict():
            inner = list(document.values())
        case _:
            return 0
    return max(1, len(inner)) + sum(map(counted, inner))


@given(DOCUMENTS)
def test_values_are_counted_wherever_they_are_and_none_within_a_string(document: Any) -> None:
    assert values(msgspec.json.encode(document)) == counted(document)
    assert values(json.dumps(document, indent=1).encode()) == counted(document)
