"""README's three ways to listen to others are run as they are written."""

import asyncio
import re
import shlex
import ssl
from pathlib import Path

import aiohttp
import pytest

from tests.door import SECRET, TOKEN, Authority, claims, signed
from tests.e2e.proxy import ROOT, fake_core, trace_proxy
from trace_proxy.settings.grammar import read_config

SECTION = (ROOT / "README.md").read_text().split("## Listening to others")[1].split("\n## ")[0]
SET_UPS = re.findall(r"```sh\n(.*?)\n```", SECTION, re.DOTALL)


def test_there_are_three_and_each_is_one_line() -> None:
    assert len(SET_UPS) == 3
    assert not any("\n" in set_up for set_up in SET_UPS)


@pytest.mark.parametrize("set_up", SET_UPS)
async def test_a_set_up_of_readme_lets_in_who_has_a_token_and_nobody_else(
    set_up: str, tmp_path: Path
) -> None:
    before, _, command = set_up.rpartition("trace-proxy --")
    options = shlex.split(f"--{command}")
    read_config(options, {})

    authority = Authority(tmp_path)
    authority.issue("server")
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "token").write_text(TOKEN)
    making = await asyncio.create_subprocess_exec("sh", "-c", f"{before} :", cwd=tmp_path)
    assert await making.wait() == 0
    files = {
        name: str(tmp_path / name) for name in ("token", "secret", "server.crt", "server.key")
    }
    options = [files.get(option, option) for option in options]
    if "--listen" in options:
        del options[options.index("--listen") : options.index("--listen") + 2]

    token = (tmp_path / "token").read_text().strip()
    if "signed-bearer-token" in options:
        token = signed(claims(aud="trace-proxy"))
    trusted: ssl.SSLContext | bool = authority.trusted() if "--tls-cert" in options else True
    async with trace_proxy(*options, core=fake_core("fake")) as proxy:
        async with proxy.client(
            headers={"Authorization": f"Bearer {token}"}, ssl=trusted
        ) as client:
            await client.request("model/list", {})
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await proxy.connect(ssl=trusted)
        assert refused.value.status == 401
        assert token not in proxy.stderr
