"""What tests of machines begin with: a proxy in memory, and a client with a thread."""

import pytest

from tests.trace_proxy.recording import Client, Proxy


@pytest.fixture
def proxy() -> Proxy:
    """Its core is up."""
    return Proxy().up()


@pytest.fixture
def client(proxy: Proxy) -> Client:
    """Of the proxy, with a thread."""
    client = proxy.client()
    proxy.thread(client)
    return client
