"""The same door as the real `codex app-server` has: one table, asked of both, compared.

Each row is a request and what the real server answered when it was measured (0.171). It
is asked again where it is installed, so that a newer one that answers otherwise shows.
"""

import asyncio
import contextlib
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from tests.compat.real_codex import codex_home, codex_path, needs_codex
from tests.door import CANARY, HEADER, SECRET, TOKEN, WAIT_S, ask, claims, port_of, signed
from tests.e2e.proxy import fake_core, trace_proxy

Shown = Sequence[str | bytes]
Row = tuple[Shown, str]
"""Values of `Authorization`, and the body of the 401; empty: let in."""

MISSING = "missing websocket bearer token"
WRONG = "invalid websocket bearer token"
HEADER_WRONG = "invalid authorization header"
JWT = "invalid websocket jwt"
EXPIRED = "expired websocket jwt"
EARLY = "websocket jwt is not valid yet"
ISSUER = "websocket jwt issuer mismatch"
AUDIENCE = "websocket jwt audience mismatch"

CAPABILITY: list[Row] = [
    ([], MISSING),
    ([f"Bearer {TOKEN}"], ""),
    ([f"bearer {TOKEN}"], ""),
    ([f"bEaReR   {TOKEN}  "], ""),
    ([f"\tBearer {TOKEN}\t"], ""),
    ([f"Bearer \t{TOKEN}"], ""),
    ([f"Bearer\t{TOKEN}"], HEADER_WRONG),
    *(([value], HEADER_WRONG) for value in ("", " ", "Bearer", "Bearer ", "Bearer\t", TOKEN)),
    *(([value], HEADER_WRONG) for value in ("Basic Zm9v", f"Bearer: {TOKEN}", f"Bearer{TOKEN}")),
    *(([value], HEADER_WRONG) for value in (b"Bearer caf\xc3\xa9", b"Bearer \xff", b"\xff")),
    *(([f"Bearer {value}"], WRONG) for value in ("x", f"{TOKEN} x", f"{TOKEN},Bearer x")),
    ([f"Bearer {TOKEN[:-1]}"], WRONG),
    (["Bearer x", f"Bearer {TOKEN}"], WRONG),
    ([f"Bearer {TOKEN}", "Bearer x"], ""),
    (["Basic x", f"Bearer {TOKEN}"], HEADER_WRONG),
    (["", f"Bearer {TOKEN}"], HEADER_WRONG),
]


def token(expected: str, jwt: str) -> Row:
    return [f"Bearer {jwt}"], expected


def payload(text: str) -> bytes:
    """Claims that a JSON encoder does not make; `OK` stands for good ones."""
    return text.replace("OK", json.dumps(claims())[1:-1]).encode()


def signed_rows() -> list[Row]:
    """Made when asked for, since they hold the time."""
    now = int(time.time())
    good = signed(claims())
    head, body, signature = good.split(".")
    return [
        ([], MISSING),
        (["Bearer"], HEADER_WRONG),
        (["Basic x"], HEADER_WRONG),
        token("", good),
        *(token(JWT, signed(claims(exp=exp))) for exp in (..., None, True, "9", [now], 2**63)),
        *(token(JWT, signed(claims(exp=exp))) for exp in (now + 600.5, float(now + 600), 2**64)),
        *(token(JWT, signed(claims(exp=exp))) for exp in (10**30, -(2**63) - 1)),
        *(token("", signed(claims(exp=exp))) for exp in (2**62, 2**63 - 1, now - 20)),
        *(token(EXPIRED, signed(claims(exp=exp))) for exp in (now - 40, 0, -5, -(2**63))),
        *(token("", signed(claims(nbf=nbf))) for nbf in (None, -1, now + 20, -(2**63))),
        *(token(JWT, signed(claims(nbf=nbf))) for nbf in (1.5, "1", True)),
        token(EARLY, signed(claims(nbf=now + 60))),
        *(token("", signed(claims(iat=iat))) for iat in (now + 10**6, "x")),
        *(token("", signed(claims(sub=sub))) for sub in (5, "somebody", None)),
        *(token(ISSUER, signed(claims(iss=iss))) for iss in (..., None, "x", "ISSUER")),
        *(token(JWT, signed(claims(iss=iss))) for iss in (5, ["issuer"])),
        *(token(AUDIENCE, signed(claims(aud=aud))) for aud in (..., None, "x", ["x"], [])),
        *(token(JWT, signed(claims(aud=aud))) for aud in (5, {"a": 1}, ["audience", 5])),
        token("", signed(claims(aud=["x", "audience"]))),
        # The order of the checks.
        token(EXPIRED, signed(claims(exp=1, nbf=now + 999, iss="x", aud="x"))),
        token(EARLY, signed(claims(nbf=now + 999, iss="x", aud="x"))),
        token(ISSUER, signed(claims(iss="x", aud="x"))),
        token(JWT, signed(claims(exp=1), secret=b"x" * 40)),
        # Signatures and algorithms.
        token(JWT, signed(claims(), secret=b"x" * 40)),
        token(JWT, signed(claims(), secret=b"\n" + SECRET)),
        *(token(JWT, signed(claims(), {"alg": alg})) for alg in ("none", "RS256", "hs256", None)),
        token(JWT, signed(claims(), {"alg": "HS512"}, digest=hashlib.sha512)),
        token(JWT, signed(claims(), {"alg": "HS384"}, digest=hashlib.sha384)),
        token(JWT, signed(claims(), {"typ": "JWT"})),
        token(JWT, signed(claims(), b'{"alg":"none","alg":"HS256"}')),
        token(JWT, signed(claims(), ["HS256"])),
        token(JWT, f"{signed(claims(), {'alg': 'none'}).rsplit('.', 1)[0]}."),
        # Headers that ask for a key of their own are accepted, and not followed.
        *(token("", signed(claims(), HEADER | {"typ": typ})) for typ in (None, "other")),
        *(token("", signed(claims(), HEADER | {name: "x"})) for name in ("kid", "jku", "x5u")),
        *(token("", signed(claims(), HEADER | {name: "x"})) for name in ("zip", "enc", "other")),
        *(token(JWT, signed(claims(), HEADER | {name: 5})) for name in ("typ", "kid", "jwk")),
        # Payloads and forms.
        *(token(JWT, signed(payload(text))) for text in ("[]", '"x"', "x", "", '{"exp":NaN}')),
        *(token(JWT, signed(payload(text))) for text in ('{"exp":1,OK}', '{OK,"exp":1}', "{OK}x")),
        *(
            token(JWT, signed(payload(text)))
            for text in ('{"exp":1e12}', '{"exp":-0}', "\ufeff{OK}")
        ),
        *(token("", signed(payload(text))) for text in (" {OK}\n", '{"x":1,"x":2,OK}')),
        token("", signed(payload('{OK,"x":"\\ud800"}'))),
        token("", signed(payload('{OK,"x":' + "[" * 300 + "]" * 300 + "}"))),
        token("", signed(payload('{OK,"x":' + "9" * 5000 + "}"))),
        token("", signed(b'{"x":"\xff",' + payload("OK}"))),
        *(token(JWT, text) for text in ("..", ".", f"{head}.{body}", f"{good}.x", good[:-1])),
        token(JWT, f"{head}=.{body}=.{signature}="),
        token(JWT, f"{head} .{body}.{signature}"),
    ]


async def answers(port: int, rows: Sequence[Row]) -> list[tuple[int, str]]:
    """What the rows are told: the status, and the body of a refusal."""
    told = [await ask(port, shown) for shown, _ in rows]
    return [(each.status, each.body) for each in told]


def measured(rows: Sequence[Row]) -> list[tuple[int, str]]:
    return [(401 if body else 101, body) for _, body in rows]


@contextlib.asynccontextmanager
async def ours(*options: str) -> AsyncIterator[int]:
    """Our port, with throttling left to somebody in front: the table is one long guess."""
    async with trace_proxy(*options, "--insecure-behind-proxy", core=fake_core("fake")) as proxy:
        yield port_of(proxy.url)
        assert CANARY not in proxy.stderr


@contextlib.asynccontextmanager
async def theirs(directory: Path, *options: str) -> AsyncIterator[int]:
    """The port of the real server, with the same options."""
    env = codex_home(directory, "http://127.0.0.1:9/v1")
    process = await asyncio.create_subprocess_exec(
        *(str(codex_path()), "app-server", "--listen", "ws://127.0.0.1:0", *options),
        env=env,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(WAIT_S):
            while not (found := re.search(rb"ws://\S+?:(\d+)", await process.stderr.readline())):
                assert process.returncode is None
        yield int(found[1])
    finally:
        process.kill()
        await process.wait()


def capability(directory: Path) -> list[str]:
    path = directory / "token"
    path.write_text(f"  {TOKEN} \n\n")
    return ["--ws-auth", "capability-token", "--ws-token-file", str(path)]


def signed_options(directory: Path) -> list[str]:
    path = directory / "secret"
    path.write_bytes(b"\n " + SECRET + b" \n")
    mode = ["--ws-auth", "signed-bearer-token", "--ws-shared-secret-file", str(path)]
    return [*mode, "--ws-issuer", "issuer", "--ws-audience", "audience"]


async def test_a_capability_token_is_judged_as_measured(tmp_path: Path) -> None:
    async with ours(*capability(tmp_path)) as port:
        assert await answers(port, CAPABILITY) == measured(CAPABILITY)


async def test_a_signed_token_is_judged_as_measured(tmp_path: Path) -> None:
    rows = signed_rows()
    async with ours(*signed_options(tmp_path)) as port:
        assert await answers(port, rows) == measured(rows)


@needs_codex
async def test_the_real_server_still_answers_as_measured(tmp_path: Path) -> None:
    async with theirs(tmp_path / "1", *capability(tmp_path)) as port:
        assert await answers(port, CAPABILITY) == measured(CAPABILITY)
    rows = signed_rows()
    async with theirs(tmp_path / "2", *signed_options(tmp_path)) as port:
        assert await answers(port, rows) == measured(rows)


async def test_a_digest_and_a_skew_of_none_are_understood_alike(tmp_path: Path) -> None:
    digest = hashlib.sha256(TOKEN.encode()).hexdigest().upper()
    by_digest = ["--ws-auth", "capability-token", "--ws-token-sha256", f" {digest}"]
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    strict = ["--ws-auth", "signed-bearer-token", "--ws-shared-secret-file", str(secret)]
    strict += ["--ws-max-clock-skew-seconds", "0"]
    now = int(time.time())
    late = [
        token(EXPIRED, signed({"exp": now - 2})),
        token(EARLY, signed({"exp": now + 600, "nbf": now + 60})),
        token("", signed({"exp": now + 600, "iss": "any", "aud": "any"})),
        *(token(JWT, signed({"exp": now + 600, name: 5})) for name in ("iss", "aud")),
    ]
    servers = (
        [ours] if codex_path() is None else [ours, lambda *o: theirs(tmp_path / o[3][-3:], *o)]
    )
    for server in servers:
        async with server(*by_digest) as port:
            assert await answers(port, CAPABILITY) == measured(CAPABILITY)
        async with server(*strict) as port:
            assert await answers(port, late) == measured(late)


async def test_the_order_of_the_checks_is_theirs(tmp_path: Path) -> None:
    """Probes, then the handshake itself, then `Origin`, then the token."""
    asked: list[tuple[str, dict[str, str], Shown, int]] = [
        ("/healthz", {}, ["Bearer x"], 200),
        ("/readyz", {}, [], 200),
        ("/", {"Origin": "http://evil.example"}, [], 403),
        ("/", {"Origin": "http://evil.example"}, [f"Bearer {TOKEN}"], 403),
        ("/", {"Connection": "keep-alive"}, [], 400),
        (f"/?token={TOKEN}", {}, [], 401),
        ("/any/path", {}, [], 401),
        ("/any/path", {}, [f"Bearer {TOKEN}"], 101),
    ]

    async def statuses(port: int) -> list[int]:
        return [
            (await ask(port, shown, more=more, line=f"GET {path} HTTP/1.1")).status
            for path, more, shown, _ in asked
        ]

    expected = [status for *_, status in asked]
    async with ours(*capability(tmp_path)) as port:
        assert await statuses(port) == expected
    if codex_path() is not None:
        async with theirs(tmp_path / "codex", *capability(tmp_path)) as port:
            assert await statuses(port) == expected


async def test_what_a_token_says_is_critical_must_be_understood(tmp_path: Path) -> None:
    """RFC 7515, 4.1.11: the one thing in which we are stricter than the real server."""
    async with ours(*signed_options(tmp_path)) as port:
        critical: list[dict[str, object]] = [{"crit": ["x"], "x": 1}, {"crit": []}, {"b64": False}]
        for more in critical:
            answer = await ask(port, [f"Bearer {signed(claims(), HEADER | more)}"])
            assert (answer.status, answer.body) == (401, JWT)
