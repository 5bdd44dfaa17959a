from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_proxy.access.policy import RETRY_AFTER_S, ConnectionCount, Door, RequestFacts, is_public

LOCAL = Door(bound_ips=["127.0.0.1"], port=4500)


def status(
    door: Door, hosts: Sequence[str], origins: Sequence[str] = (), path: str = "/"
) -> int | None:
    verdict = door.check(RequestFacts(path=path, hosts=hosts, origins=origins))
    return None if verdict is None else verdict.status


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (["127.0.0.1:4500"], None),
        (["localhost:4500"], None),
        (["LocalHost:4500"], None),
        (["[::ffff:127.0.0.1]:4500"], None),
        (["evil.com"], 421),
        (["evil.com:4500"], 421),
        (["127.0.0.1.evil.com:4500"], 421),
        (["localhost.evil.com:4500"], 421),
        (["localhost.:4500"], 421),
        (["127.0.0.1.:4500"], 421),
        (["127.0.0.1:4501"], 421),
        (["localhost:0"], 421),
        (["localhost"], 421),
        (["10.0.0.1:4500"], 421),
        (["[::1]:4500"], 421),
        (["0.0.0.0:4500"], 421),
        (["127.1:4500"], 421),
        (["0x7f000001:4500"], 421),
        (["2130706433:4500"], 421),
        ([], 400),
        ([""], 400),
        (["127.0.0.1:4500", "127.0.0.1:4500"], 400),
        (["127.0.0.1:4500", "evil.com"], 400),
        (["localhost:"], 400),
        (["localhost:99999"], 400),
        (["localhost:4500:4500"], 400),
        (["user@localhost:4500"], 400),
        (["localhost:4500/"], 400),
        (["local host:4500"], 400),
        (["localhost:4500,evil.com"], 400),
        (["[::1"], 400),
        (["[localhost]:4500"], 400),
        (["[1:2]:4500"], 400),
        ([" localhost:4500"], 400),
        (["löcalhost:4500"], 400),
    ],
)
def test_a_host_must_be_ours(hosts: list[str], expected: int | None) -> None:
    assert status(LOCAL, hosts) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *(("10.1.2.3:4500", None), ("[2001:db8::1]:4500", None), ("localhost:4500", None)),
        *(("10.1.2.3:8080", 421), ("evil.com:4500", 421), ("evil.com", 421)),
    ],
)
@pytest.mark.parametrize("ip", ["0.0.0.0", "::"])  # noqa: S104 - that is the point
def test_on_a_wildcard_any_address_is_ours_but_no_name(
    ip: str, host: str, expected: int | None
) -> None:
    assert status(Door(bound_ips=[ip], port=4500), [host]) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *(("proxy.example", None), ("proxy.example:8443", None), ("PROXY.example:1", None)),
        *(("exact.example:8443", None), ("exact.example", 421), ("exact.example:4500", 421)),
        *(("sub.proxy.example", 421), ("proxy.example.", 421), ("proxy.example.evil.com", 421)),
    ],
)
def test_a_configured_name_is_ours_on_any_port_or_on_the_one_given(
    host: str, expected: int | None
) -> None:
    door = Door(
        bound_ips=["127.0.0.1"], port=4500, allow_hosts=["Proxy.example", "exact.example:8443"]
    )
    assert status(door, [host]) == expected


def test_without_a_port_a_host_means_port_80() -> None:
    assert status(Door(bound_ips=["127.0.0.1"], port=80), ["localhost"]) is None


@pytest.mark.parametrize(
    ("origins", "expected"),
    [
        ([], None),
        (["http://127.0.0.1:4500"], None),
        (["https://app.example.com"], None),
        (["https://127.0.0.1:4500"], 403),
        (["http://localhost:4500"], 403),
        (["http://127.0.0.1"], 403),
        (["http://127.0.0.1:4501"], 403),
        (["http://127.0.0.1:4500/"], 403),
        (["http://127.0.0.1.evil.com:4500"], 403),
        (["http://127.0.0.1:4500.evil.com"], 403),
        (["http://evil.com/127.0.0.1:4500"], 403),
        (["null"], 403),
        ([""], 403),
        (["*"], 403),
        (["file://"], 403),
        (["https://APP.example.com"], 403),
        (["https://app.example.com:443"], 403),
        (["https://sub.app.example.com"], 403),
        (["http://app.example.com"], 403),
        (["https://app.example.com", "https://app.example.com"], 403),
        (["http://127.0.0.1:4500", "http://evil.com"], 403),
    ],
)
def test_a_web_page_must_be_ours_or_listed(origins: list[str], expected: int | None) -> None:
    door = Door(bound_ips=["127.0.0.1"], port=4500, allow_origins=["https://app.example.com"])
    assert status(door, ["127.0.0.1:4500"], origins) == expected


def test_a_rebound_page_is_refused_for_its_host_even_when_its_origin_matches_it() -> None:
    assert status(LOCAL, ["evil.com:4500"], ["http://evil.com:4500"]) == 421


@pytest.mark.parametrize(("behind_proxy", "expected"), [(False, 403), (True, None)])
def test_behind_a_proxy_our_own_page_may_be_https(
    *, behind_proxy: bool, expected: int | None
) -> None:
    door = Door(
        bound_ips=["10.0.0.9"],
        port=4500,
        allow_hosts=["proxy.example"],
        behind_proxy=behind_proxy,
    )
    assert status(door, ["proxy.example"], ["https://proxy.example"]) == expected


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_are_answered_under_any_name(path: str) -> None:
    for hosts in ([], ["10.244.0.7:4500"], ["evil.com"], ["a", "b"]):
        assert status(LOCAL, hosts, ["null"], path) is None


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz/", "/readyz/x", "//healthz"])
def test_nothing_else_is(path: str) -> None:
    assert status(LOCAL, ["evil.com"], path=path) == 421


def test_a_unix_socket_takes_any_single_host_and_no_unlisted_page() -> None:
    door = Door(bound_ips=[], port=0, allow_origins=["https://app.example.com"])

    assert status(door, ["anything"]) is None
    assert status(door, ["a", "b"]) == 400
    assert status(door, ["localhost"], ["http://localhost"]) == 403
    assert status(door, ["localhost"], ["https://app.example.com"]) is None


@given(st.text(), st.text())
def test_no_header_gets_past_by_being_strange(host: str, origin: str) -> None:
    refused = LOCAL.check(RequestFacts(path="/", hosts=[host], origins=[origin]))

    known = {"127.0.0.1:4500", "localhost:4500"}
    assert refused is not None or (host.lower() in known and origin == f"http://{host.lower()}")


def test_a_refusal_repeats_nothing_of_the_request() -> None:
    refused = LOCAL.check(RequestFacts(path="/", hosts=["canary.example"], origins=[]))

    assert refused is not None
    assert "canary" not in refused.text
    assert refused.reason == "host"


def test_the_door_tells_where_it_stands() -> None:
    assert repr(LOCAL) == "<Door 127.0.0.1 port=4500 origins=0>"
    assert repr(Door(bound_ips=[], port=0)) == "<Door unix port=0 origins=0>"


def test_connections_are_counted_in_all_and_for_each_address() -> None:
    count = ConnectionCount(max_connections=3, max_connections_per_ip=2)

    assert [count.admit("10.0.0.1"), count.admit("10.0.0.1")] == [None, None]
    refused = count.admit("10.0.0.1")
    assert refused is not None
    assert (refused.status, refused.reason, refused.retry_after_s) == (
        503,
        "max_connections_per_ip",
        RETRY_AFTER_S,
    )
    assert count.admit("10.0.0.2") is None
    refused = count.admit("10.0.0.3")
    assert refused is not None
    assert (refused.status, refused.reason) == (503, "max_connections")
    count.release("10.0.0.1")
    assert count.admit("10.0.0.1") is None
    assert repr(count) == "<ConnectionCount 3/3 addresses=2>"


def test_one_address_is_one_however_it_is_written() -> None:
    count = ConnectionCount(max_connections=9, max_connections_per_ip=1)

    assert count.admit("::ffff:10.0.0.1") is None
    assert count.admit("10.0.0.1") is not None
    count.release("10.0.0.1")
    assert count.admit("10.0.0.1") is None


def test_unix_peers_have_no_address_and_count_in_all_only() -> None:
    count = ConnectionCount(max_connections=2, max_connections_per_ip=1)

    assert [count.admit(None), count.admit(None)] == [None, None]
    assert count.admit(None) is not None
    count.release(None)
    assert count.total == 1


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["a", "b", None]))))
def test_counts_never_pass_a_bound_and_forget_who_left(
    steps: list[tuple[bool, str | None]],
) -> None:
    count = ConnectionCount(max_connections=4, max_connections_per_ip=2)
    inside: list[str | None] = []

    for enters, ip in steps:
        if enters:
            full = len(inside) == 4 or (ip is not None and inside.count(ip) == 2)
            assert (count.admit(ip) is not None) is full
            inside += [] if full else [ip]
        elif ip in inside:
            count.release(ip)
            inside.remove(ip)
        addresses = len({ip for ip in inside if ip is not None})
        assert repr(count) == f"<ConnectionCount {len(inside)}/4 addresses={addresses}>"


def test_with_tls_our_own_page_is_https_and_its_default_port_443() -> None:
    door = Door(bound_ips=("10.0.0.5",), port=443, tls=True)
    for host, origin, refused in (
        ("10.0.0.5", "https://10.0.0.5", None),
        ("10.0.0.5:443", "https://10.0.0.5", None),
        ("10.0.0.5", "http://10.0.0.5", 403),
        ("10.0.0.5:80", "https://10.0.0.5", 421),
    ):
        told = door.check(RequestFacts(path="/", hosts=[host], origins=[origin]))
        assert (told and told.status) == refused, (host, origin)


def test_only_probes_and_the_page_without_its_data_need_no_token() -> None:
    for path in ("/healthz", "/readyz", "/", "/console/app.js", "/console/vendor/x.css"):
        assert is_public(path), path
    for path in ("/metrics", "/console/events", "/console/", "/x", "/app.js", "/healthz/"):
        assert not is_public(path), path


def test_a_default_port_is_none_in_names_that_are_allowed_too() -> None:
    names = ["proxy.example:443", "other.example"]
    door = Door(bound_ips=["10.0.0.5"], port=4500, allow_hosts=names, behind_proxy=True)
    for host, origin, refused in (
        ("proxy.example", "https://proxy.example", None),
        ("proxy.example:443", "https://proxy.example", None),
        ("other.example:443", "https://other.example", None),
        ("other.example:80", "http://other.example", None),
        ("other.example:80", "https://other.example", 403),
        ("proxy.example:4500", "https://proxy.example:4500", 421),
    ):
        assert status(door, [host], [origin]) == refused, (host, origin)
