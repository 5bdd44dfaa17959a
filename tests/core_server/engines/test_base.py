import pytest

from core_server.engines.base import codex_error_info


@pytest.mark.parametrize(
    ("info", "http_status", "wire"),
    [
        ("other", 400, "other"),
        ("internalServerError", None, "internalServerError"),
        (
            "responseStreamDisconnected",
            None,
            {"responseStreamDisconnected": {"httpStatusCode": None}},
        ),
        (
            "responseTooManyFailedAttempts",
            429,
            {"responseTooManyFailedAttempts": {"httpStatusCode": 429}},
        ),
    ],
)
def test_some_names_carry_the_http_status(
    info: str, http_status: int | None, wire: str | dict[str, object]
) -> None:
    assert codex_error_info(info, http_status) == wire
