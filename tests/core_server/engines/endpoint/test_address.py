from pathlib import Path

import pytest

from core_server.engines.endpoint import address as address_module
from core_server.engines.endpoint.address import Address, read_address, shown

HERE = "http://127.0.0.1:8000/v1"
THERE = "https://models.example.org/v1"


def read(url: str, **environ: str) -> Address:
    return read_address({"OPENAI_BASE_URL": url, **environ})


def test_a_query_stays_a_query() -> None:
    address = read("https://h.example.org/openai/v1?api-version=preview&x=%20#top")

    assert (address.base_url, address.query) == (
        "https://h.example.org/openai/v1",
        "api-version=preview&x=%20",
    )


def test_texts_show_no_secret_of_an_address() -> None:
    address = read(
        "http://user:pass-word-1@h:1/v1?key=query-secret&b",
        HTTP_PROXY="http://me:proxy-secret@p:2",
    )

    assert address.shown == "http://h:1/v1"
    assert address.secrets() == ("pass-word-1", "proxy-secret", "query-secret")
    assert shown("https://u:p@h/v1?q#f") == "https://h/v1"


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        (HERE, {}, None),
        (HERE, {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        (HERE, {"HTTP_PROXY": "p:1"}, "http://p:1"),
        (HERE, {"HTTPS_PROXY": "http://p:1"}, None),
        (THERE, {"HTTPS_PROXY": "http://p:1", "ALL_PROXY": "http://q:1"}, "http://p:1"),
        (THERE, {"ALL_PROXY": "http://q:1"}, "http://q:1"),
        (THERE, {"https_proxy": "http://low:1", "HTTPS_PROXY": "http://up:1"}, "http://low:1"),
        (HERE, {"HTTP_PROXY": "http://p:1", "NO_PROXY": "localhost, 127.0.0.1"}, None),
        (HERE, {"HTTP_PROXY": "http://p:1", "NO_PROXY": "127.0.0.0/8"}, None),
        (HERE, {"HTTP_PROXY": "http://p:1", "no_proxy": "127.0.0.1:8000"}, None),
        (HERE, {"HTTP_PROXY": "http://p:1", "NO_PROXY": "127.0.0.1:9"}, "http://p:1"),
        (HERE, {"HTTP_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ("http://[::1]:1/v1", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "::1"}, None),
        ("http://[::1]:1/v1", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "[::1]"}, None),
        (THERE, {"ALL_PROXY": "http://p:1", "NO_PROXY": ".example.org"}, None),
        (THERE, {"ALL_PROXY": "http://p:1", "NO_PROXY": "*.example.org"}, None),
        (THERE, {"ALL_PROXY": "http://p:1", "NO_PROXY": "example.org"}, None),
        (THERE, {"ALL_PROXY": "http://p:1", "NO_PROXY": "ample.org,,"}, "http://p:1"),
        (HERE, {"HTTP_PROXY": "socks5://p:1", "NO_PROXY": "127.0.0.1"}, None),
        (HERE, {"HTTP_PROXY": "://", "NO_PROXY": "127.0.0.1"}, None),
    ],
)
def test_the_proxy_is_the_one_that_this_address_needs(
    url: str, environ: dict[str, str], proxy: str | None
) -> None:
    assert read(url, **environ).proxy == proxy


@pytest.mark.parametrize(
    ("url", "environ", "line"),
    [
        (THERE, {"https_proxy": "ftp://u:canary@p"}, "https_proxy is no proxy"),
        (THERE, {"HTTPS_PROXY": "http://u:canary@:1"}, "HTTPS_PROXY is no proxy"),
        (THERE, {"HTTPS_PROXY": "http://p:99999"}, "HTTPS_PROXY is no proxy"),
        (THERE, {"SSL_CERT_FILE": "/gone/ca.pem"}, "SSL_CERT_FILE=/gone/ca.pem: no such file"),
        (THERE, {"SSL_CERT_DIR": "/gone"}, "SSL_CERT_DIR=/gone: no such file"),
    ],
)
def test_what_is_needed_and_broken_is_named_in_one_line(
    url: str, environ: dict[str, str], line: str
) -> None:
    with pytest.raises(ValueError, match="^" + line) as caught:
        read(url, **environ)

    assert "canary" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_socks_proxy_without_the_package_for_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(address_module, "find_spec", lambda _: None)

    with pytest.raises(ValueError, match=r"^ALL_PROXY is a SOCKS proxy") as caught:
        read(THERE, ALL_PROXY="socks5://u:canary@p:1")

    assert "canary" not in str(caught.value)
    assert "aiohttp-socks" in str(caught.value)


def test_what_is_broken_and_not_needed_does_no_harm() -> None:
    environ = {
        "SSL_CERT_FILE": "/gone/ca.pem",
        "ALL_PROXY": "socks5://p:1",
        "NO_PROXY": "127.0.0.1",
    }

    assert read(HERE, **environ) == Address(HERE)


def test_a_certificate_file_that_is_none_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "ca.pem"
    bad.write_text("no certificate")

    address = read(THERE, SSL_CERT_FILE=str(bad))

    with pytest.raises(ValueError, match=r"^SSL_CERT_FILE=.*/ca\.pem cannot be used: "):
        address.tls()


def test_plain_http_trusts_nobody_and_reads_no_certificates() -> None:
    context = Address(HERE).tls()

    assert context is not None
    assert context.get_ca_certs() == []
    assert Address(THERE).tls() is None


@pytest.mark.parametrize("url", ["http://h/v1 x", "http://hö/v1", "http://h/\x00", "//h", "h"])
def test_an_odd_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^OPENAI_BASE_URL is not an http or https URL: "):
        read(url)
