import pytest

from core_server.engines.endpoint.failures import (
    HIGH_DEMAND,
    Answer,
    Failure,
    disconnected,
    not_connected,
    refused,
)


def test_the_texts_that_clients_know() -> None:
    assert disconnected("why") == Failure(
        "stream disconnected before completion: why", "responseStreamDisconnected", retry=True
    )
    assert not_connected("why") == Failure(
        "Connection failed: why", "httpConnectionFailed", retry=True
    )
    assert (
        HIGH_DEMAND
        == "We\u2019re currently experiencing high demand, which may cause temporary errors."
    )


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (Answer(400, '{"raw": 1}', "m"), Failure('{"raw": 1}', "other", 400)),
        (
            Answer(400, "{}", "too long", "context_length_exceeded"),
            Failure("too long", "contextWindowExceeded", 400),
        ),
        (
            Answer(401, "{}", "who?", url="http://h/v1/responses"),
            Failure(
                "unexpected status 401 Unauthorized: who?, url: http://h/v1/responses",
                "unauthorized",
                401,
            ),
        ),
        (
            Answer(404, "no", "no", url="http://h/r"),
            Failure("unexpected status 404 Not Found: no, url: http://h/r", "other", 404),
        ),
        (
            Answer(499, "no", "no", url="u"),
            Failure("unexpected status 499: no, url: u", "other", 499),
        ),
        (
            Answer(408, "no", "no", url="u"),
            Failure("unexpected status 408 Request Timeout: no, url: u", "other", 408, retry=True),
        ),
        (
            Answer(429, "{}", "slower", retry_after_s=3),
            Failure(
                "rate limit reached: slower",
                "rateLimitExceeded",
                429,
                retry=True,
                retry_after_s=3,
                exhausted=(
                    "exceeded retry limit, last status: 429 Too Many Requests",
                    "responseTooManyFailedAttempts",
                ),
            ),
        ),
        (
            Answer(429, "{}", "pay", "insufficient_quota", retry_after_s=3),
            Failure("pay", "usageLimitExceeded", 429),
        ),
        (Answer(500, "x", "x"), Failure(HIGH_DEMAND, "internalServerError", 500, retry=True)),
        (
            Answer(503, "x", "x", retry_after_s=1.5),
            Failure(HIGH_DEMAND, "internalServerError", 503, retry=True, retry_after_s=1.5),
        ),
    ],
)
def test_an_error_status_becomes_a_failure(answer: Answer, failure: Failure) -> None:
    assert refused(answer) == failure


def test_a_long_error_page_is_cut() -> None:
    assert len(refused(Answer(400, "x" * 9_000, "")).message) == 2_000


def test_the_last_try_may_have_another_text() -> None:
    error = Failure("again", "a", 429, exhausted=("enough", "b")).error()
    assert (str(error), error.info, error.http_status) == ("enough", "b", 429)

    error = Failure("again", "a").error()
    assert (str(error), error.info, error.http_status) == ("again", "a", None)
