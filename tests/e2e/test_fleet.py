"""Two hosts on one PostgreSQL, each a proxy with its core: any client on any host."""

import asyncio
import contextlib
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import pytest

from tests import postgres
from tests.door import Authority
from tests.e2e.processes import kill, marked
from tests.e2e.proxy import (
    Closed,
    Json,
    Proxy,
    RpcError,
    WebsocketClient,
    trace_proxy,
    turn_params,
)
from tests.postgres import new_store_url
from tests.relay_cut import relay

LEASE_S = 3

START_S = 60.0
"""On a machine where many tests run at once."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextlib.asynccontextmanager
async def host(
    url: str, directory: Path, *options: str, port: int | None = None
) -> AsyncIterator[Proxy]:
    """One host of a fleet."""
    directory.mkdir()  # noqa: ASYNC240 - a moment, and nobody waits
    listen = f"ws://127.0.0.1:{port or free_port()}"
    place = ("--trace-file", str(directory / "traces.jsonl"))
    env = {
        "CORE_SERVER_STORE": url,
        "CORE_SERVER_LEASE_SECONDS": str(LEASE_S),
        # Commands run in a login shell; whose profile this machine has is not our subject.
        "HOME": str(directory),
    }
    async with trace_proxy(
        *place, *options, env=env, listen=listen, directory=directory, wait=False
    ) as proxy:
        proxy.ready = await proxy.logged("proxy.ready", timeout_s=START_S)
        yield proxy


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[tuple[Proxy, Proxy]]:
    url = new_store_url()
    async with (
        asyncio.timeout(120),
        host(url, tmp_path / "one") as one,
        host(url, tmp_path / "two") as two,
    ):
        yield one, two


async def _completed(client: WebsocketClient, turn: str) -> str:
    done = await client.wait(lambda each: _ends(turn, each))
    status: str = done["params"]["turn"]["status"]
    return status


def _crash(proxy: Proxy, number: int = signal.SIGKILL) -> None:
    """The whole host is gone at once, or stands still, or goes on."""
    for pid in [proxy.pid, *marked(proxy.mark)]:
        kill(pid, number)


async def test_a_client_of_any_host_uses_a_thread_of_another(hosts: tuple[Proxy, Proxy]) -> None:
    one, two = hosts
    async with one.client() as there, two.client() as here:
        thread = await there.thread()
        assert await _completed(there, await there.turn(thread, "first")) == "completed"

        resumed = await here.request("thread/resume", {"threadId": thread})
        turn = await here.turn(thread, "/slow 1")
        steered = await here.request(
            "turn/steer",
            {
                "threadId": thread,
                "expectedTurnId": turn,
                "input": [{"type": "text", "text": "and more"}],
            },
        )
        ends = [await _completed(client, turn) for client in (here, there)]
        listed = await here.request("thread/list", {})
        read = await here.request("thread/read", {"threadId": thread, "includeTurns": True})

        assert [each["status"] for each in resumed["thread"]["turns"]] == ["completed"]
        assert steered["turnId"] == turn
        assert ends == ["completed", "completed"]
        assert [each["id"] for each in listed["data"]] == [thread]
        assert len(read["thread"]["turns"]) == 2
        assert "item/agentMessage/delta" in here.methods()
        assert here.methods().count("turn/completed") == 1
    ready = json.loads((await two.get("/readyz"))[1])
    assert ready["url"] == two.url
    assert ready["peers"] == [{"url": one.url, "state": "ready", "threads": 1}]


async def test_an_approval_is_given_and_a_turn_interrupted_over_a_hop(
    hosts: tuple[Proxy, Proxy],
) -> None:
    one, two = hosts
    async with one.client() as there, two.client() as here:
        thread = await there.thread()
        await here.request("thread/resume", {"threadId": thread})

        turn = await here.turn(thread, "/run echo over the hop")
        asked = await here.wait_for("item/commandExecution/requestApproval")
        await here.send({"id": asked["id"], "result": {"decision": "accept"}})
        assert await _completed(here, turn) == "completed"
        item = next(
            each["params"]["item"]
            for each in here.received
            if each.get("method") == "item/completed"
            and each["params"]["item"]["type"] == "commandExecution"
        )
        slow = await here.turn(thread, "/slow 60")
        await here.request("turn/interrupt", {"threadId": thread, "turnId": slow})

        assert item["aggregatedOutput"] == "over the hop\n"
        assert await _completed(here, slow) == "interrupted"


async def test_a_turn_on_another_host_is_one_trace(hosts: tuple[Proxy, Proxy]) -> None:
    one, two = hosts
    async with one.client() as there, two.client() as here:
        thread = await there.thread()
        await here.request("thread/resume", {"threadId": thread})
        trace = f"{7:032x}"
        params = turn_params(thread, "hello")
        answer = await here.request(
            "turn/start", params, trace={"traceparent": f"00-{trace}-{9:016x}-01"}
        )
        await _completed(here, answer["turn"]["id"])
    for proxy in hosts:
        proxy.signal(signal.SIGTERM)
        assert await proxy.exit_code() == 0

    spans = [span for proxy in hosts for span in _spans(proxy, trace)]
    by_id = {span["spanId"]: span for span in spans}
    turn = next(span for span in spans if span["name"].startswith("invoke_agent"))
    way = [turn]
    while way[-1]["parentSpanId"] in by_id:
        way.append(by_id[way[-1]["parentSpanId"]])

    server, client = 2, 3
    assert [(span["name"], span["kind"]) for span in way[1:]] == [
        ("turn/start", server),
        ("turn/start", client),
        ("turn/start", server),
    ]
    assert way[-1]["parentSpanId"] == f"{9:016x}"
    assert sum(span["name"].startswith("invoke_agent") for span in spans) == 1


def _spans(proxy: Proxy, trace: str) -> Sequence[Json]:
    lines = (proxy.directory / "traces.jsonl").read_text().splitlines()
    return [
        span
        for line in lines
        for resource in json.loads(line)["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
        if span["traceId"] == trace
    ]


async def test_a_request_passes_one_hop_at_most(hosts: tuple[Proxy, Proxy]) -> None:
    one, two = hosts
    async with one.client() as there, two.client(headers={"X-Trace-Proxy-Hop": "1"}) as relaying:
        thread = await there.thread()
        await _completed(there, await there.turn(thread, "first"))

        error = await relaying.error("thread/resume", {"threadId": thread})
        listed = await relaying.request("thread/list", {})
        await there.request("thread/name/set", {"threadId": thread, "name": "named"})
        await relaying.request("thread/list", {})

    assert (error.code, error.data["url"]) == (-32010, one.url)
    assert [each["id"] for each in listed["data"]] == [thread]
    assert relaying.methods() == [], "what concerns everybody, its own core tells its clients"


async def test_the_threads_of_a_killed_host_go_on_elsewhere(hosts: tuple[Proxy, Proxy]) -> None:
    one, two = hosts
    async with two.client() as here:
        async with one.client() as there:
            thread = await there.thread()
            await here.request("thread/resume", {"threadId": thread})
            turn = await here.turn(thread, "/slow 60")
            await here.wait_for("item/agentMessage/delta")
            _crash(one)
            killed_at_s = time.monotonic()
            assert await _completed(here, turn) == "interrupted"

        went_on = await _start_until_accepted(here, thread)

        assert time.monotonic() - killed_at_s < LEASE_S + 10
        assert await _completed(here, went_on) == "completed"
        read = await here.request("thread/read", {"threadId": thread, "includeTurns": True})
        statuses = [each["status"] for each in read["thread"]["turns"]]
        assert statuses == ["interrupted", "completed"]


async def test_what_a_killed_host_has_asked_is_void(hosts: tuple[Proxy, Proxy]) -> None:
    one, two = hosts
    async with two.client() as here:
        async with one.client() as there:
            thread = await there.thread()
            await here.request("thread/resume", {"threadId": thread})
            turn = await here.turn(thread, "/run echo done > done.txt")
            asked = await here.wait_for("item/commandExecution/requestApproval")
            _crash(one)
            resolved = await here.wait_for("serverRequest/resolved")
            await here.send({"id": asked["id"], "result": {"decision": "accept"}})

        assert resolved["params"] == {"threadId": thread, "requestId": asked["id"]}
        assert await _completed(here, turn) == "interrupted"
        went_on = await _start_until_accepted(here, thread)
        assert await _completed(here, went_on) == "completed"
        assert not [*one.directory.rglob("done.txt"), *two.directory.rglob("done.txt")]


async def test_nothing_of_a_fleet_is_loaded_by_a_proxy_that_is_alone() -> None:
    async with (
        trace_proxy(env={"PYTHONPROFILEIMPORTTIME": "1"}) as proxy,
        proxy.client() as client,
    ):
        await client.turn(await client.thread(), "hello")
        await client.wait_for("turn/completed")
        lines = [line for line in proxy.stderr.splitlines() if line.startswith("import time:")]

    loaded = {line.rpartition("|")[2].strip() for line in lines}
    assert "trace_proxy.runtime.supervisor" in loaded
    assert not {name for name in loaded if name.startswith(("psycopg", "sqlalchemy"))}
    assert "trace_proxy.runtime.cores.peer" not in loaded


async def _start_until_accepted(client: WebsocketClient, thread: str) -> str:
    """As clients do with what is retryable."""
    turn: str = (await _insist(client, "turn/start", turn_params(thread, "on")))["turn"]["id"]
    return turn


async def test_the_threads_of_a_drained_host_move_at_once(hosts: tuple[Proxy, Proxy]) -> None:
    one, two = hosts
    async with two.client() as here, one.client() as there:
        busy, idle = await there.thread(), await there.thread()
        for thread in (busy, idle):
            await here.request("thread/resume", {"threadId": thread})
        turn = await here.turn(busy, "/slow 1")
        one.signal(signal.SIGTERM)
        await one.logged("drain.started")

        moved = await here.turn(idle, "waits for a moment, and is not refused")

        assert await _completed(here, moved) == "completed"
        assert await _completed(here, turn) == "completed", "it was waited for"
        assert await _completed(here, await here.turn(busy, "on")) == "completed"
        assert await there.closed() == 1012
        assert await one.exit_code() == 0


async def test_a_thread_is_found_again_without_a_request(hosts: tuple[Proxy, Proxy]) -> None:
    one, two = hosts
    async with one.client() as there, two.client() as here:
        thread = await there.thread()
        await here.request("thread/resume", {"threadId": thread})
        _crash(one)
        await two.logged("thread.followed")
        async with two.client() as third:
            await third.request("thread/resume", {"threadId": thread})
            turn = await third.turn(thread, "on")
            assert await _completed(here, turn) == "completed"


async def test_the_page_tells_how_many_hosts_serve(hosts: tuple[Proxy, Proxy]) -> None:
    one, two = hosts
    url = f"{two.http_url}/console/events"
    async with aiohttp.ClientSession() as session, session.get(url) as events:
        while b'"hosts":2' not in await events.content.readuntil(b"\n\n"):
            pass
        _crash(one)
        while b'"hosts":1' not in await events.content.readuntil(b"\n\n"):
            pass


async def test_hosts_let_each_other_in_by_their_token_alone(tmp_path: Path) -> None:
    url = new_store_url()
    for name in ("peers", "clients"):
        (tmp_path / name).write_text(f"{name}-token-of-some-length\n")
        (tmp_path / name).chmod(0o600)
    options = (
        *("--peer-token-file", str(tmp_path / "peers")),
        *("--ws-auth", "capability-token", "--ws-token-file", str(tmp_path / "clients")),
    )
    mine = {"Authorization": "Bearer clients-token-of-some-length"}
    async with (
        asyncio.timeout(60),
        host(url, tmp_path / "one", *options) as one,
        host(url, tmp_path / "two", *options) as two,
        one.client(headers=mine) as there,
        two.client(headers=mine) as here,
    ):
        thread = await there.thread()
        turn = await there.turn(thread, "hello")
        await _completed(there, turn)

        await here.request("thread/resume", {"threadId": thread})

        assert await _completed(here, await here.turn(thread, "over the hop")) == "completed"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await two.connect(headers={**mine, "X-Trace-Proxy-Hop": "1"})
        assert refused.value.status == 401


async def test_hosts_speak_tls_and_show_each_other_their_certificates(tmp_path: Path) -> None:
    authority, url = Authority(tmp_path), new_store_url()
    cert, key = authority.issue()
    mine = authority.trusted(authority.issue("client", user="ada"))
    tls = ("--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca", str(authority.path))
    ports = [free_port() for _ in range(2)]
    secure = [(*tls, "--advertise-url", f"wss://localhost:{port}") for port in ports]
    async with (
        asyncio.timeout(100),
        host(url, tmp_path / "one", *secure[0], port=ports[0]) as one,
        host(url, tmp_path / "two", *secure[1], port=ports[1]) as two,
        one.client(ssl=mine) as there,
        two.client(ssl=mine) as here,
    ):
        thread = await there.thread()
        await here.request("thread/resume", {"threadId": thread})

        assert await _completed(here, await here.turn(thread, "over the hop")) == "completed"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await two.connect(headers={"X-Trace-Proxy-Hop": "1"}, ssl=authority.trusted())
        assert refused.value.status == 401


async def _shown(proxy: Proxy, path: str, part: str) -> str:
    """Wait until a page shows it."""
    async with asyncio.timeout(30):
        while part not in (  # noqa: ASYNC110 - a page is asked, and tells nothing by itself
            page := (await proxy.get(path))[1]
        ):
            await asyncio.sleep(0.1)
    return page


async def test_a_host_shows_all_hosts_and_counts_what_it_owns_and_took_over(
    hosts: tuple[Proxy, Proxy],
) -> None:
    one, two = hosts
    async with one.client() as there, two.client() as here:
        threads = [await there.thread() for _ in range(2)]
        await _shown(one, "/metrics", "trace_proxy_threads_owned 2.0")
        ready = json.loads(await _shown(two, "/readyz", '"threads": 2'))
        for thread in threads:
            await here.request("thread/resume", {"threadId": thread})
        _crash(one)

        assert [(each["url"], each["me"]) for each in ready["hosts"]] == sorted(
            [(one.url, False), (two.url, True)]
        )
        shown = await _shown(two, "/metrics", "trace_proxy_threads_taken_over_total 2.0")
        assert "trace_proxy_writes_fenced_total 0.0" in shown


async def test_new_threads_go_to_the_least_loaded_host_if_that_is_asked_for(
    tmp_path: Path,
) -> None:
    url = new_store_url()
    placement = ("--placement", "least-loaded")
    async with (
        asyncio.timeout(90),
        host(url, tmp_path / "one") as one,
        host(url, tmp_path / "two", *placement) as two,
        two.client() as here,
    ):
        await _shown(two, "/readyz", one.url)
        threads = [await here.thread() for _ in range(4)]

        for thread in threads:
            assert await _completed(here, await here.turn(thread, "hello")) == "completed"
        await _shown(one, "/metrics", "trace_proxy_threads_owned 2.0")
        await _shown(two, "/metrics", "trace_proxy_threads_owned 2.0")


async def test_a_host_that_stood_still_past_its_lease_is_fenced_and_follows(
    hosts: tuple[Proxy, Proxy],
) -> None:
    one, two = hosts
    async with one.client() as there, two.client() as here:
        thread = await there.thread()
        await here.request("thread/resume", {"threadId": thread})
        fenced = await there.turn(thread, "/slow 60")
        await here.wait_for("item/agentMessage/delta")

        _crash(one, signal.SIGSTOP)
        assert await _completed(here, fenced) == "interrupted"
        went_on = await _start_until_accepted(here, thread)
        assert await _completed(here, went_on) == "completed"
        heard = len(here.received)
        _crash(one, signal.SIGCONT)

        assert await _completed(there, fenced) == "interrupted"
        await one.logged("thread.followed")
        last = await here.turn(thread, "both hear it")
        for client in (here, there):
            assert await _completed(client, last) == "completed"
        late = [each for each in here.received[heard:] if _is_delta_of(fenced, each)]
        assert late == []
        read = await here.request("thread/read", {"threadId": thread, "includeTurns": True})
        statuses = [each["status"] for each in read["thread"]["turns"]]
        assert statuses == ["interrupted", "completed", "completed"]


def _is_delta_of(turn: str, message: Json) -> bool:
    method: str = message.get("method", "")
    return method.endswith("/delta") and message["params"]["turnId"] == turn


async def test_a_thread_that_moves_while_both_hosts_hear_it_is_told_of_once(
    tmp_path: Path,
) -> None:
    url = new_store_url()
    async with (
        asyncio.timeout(120),
        host(url, tmp_path / "one") as one,
        host(url, tmp_path / "two") as two,
        one.client() as there,
        two.client() as here,
    ):
        thread = await there.thread()
        await here.request("thread/resume", {"threadId": thread})
        for times in (1, 2, 3, 4):  # there and back
            postgres.psql(url, _TAKE_OVER)
            for each in (one, two):
                await each.logged("thread.followed", times=times)

            turn = await here.turn(thread, "on")

            for client in (here, there):
                assert await _completed(client, turn) == "completed"
            for client in (here, there):
                await client.request("thread/goal/get", {"threadId": thread})
                ended = [each for each in client.received if _ends(turn, each)]
                assert len(ended) == 1


_TAKE_OVER = """
UPDATE leases SET epoch = epoch + 1,
  owner_id = (SELECT owner_id FROM cores WHERE owner_id <> leases.owner_id)
"""
"""The lease goes to the other host, as if the owner had not renewed it."""


def _ends(turn: str, message: Json) -> bool:
    return message.get("method") == "turn/completed" and message["params"]["turn"]["id"] == turn


async def test_a_host_that_is_cut_off_from_a_peer_comes_back_to_it(tmp_path: Path) -> None:
    url, port = new_store_url(), free_port()
    async with (
        asyncio.timeout(120),
        relay("127.0.0.1", port) as network,
        host(
            url,
            tmp_path / "one",
            *("--advertise-url", f"ws://127.0.0.1:{network.port}"),
            port=port,
        ) as one,
        host(url, tmp_path / "two") as two,
        one.client() as there,
        two.client() as here,
    ):
        thread = await there.thread()
        await here.request("thread/resume", {"threadId": thread})
        turn = await here.turn(thread, "/slow 12")
        await here.wait_for("item/agentMessage/delta")

        network.cut()
        assert await _completed(here, turn) == "interrupted", "as far as can be known here"
        with pytest.raises(RpcError) as lost:
            await here.turn(thread, "on")
        assert (lost.value.code, lost.value.data["reason"]) == (-32003, "coreLost")
        network.mend()

        assert await _completed(there, turn) == "completed", "its owner was there all the time"
        went_on = await _start_until_accepted(here, thread)
        for client in (here, there):
            assert await _completed(client, went_on) == "completed"


async def test_a_database_that_is_restarted_under_load_loses_nothing(tmp_path: Path) -> None:
    postgres.needed()
    server = postgres.Server(postgres.new_folder())
    server.create()
    server.start()
    url = postgres.in_schema(server.url, "restarted")
    told: dict[str, list[str]] = {}
    try:
        async with (
            asyncio.timeout(120),
            host(url, tmp_path / "one") as one,
            host(url, tmp_path / "two") as two,
            one.client() as there,
            two.client() as here,
        ):
            threads = [await there.thread(), await here.thread()]
            await here.request("thread/resume", {"threadId": threads[0]})
            over, progress = asyncio.Event(), asyncio.Event()

            async def work(client: WebsocketClient, thread: str) -> None:
                while not over.is_set():
                    turn = await _start_until_accepted(client, thread)
                    assert await _completed(client, turn) == "completed"
                    told.setdefault(thread, []).append(turn)
                    progress.set()

            async with asyncio.TaskGroup() as tasks:
                for client, thread in ((here, threads[0]), (there, threads[1])):
                    if client is there:
                        await there.request("thread/resume", {"threadId": thread})
                    tasks.create_task(work(client, thread))
                for how in (signal.SIGINT, signal.SIGQUIT):
                    await asyncio.to_thread(server.stop, how)
                    await asyncio.to_thread(server.start)
                    before = {thread: len(told.get(thread, ())) for thread in threads}
                    while any(len(told.get(each, ())) < before[each] + 3 for each in threads):
                        progress.clear()
                        await progress.wait()
                over.set()

            for thread in threads:
                read = await here.request(
                    "thread/read", {"threadId": thread, "includeTurns": True}
                )
                turns = {each["id"]: each["status"] for each in read["thread"]["turns"]}
                assert list(turns) == told[thread]
                assert set(turns.values()) == {"completed"}
    finally:
        server.stop()


async def test_a_host_whose_database_is_unusable_is_never_ready_and_says_why(
    tmp_path: Path,
) -> None:
    url = new_store_url().replace("/postgres?", "/no_such_database?")
    env = {"CORE_SERVER_STORE": url, "HOME": str(tmp_path)}
    async with (
        asyncio.timeout(100),
        trace_proxy(env=env, directory=tmp_path, wait=False) as proxy,
    ):
        assert await proxy.exit_code(START_S) == 1

    last = proxy.stderr.splitlines()[-1]
    assert last.startswith("trace-proxy: cannot start the core: exit code 1: core-server:")
    assert 'database "no_such_database" does not exist' in last
    assert proxy.log("proxy.ready") == []


async def test_three_hosts_restarted_one_after_the_other_under_load_lose_no_turn(
    tmp_path: Path,
) -> None:
    url, ports = new_store_url(), [free_port() for _ in range(3)]
    stacks = [contextlib.AsyncExitStack() for _ in ports]
    living: dict[int, Proxy] = {}
    over = asyncio.Event()

    async def begin(number: int, life: int) -> None:
        place = tmp_path / f"{number}-{life}"
        living[number] = await stacks[number].enter_async_context(
            host(url, place, port=ports[number])
        )

    async def work(number: int, ended: list[str]) -> None:
        """One turn after the other in a thread, at whichever host lets him in."""
        thread = ""
        while not over.is_set():
            with contextlib.suppress(Closed, aiohttp.ClientError, ConnectionError, KeyError):
                async with living[number].client() as client:
                    thread = thread or await client.thread()
                    await _insist(client, "thread/resume", {"threadId": thread})
                    while not over.is_set():
                        turn = await _insist(
                            client, "turn/start", turn_params(thread, "/slow 0.2")
                        )
                        ended.append(await _completed(client, turn["turn"]["id"]))
            number = (number + 1) % len(ports)
            await asyncio.sleep(0.05)

    async with asyncio.timeout(240), contextlib.AsyncExitStack() as all_hosts:
        for number, stack in enumerate(stacks):
            await all_hosts.enter_async_context(stack)
            await begin(number, 0)
        told: list[list[str]] = [[] for _ in ports]
        async with asyncio.TaskGroup() as people:
            for number, ended in enumerate(told):
                people.create_task(work(number, ended))
            for number in range(len(ports)):
                proxy = living.pop(number)
                proxy.signal(signal.SIGTERM)
                assert await proxy.exit_code() == 0
                await begin(number, 1)
            over.set()

    assert all(len(ended) > len(ports) for ended in told)
    assert {status for ended in told for status in ended} == {"completed"}


async def _insist(client: WebsocketClient, method: str, params: Json) -> Json:
    """Ask again while the answer is that it may be asked again."""
    while True:
        try:
            return await client.request(method, params)
        except RpcError as error:
            if error.code not in (-32001, -32003, -32010):
                raise
            await asyncio.sleep(0.1)
