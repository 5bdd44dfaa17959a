"""Tokens at the door of a running proxy: changed, guessed, expired, and never seen again."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.door import (
    CANARY,
    SECRET,
    TOKEN,
    WAIT_S,
    Authority,
    ask,
    claims,
    port_of,
    signed,
)
from tests.e2e.processes import marked
from tests.e2e.proxy import Proxy, fake_core, trace_proxy
from tests.e2e.traces import traced

FAKE = fake_core("fake")


def capability(directory: Path, token: str = TOKEN) -> list[str]:
    path = directory / "token"
    path.write_text(token)
    path.chmod(0o600)
    return ["--ws-auth", "capability-token", "--ws-token-file", str(path)]


def by_secret(directory: Path) -> list[str]:
    path = directory / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return ["--ws-auth", "signed-bearer-token", "--ws-shared-secret-file", str(path)]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def status(proxy: Proxy, token: str, source: str = "127.0.0.1") -> int:
    return (await ask(port_of(proxy.url), [f"Bearer {token}"], source=source)).status


async def becomes(proxy: Proxy, token: str, expected: int) -> None:
    """Ask from one address after the other, so that none of them is throttled."""
    async with asyncio.timeout(WAIT_S):
        number = 10
        while await status(proxy, token, f"127.0.0.{number}") != expected:
            number += 1
            await asyncio.sleep(0.2)


async def test_a_token_that_changes_is_known_at_once_and_the_old_one_for_a_while(
    tmp_path: Path,
) -> None:
    new = f"{CANARY}-new-token"
    options = [*capability(tmp_path), "--auth-overlap-seconds", "6"]
    async with trace_proxy(*options, core=FAKE) as proxy:
        async with proxy.client(headers=bearer(TOKEN)) as client:
            assert await status(proxy, new) == 401
            (tmp_path / "next").write_text(new)
            (tmp_path / "next").replace(tmp_path / "token")
            await proxy.logged("file.changed")
            assert await status(proxy, new) == 101
            assert await status(proxy, TOKEN) == 101
            await becomes(proxy, TOKEN, 401)
            assert await status(proxy, new) == 101
            assert await client.request("model/list", {}) is not None, "nobody is closed"
        assert CANARY not in proxy.stderr


async def test_a_mounted_secret_changes_by_its_links_and_a_bad_one_changes_nothing(
    tmp_path: Path,
) -> None:
    """As the kubelet does it: `token` → `..data/token`, and `..data` is replaced."""
    for name, token in (
        ("one", TOKEN),
        ("two", f"{CANARY}-two"),
        ("bad", " \n"),
        ("worse", "\xff"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(token, encoding="latin-1")
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "token").symlink_to("..data/token")

    def mount(name: str) -> None:
        (tmp_path / "..tmp").symlink_to(name)
        (tmp_path / "..tmp").replace(tmp_path / "..data")

    options = ["--ws-auth", "capability-token", "--ws-token-file", str(tmp_path / "token")]
    async with trace_proxy(*options, "--auth-overlap-seconds", "0", core=FAKE) as proxy:
        await proxy.logged("file.readable_by_others")
        assert await status(proxy, TOKEN) == 101
        mount("two")
        await proxy.logged("file.changed")
        assert await status(proxy, f"{CANARY}-two") == 101
        assert await status(proxy, TOKEN) == 401, "without an overlap"
        for times, name in enumerate(("bad", "worse", "gone"), start=1):
            mount(name)
            await proxy.logged("file.not_used", times)
            assert await status(proxy, f"{CANARY}-two") == 101
        assert await status(proxy, "") == 401
        mount("one")
        await becomes(proxy, TOKEN, 101)
        assert CANARY not in proxy.stderr


async def test_a_secret_that_changes_does_so_too(tmp_path: Path) -> None:
    new = b"another-" + SECRET
    options = [*by_secret(tmp_path), "--auth-overlap-seconds", "6"]
    async with trace_proxy(*options, core=FAKE) as proxy:
        (tmp_path / "secret").write_bytes(new)
        await becomes(proxy, signed(claims(), secret=new), 101)
        assert await status(proxy, signed(claims())) == 101
        await becomes(proxy, signed(claims()), 401)
        assert CANARY not in proxy.stderr


async def test_a_browser_shows_its_token_as_a_subprotocol_and_gets_it_selected(
    tmp_path: Path,
) -> None:
    async with trace_proxy(*capability(tmp_path), core=FAKE) as proxy:
        port = port_of(proxy.url)
        offered = {"Sec-WebSocket-Protocol": f"other, bearer.{TOKEN}"}
        answer = await ask(port, more=offered)
        assert (answer.status, answer.headers["sec-websocket-protocol"]) == (
            101,
            f"bearer.{TOKEN}",
        )
        wrong = await ask(port, more={"Sec-WebSocket-Protocol": "bearer.x"})
        assert (wrong.status, wrong.body) == (401, "invalid websocket bearer token")
        nothing = await ask(port, more={"Sec-WebSocket-Protocol": "bearer., other"})
        assert (nothing.status, nothing.body) == (401, "missing websocket bearer token")
        header_first = await ask(port, ["Bearer x"], more=offered)
        assert (header_first.status, header_first.body) == (401, "invalid websocket bearer token")
        by_query = await ask(port, line=f"GET /?token={TOKEN} HTTP/1.1")
        assert by_query.status == 401
        async with proxy.client(protocols=[f"bearer.{TOKEN}"]) as client:
            assert client.socket.protocol == f"bearer.{TOKEN}"
            await client.request("model/list", {})
        assert CANARY not in proxy.stderr


async def test_a_thousand_guesses_are_not_looked_at_and_a_right_token_from_elsewhere_is(
    tmp_path: Path,
) -> None:
    async with trace_proxy(*capability(tmp_path), core=FAKE) as proxy:
        async with aiohttp.ClientSession() as session:
            told: list[int] = []
            body = waits = ""
            for number in range(1000):
                async with session.get(
                    f"{proxy.http_url}/metrics", headers=bearer(f"{CANARY}-{number}")
                ) as response:
                    told.append(response.status)
                    body, waits = await response.text(), response.headers.get("Retry-After", "")
        assert told == [401] * 20 + [429] * 980
        assert "Too many" in body
        assert 0 < int(waits) <= 60
        assert await status(proxy, TOKEN) == 429, "a right guess shows nothing"
        assert await status(proxy, TOKEN, "127.0.0.2") == 101
        _, metrics, _ = await by_other(proxy, "/metrics")
        assert 'trace_proxy_connections_refused_total{reason="token_invalid"} 20.0' in metrics
        assert 'refused_total{reason="too_many_refusals"} 981.0' in metrics
        assert len(proxy.log("connection.refused")) < 500, "a guess must not fill a disk"
        assert CANARY not in proxy.stderr + metrics


async def by_other(proxy: Proxy, path: str) -> tuple[int, str, dict[str, str]]:
    """A plain request with the token, from another address."""
    connector = aiohttp.TCPConnector(local_addr=("127.0.0.3", 0))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(proxy.http_url + path, headers=bearer(TOKEN)) as response,
    ):
        return response.status, await response.text(), dict(response.headers)


async def test_behind_an_ingress_all_have_its_address_and_none_is_throttled(
    tmp_path: Path,
) -> None:
    options = [*capability(tmp_path), "--insecure-behind-proxy"]
    async with trace_proxy(*options, core=FAKE) as proxy:
        assert {await status(proxy, "x") for _ in range(40)} == {401}
        assert await status(proxy, TOKEN) == 101


async def test_the_subject_of_a_token_is_the_user_on_spans_in_logs_and_metrics(
    tmp_path: Path,
) -> None:
    user = "alice@example.com"
    async with traced(*by_secret(tmp_path)) as stage:
        proxy = stage.proxy
        token = signed(claims(sub=user))
        async with proxy.client(headers=bearer(token)) as client:
            await client.turn(await client.thread(), "hello")
            await client.wait_for("turn/completed")
        _, metrics, _ = await proxy.get("/metrics", headers=bearer(token))
        spans = await stage.collector.wait_for(
            lambda spans: any("invoke_agent" in span.name for span in spans)
        )
        assert proxy.log("connection.opened")[0]["user"] == user
        assert CANARY not in proxy.stderr + metrics
    assert f'connections_authenticated_total{{user_id="{user}"}} 1.0' in metrics
    named = {span.name: span.attributes.get("user.id") for span in spans}
    (turn,) = [name for name in named if name.startswith("invoke_agent")]
    assert {named[name] for name in ("initialize", "thread/start", "turn/start", turn)} == {user}


@pytest.mark.parametrize("enforced", [True, False])
async def test_a_token_that_expires_ends_its_connection_only_when_asked_for(
    tmp_path: Path, *, enforced: bool
) -> None:
    more = ["--ws-enforce-expiry"] if enforced else []
    async with trace_proxy(*by_secret(tmp_path), *more, core=FAKE) as proxy:
        expires = int(time.time()) + 5
        token, lasting = signed(claims(exp=expires)), signed(claims())
        async with (
            proxy.client(headers=bearer(token)) as client,
            proxy.client(headers=bearer(lasting)) as other,
        ):
            if enforced:
                assert await client.closed() == 1008
                assert client.socket.close_code == 1008
                assert time.time() >= expires
            else:
                await asyncio.sleep(max(0, expires - time.time()) + 0.5)
                await client.request("model/list", {})
            # A little late it is let in still, and stays for that little.
            async with proxy.client(headers=bearer(token)) as late:
                await late.request("model/list", {})
            await other.request("model/list", {})


async def test_metrics_want_the_token_and_probes_do_not(tmp_path: Path) -> None:
    async with trace_proxy(*capability(tmp_path), core=FAKE) as proxy:
        statuses = {
            path: ((await proxy.get(path))[0], (await proxy.get(path, headers=bearer(TOKEN)))[0])
            for path in ("/healthz", "/readyz", "/metrics", "/x")
        }
        _, body, headers = await proxy.get("/metrics")
        events = (await proxy.get("/console/events"))[0]  # with a token it never ends
    assert statuses["/healthz"] == statuses["/readyz"] == (200, 200)
    assert statuses["/metrics"] == (401, 200)
    assert (events, statuses["/x"][0]) == (401, 401)
    assert body == "missing websocket bearer token"
    assert headers["Content-Type"].startswith("text/plain")
    assert headers["WWW-Authenticate"] == "Bearer"


async def test_a_unix_socket_asks_for_nothing_as_its_mode_keeps_others_out(tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    listen = ["--listen", f"unix://{path}"]
    async with trace_proxy(*capability(tmp_path), *listen, core=FAKE) as proxy:
        connector = aiohttp.UnixConnector(str(path))
        async with aiohttp.ClientSession(connector=connector) as session:
            socket = await session.ws_connect("http://localhost/")
            await socket.close()
            async with session.get("http://localhost/metrics") as response:
                assert response.status == 200
        assert await status(proxy, "x") == 401
        assert path.stat().st_mode & 0o777 == 0o600


async def test_without_authentication_a_token_changes_nothing() -> None:
    async with trace_proxy(core=FAKE) as proxy:
        for value in ("Bearer x", "Basic x", ""):
            assert (await ask(port_of(proxy.url), [value])).status == 101


@contextlib.asynccontextmanager
async def all_secrets(directory: Path) -> AsyncIterator[tuple[Proxy, list[str]]]:
    """A proxy with every kind of secret; yields what it said in bodies too."""
    authority = Authority(directory)
    cert, key = authority.issue()
    tls = ["--tls-cert", str(cert), "--tls-key", str(key)]
    env = {"LOG_LEVEL": "debug", "CORE_SERVER_LOG_LEVEL": "debug"}
    async with traced(*by_secret(directory), *tls, env=env) as stage:
        proxy, trusted = stage.proxy, authority.trusted()
        said: list[str] = []
        mine = signed(claims(sub="bob", name=f"{CANARY}-claim"))
        async with proxy.client(headers=bearer(mine), ssl=trusted) as client:
            said.extend(marked(proxy.mark).values())
            await client.turn(await client.thread(), "hello")
            await client.wait_for("turn/completed")
            said.extend(str(message) for message in client.received)
        stale = signed(claims(exp=1, sub=f"{CANARY}-expired"))
        for shown in (f"Bearer {stale}", f"Bearer {CANARY}", f"Basic {CANARY}", CANARY):
            answer = await ask(port_of(proxy.url), [shown], tls=trusted)
            said.append(f"{answer.body} {answer.headers}")
        for path in ("/metrics", "/readyz", "/healthz", "/", f"/x?token={CANARY}"):
            said.extend((await proxy.get(path, ssl=trusted, headers=bearer(mine)))[1:2])
        (directory / "secret").write_text(f"{CANARY}-short")
        await proxy.logged("file.not_used")
        await stage.collector.wait_for(lambda spans: any("invoke" in each.name for each in spans))
        said.append(b"".join(stage.collector.bodies).decode(errors="replace"))
        said.append(key.read_text().splitlines()[1])
        yield proxy, said


async def test_secrets_come_out_nowhere(tmp_path: Path) -> None:
    async with all_secrets(tmp_path) as (proxy, said):
        *outside, key_line = said
        everything = proxy.stderr + "\n".join(outside)
    assert "file.not_used" in everything
    for secret in (CANARY, key_line, signed(claims()).split(".")[0] + ".", "eyJleHAi"):
        assert secret not in everything


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no auth": (["--listen", "ws://0.0.0.0:0"], "without authentication"),
    "no auth, v6": (["--listen", "ws://[::]:0"], "without authentication"),
    "tls is no auth": (["--listen", "ws://0.0.0.0:0", "@tls"], "without authentication"),
    "plain text": (["--listen", "ws://0.0.0.0:0", "@token"], "in plain text"),
    "wss without certificate": (["--listen", "wss://127.0.0.1:0"], "--tls-cert and --tls-key"),
    "missing": (["@capability", "--ws-token-file", "nowhere"], "cannot be read: No such file"),
    "a directory": (["@capability", "--ws-token-file", "."], "cannot be read: Is a directory"),
    "empty": (["@capability", "--ws-token-file", "empty"], "is empty"),
    "blank": (["@capability", "--ws-token-file", "blank"], "is empty"),
    "not a header": (["@capability", "--ws-token-file", "binary"], "no header can carry"),
    "two lines": (["@capability", "--ws-token-file", "lines"], "no header can carry"),
    "too large": (["@capability", "--ws-token-file", "large"], "larger than"),
    "two tokens": (["@token", "--ws-token-sha256", "0" * 64], "leave one out"),
    "no token": (["@capability"], "add one"),
    "no digest": (["@capability", "--ws-token-sha256", f"{CANARY}"], "64 hexadecimal digits"),
    "no mode": (["--ws-token-file", "token"], "goes with --ws-auth capability-token"),
    "wrong mode": (["@token", "--ws-issuer", "x"], "goes with --ws-auth signed-bearer-token"),
    "other mode": (["--ws-auth", f"{CANARY}"], "capability-token, signed-bearer-token"),
    "no secret": (["@signed"], "takes --ws-shared-secret-file"),
    "short": (["@signed", "--ws-shared-secret-file", "token"], "less than 32 bytes"),
    "public key": (["@signed", "--ws-shared-secret-file", "public"], "a key of another kind"),
    "negative skew": (["@secret", "--ws-max-clock-skew-seconds", "-1"], "a whole number"),
    "half skew": (["@secret", "--ws-max-clock-skew-seconds", "0.5"], "whole number"),
    "no key": (["--tls-cert", "server.crt"], "go together"),
    "client ca alone": (["--tls-client-ca", "ca.pem"], "goes with --tls-cert"),
    "missing key": (["--tls-cert", "server.crt", "--tls-key", "nowhere"], "No such file"),
    "other key": (["--tls-cert", "server.crt", "--tls-key", "other.key"], "does not fit"),
    "no pem": (["--tls-cert", "token", "--tls-key", "server.key"], "holds no certificate"),
    "no key in it": (["--tls-cert", "server.crt", "--tls-key", "server.crt"], "no private key"),
    "broken": (["--tls-cert", "broken", "--tls-key", "server.key"], "cannot be used"),
    "passphrase": (["--tls-cert", "server.crt", "--tls-key", "locked"], "has a passphrase"),
    "no authority": (["@tls", "--tls-client-ca", "token"], "--tls-client-ca holds no certificate"),
}
SHORT = {
    "@capability": ["--ws-auth", "capability-token"],
    "@token": ["--ws-auth", "capability-token", "--ws-token-file", "token"],
    "@signed": ["--ws-auth", "signed-bearer-token"],
    "@secret": ["--ws-auth", "signed-bearer-token", "--ws-shared-secret-file", "secret"],
    "@tls": ["--tls-cert", "server.crt", "--tls-key", "server.key"],
}


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with everything that may be given wrongly."""
    from cryptography.hazmat.primitives import serialization as form  # noqa: PLC0415 - slow

    directory = tmp_path_factory.mktemp("mistakes")
    authority = Authority(directory)
    cert, key = authority.issue()
    authority.issue("other")
    private = form.load_pem_private_key(key.read_bytes(), None)
    locked = private.private_bytes(
        form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"x")
    )
    public = private.public_key().public_bytes(
        form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
    )
    files: dict[str, bytes] = {
        "token": TOKEN.encode(),
        "secret": SECRET,
        "empty": b"",
        "blank": b" \n",
        "binary": TOKEN.encode() + b"\xff",
        "lines": f"{TOKEN}\n{TOKEN}".encode(),
        "large": TOKEN.encode() * 100_000,
        "locked": locked,
        "public": public,
        "broken": b"-----BEGIN CERTIFICATE-----\nCANARY\n-----END CERTIFICATE-----\n",
    }
    for name, content in files.items():
        (directory / name).write_bytes(content)
    assert cert.exists()
    return directory


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_what_cannot_protect_is_refused_at_start_in_one_line(
    mistake: str, mistaken: Path
) -> None:
    given, expected = MISTAKES[mistake]
    options = [part for each in given for part in SHORT.get(each, [each])]
    root = str(Path(__file__).parents[2])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trace_proxy", *options, "--", *FAKE),
        env={**os.environ, "PYTHONPATH": root},
        cwd=mistaken,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(WAIT_S):
            out, err = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    told = err.decode()
    assert (process.returncode, out, told.count("\n")) == (2, b"", 1), told
    assert expected in told
    assert told.startswith("trace-proxy: ")
    assert CANARY not in told or mistake == "other mode", "the name of a mode is no secret"
