import json

import pytest

from core_server.engines.endpoint.failures import (
    HIGH_DEMAND,
    Answer,
    Failure,
    disconnected,
    not_connected,
    refused,
    reported,
)
from core_server.engines.endpoint.words import Said

URL = "http://h/v1/responses"


def body(message: str, code: str | int | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": None, "code": code}}).encode()


def answer(status: int, said: bytes = b"", retry_after_s: float | None = None) -> Answer:
    return Answer(status, said, retry_after_s, URL)


def unexpected(status: str, words: str) -> str:
    return f"unexpected status {status}: {words}, url: {URL}"


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
    ("given", "failure"),
    [
        (
            answer(400, b'{"raw": {"message": 1}}'),
            Failure('{"raw": {"message": 1}}', "other", 400),
        ),
        (answer(400, b"<title>No</title>"), Failure("No", "other", 400)),
        (
            answer(400),
            Failure(unexpected("400 Bad Request", "(no text)"), "httpConnectionFailed", 400),
        ),
        (
            answer(400, body("too long", "context_length_exceeded")),
            Failure("too long", "contextWindowExceeded", 400),
        ),
        (
            answer(400, body("This model's maximum context length is 4096 tokens")),
            Failure(
                "This model's maximum context length is 4096 tokens", "contextWindowExceeded", 400
            ),
        ),
        (
            answer(401, body("who?")),
            Failure(unexpected("401 Unauthorized", "who?"), "httpConnectionFailed", 401),
        ),
        (
            answer(404, b"no"),
            Failure(unexpected("404 Not Found", "no"), "httpConnectionFailed", 404),
        ),
        (answer(499, b"no"), Failure(unexpected("499", "no"), "httpConnectionFailed", 499)),
        (
            answer(408, b"no", 2),
            Failure(
                unexpected("408 Request Timeout", "no"),
                "httpConnectionFailed",
                408,
                retry=True,
                retry_after_s=2,
            ),
        ),
        (
            answer(429, body("pay", "insufficient_quota"), 3),
            Failure("pay", "usageLimitExceeded", 429, retry_after_s=3),
        ),
        (answer(500), Failure(HIGH_DEMAND, "internalServerError", 500, retry=True)),
        (
            answer(500, b"CUDA out of memory"),
            Failure(
                unexpected("500 Internal Server Error", "CUDA out of memory"),
                "internalServerError",
                500,
                retry=True,
            ),
        ),
        (
            answer(501, b"no"),
            Failure(unexpected("501 Not Implemented", "no"), "httpConnectionFailed", 501),
        ),
        (
            answer(503, b"x", 1.5),
            Failure(
                unexpected("503 Service Unavailable", "x"),
                "httpConnectionFailed",
                503,
                retry=True,
                retry_after_s=1.5,
            ),
        ),
        (
            answer(503, body("busy", "server_is_overloaded")),
            Failure("busy", "serverOverloaded", 503, retry=True),
        ),
        (
            Answer(301, b"", None, URL, "https://h/v1/responses"),
            Failure(
                unexpected("301 Moved Permanently", "it points to https://h/v1/responses"),
                "httpConnectionFailed",
                301,
            ),
        ),
    ],
)
def test_an_error_status_becomes_a_failure(given: Answer, failure: Failure) -> None:
    assert refused(given) == failure


@pytest.mark.parametrize(
    ("said", "header_s", "wait_s"),
    [
        (body("slower"), 3, 3),
        (body("slower, try again in 1.5s"), None, 1.5),
        (body("slower, try again in 20 ms", "rate_limit_exceeded"), None, 0.02),
        (body("slower, try again in 20s"), 3, 3),
        (b"", None, None),
    ],
)
def test_a_rate_limit_is_tried_again_when_the_endpoint_says(
    said: bytes, header_s: float | None, wait_s: float | None
) -> None:
    failure = refused(answer(429, said, header_s))

    assert failure.message.startswith("rate limit reached: ")
    assert (failure.info, failure.retry) == ("rateLimitExceeded", True)
    assert failure.retry_after_s == wait_s


def test_the_last_word_of_a_rate_limit_keeps_the_endpoints_in_its_details() -> None:
    error = refused(answer(429, body("slower"))).error()

    assert str(error) == "exceeded retry limit, last status: 429 Too Many Requests"
    assert (error.info, error.http_status) == ("responseTooManyFailedAttempts", 429)
    assert error.details == "rate limit reached: slower"


@pytest.mark.parametrize(
    ("said", "again", "failure"),
    [
        (Said("boom", "server_error"), False, Failure("boom", retry=True)),
        (Said("boom", "502"), False, Failure("boom", retry=True)),
        (Said("boom"), True, Failure("boom", retry=True)),
        (Said("boom"), False, Failure("boom")),
        (Said("boom", "invalid_prompt"), True, Failure("boom")),
        (Said("boom", "404"), True, Failure("boom")),
        (
            Said("", "odd"),
            True,
            Failure("the endpoint reported odd and says no more"),
        ),
        (
            Said(""),
            False,
            Failure("the endpoint reported an error and says no more"),
        ),
    ],
)
def test_what_the_endpoint_reports_is_asked_again_only_if_it_may_get_better(
    said: Said,
    again: bool,  # noqa: FBT001 - a parameter of the table
    failure: Failure,
) -> None:
    assert reported(said, again=again) == failure
