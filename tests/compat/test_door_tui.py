"""The Codex TUI over `wss://` with a private authority and a bearer token."""

from pathlib import Path

from tests.compat.real_codex import codex_home, codex_path, needs_codex
from tests.compat.terminal import needs_tmux, terminal
from tests.door import CANARY, TOKEN, Authority
from tests.e2e.proxy import trace_proxy

pytestmark = [needs_codex, needs_tmux]

NOBODY = "http://127.0.0.1:9/v1"
"""The TUI itself asks no model: that is the core's part."""


async def test_the_tui_trusts_our_certificate_and_shows_its_token(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue()
    (tmp_path / "token").write_text(TOKEN)
    options = ["--tls-cert", str(cert), "--tls-key", str(key), "--ws-auth", "capability-token"]
    here = tmp_path / "tui"
    env = codex_home(here, NOBODY) | {"SSL_CERT_FILE": str(authority.path), "TUI_TOKEN": TOKEN}
    async with trace_proxy(*options, "--ws-token-file", str(tmp_path / "token")) as proxy:
        url = proxy.url.replace("127.0.0.1", "localhost")
        argv = [str(codex_path()), "--remote", url, "--remote-auth-token-env", "TUI_TOKEN"]
        async with terminal(argv, here / "workspace", env) as screen:
            await screen.shows("Ask Codex to do anything")
            await screen.enter("hello there friend")
            await screen.shows("• hello there friend")
            await screen.enter("/quit")
            await screen.ended()
        await proxy.logged("connection.closed")
        argv[-1] = "NOT_SET_AT_ALL"
        async with terminal(
            ["sh", "-c", 'NOT_SET_AT_ALL=x "$@"; sleep 60', "sh", *argv], here / "workspace", env
        ) as screen:
            await screen.shows("401")
        assert CANARY not in proxy.stderr
