import time
from uuid import UUID

from core_server.runtime.identifiers import Uuid7


def test_ids_are_version_7_and_grow_also_within_a_millisecond() -> None:
    new_id = Uuid7()
    ids = [new_id() for _ in range(10_000)]
    assert ids == sorted(set(ids))
    assert {(UUID(each).version, UUID(each).variant) for each in ids} == {
        (7, UUID(ids[0]).variant)
    }
    assert abs((UUID(ids[0]).int >> 80) - time.time_ns() // 1_000_000) < 5_000
