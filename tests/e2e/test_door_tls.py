"""TLS and mutual TLS on a real listener, with certificates of a private authority."""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.door import CANARY, TOKEN, WAIT_S, Authority, ask, port_of
from tests.e2e.proxy import Proxy, fake_core, leave, trace_proxy
from tests.e2e.traces import traced


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def options(pair: tuple[Path, Path]) -> list[str]:
    return ["--tls-cert", str(pair[0]), "--tls-key", str(pair[1])]


async def serial(proxy: Proxy, trusted: ssl.SSLContext) -> str:
    """The serial number of the certificate that is shown to who comes now."""
    async with asyncio.timeout(WAIT_S):
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port_of(proxy.url), ssl=trusted, server_hostname="localhost"
        )
        shown: str = writer.get_extra_info("peercert")["serialNumber"]
        writer.transport.abort()
    return shown


async def until(proxy: Proxy, fits: Callable[[str], bool], trusted: ssl.SSLContext) -> None:
    async with asyncio.timeout(WAIT_S):
        while not fits(await serial(proxy, trusted)):  # noqa: ASYNC110 - files tell nobody
            await asyncio.sleep(0.05)


async def test_a_turn_runs_over_tls_and_the_ready_line_says_so(authority: Authority) -> None:
    async with trace_proxy(*options(authority.issue())) as proxy:
        (url,) = proxy.ready["listen"]
        assert url.startswith("wss://127.0.0.1:")
        async with proxy.client(ssl=authority.trusted()) as client:
            await client.turn(await client.thread(), "hello over there")
            await client.wait_for("turn/completed")
        status, body, _ = await proxy.get("/healthz", ssl=authority.trusted())
    assert (status, body) == (200, '{"status": "ok"}')


async def test_messages_of_every_size_pass_both_ways(authority: Authority) -> None:
    async with (
        trace_proxy(*options(authority.issue()), core=fake_core("fake")) as proxy,
        proxy.client(ssl=authority.trusted()) as client,
    ):
        for size in (1, 16 * 1024, 100_000, 3_000_000):
            result = await client.request("model/list", {"echo": "x" * size})
            assert result is not None


async def test_who_does_not_trust_the_authority_or_speaks_plainly_gets_nothing(
    authority: Authority,
) -> None:
    async with trace_proxy(*options(authority.issue()), core=fake_core("fake")) as proxy:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await proxy.connect()
        plain = "ws" + proxy.url.removeprefix("wss")
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.ws_connect(plain)
        old = authority.trusted()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        assert (await ask(port_of(proxy.url), tls=old)).status == 101
        assert not proxy.log("library.message"), "no traceback for a port scan"


async def test_a_new_certificate_is_shown_and_nobody_is_closed(authority: Authority) -> None:
    pair = authority.issue()
    trusted = authority.trusted()
    async with (
        trace_proxy(*options(pair)) as proxy,
        proxy.client(ssl=trusted) as client,
    ):
        first = await serial(proxy, trusted)
        cert, key = authority.issue("next")
        cert.replace(pair[0])  # for a moment they do not fit: both or neither
        await asyncio.sleep(1.2)
        assert await serial(proxy, trusted) == first
        key.replace(pair[1])
        await until(proxy, lambda shown: shown != first, trusted)
        pair[0].write_text("half a certificate")
        await proxy.logged("file.not_used")
        assert await serial(proxy, trusted) != first
        await client.turn(await client.thread(), "still here")
        await client.wait_for("turn/completed")


async def test_a_clients_certificate_is_its_user(authority: Authority) -> None:
    pair = authority.issue("alice", user="alice, of CANARY")
    tls = [*options(authority.issue()), "--tls-client-ca", str(authority.path)]
    async with traced(*tls) as stage:
        proxy = stage.proxy
        async with proxy.client(ssl=authority.trusted(pair)) as client:
            await client.turn(await client.thread(), "hello")
            await client.wait_for("turn/completed")
        opened = await proxy.logged("connection.opened")
        _, metrics, _ = await proxy.get("/metrics", ssl=authority.trusted(pair))
        spans = await stage.collector.wait_for(
            lambda spans: any("invoke_agent" in span.name for span in spans)
        )
    user = opened["user"]
    assert user.startswith("CN=alice\\, of CANARY,")
    assert 'user_id="CN=alice' in metrics
    for span in spans:
        if span.name == "turn/start" or "invoke_agent" in span.name:
            assert span.attributes["user.id"] == user


async def test_without_a_certificate_of_the_authority_only_probes_answer(
    tmp_path: Path, authority: Authority
) -> None:
    other = Authority(tmp_path, "other")
    tls = [*options(authority.issue()), "--tls-client-ca", str(authority.path)]
    async with trace_proxy(*tls, core=fake_core("fake")) as proxy:
        port = port_of(proxy.url)
        answer = await ask(port, tls=authority.trusted())
        assert (answer.status, answer.body) == (401, "missing client certificate")
        for path, expected in (("/healthz", 200), ("/readyz", 200), ("/metrics", 401)):
            status, _, _ = await proxy.get(path, ssl=authority.trusted())
            assert status == expected, path
        strange = authority.trusted(other.issue("strange", user="mallory"))
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await ask(port, tls=strange)
        mine = authority.trusted(authority.issue("mine", user="alice"))
        assert (await ask(port, tls=mine)).status == 101


async def test_both_a_certificate_and_a_token_are_asked_for(authority: Authority) -> None:
    token = authority.directory / "token"
    token.write_text(TOKEN)
    tls = [*options(authority.issue()), "--tls-client-ca", str(authority.path)]
    auth = ["--ws-auth", "capability-token", "--ws-token-file", str(token)]
    async with trace_proxy(*tls, *auth, core=fake_core("fake")) as proxy:
        port = port_of(proxy.url)
        mine = authority.trusted(authority.issue("mine", user="alice"))
        assert (await ask(port, [f"Bearer {TOKEN}"], tls=authority.trusted())).status == 401
        answer = await ask(port, tls=mine)
        assert (answer.status, answer.body) == (401, "missing websocket bearer token")
        assert (await ask(port, [f"Bearer {TOKEN}"], tls=mine)).status == 101
        assert CANARY not in proxy.stderr


async def test_a_new_authority_is_trusted_and_the_old_one_for_the_overlap(
    tmp_path: Path, authority: Authority
) -> None:
    """With TLS 1.3 and 1.2; a client that knows the server from before must show it again."""
    second = Authority(tmp_path, "second")
    tls = [*options(authority.issue()), "--tls-client-ca", str(tmp_path / "clients.pem")]
    (tmp_path / "clients.pem").write_bytes(authority.path.read_bytes())
    old = authority.trusted(authority.issue("old", user="old"))
    new = authority.trusted(second.issue("new", user="new"))
    async with trace_proxy(*tls, "--auth-overlap-seconds", "6", core=fake_core("fake")) as proxy:
        port = port_of(proxy.url)
        assert (await ask(port, tls=old)).status == 101
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await ask(port, tls=new)
        client = await proxy.connect(ssl=old)
        (tmp_path / "clients.pem").write_bytes(second.path.read_bytes())
        await proxy.logged("file.changed")
        assert (await ask(port, tls=new)).status == 101
        assert (await ask(port, tls=old)).status == 101
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    await ask(port, tls=old)
                except (OSError, asyncio.IncompleteReadError):
                    break
                await asyncio.sleep(0.2)
        assert (await ask(port, tls=new)).status == 101
        assert not client.closed
        await leave(client)


async def test_a_listener_with_tls_has_a_page_of_its_own_and_default_ports(
    authority: Authority,
) -> None:
    async with trace_proxy(*options(authority.issue()), core=fake_core("fake")) as proxy:
        port = port_of(proxy.url)
        for origin, status in (("https", 101), ("http", 403)):
            more = {"Origin": f"{origin}://127.0.0.1:{port}"}
            assert (await ask(port, more=more, tls=authority.trusted())).status == status


async def test_who_never_finishes_a_handshake_is_cut_and_nobody_waits_for_him(
    authority: Authority,
) -> None:
    tls = [*options(authority.issue()), "--handshake-timeout", "2"]
    async with trace_proxy(*tls, core=fake_core("fake")) as proxy:
        port = port_of(proxy.url)
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
        slow[0][1].write(b"\x16\x03\x01")  # the beginning of a ClientHello
        began_s = asyncio.get_running_loop().time()
        assert (await ask(port, tls=authority.trusted())).status == 101
        assert asyncio.get_running_loop().time() - began_s < 2
        async with asyncio.timeout(WAIT_S):
            for reader, writer in slow:
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
                writer.close()
