import pytest

from core_server.engines.endpoint.client import retry_after_s


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("-1", 0.0),
        ("Thu, 01 Jan 1970 00:00:30 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:05 GMT", 0.0),
        ("inf", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after_s({"retry-after": value}, now_s=10) == seconds


def test_milliseconds_are_more_exact_and_win() -> None:
    assert retry_after_s({"retry-after-ms": "1500", "retry-after": "2"}, now_s=0) == 1.5
    assert retry_after_s({"retry-after-ms": "soon", "retry-after": "2"}, now_s=0) == 2


def test_without_retry_after_nothing_is_asked_for() -> None:
    assert retry_after_s({}, now_s=10) is None
