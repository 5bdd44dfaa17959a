"""`talk` shows a token and trusts a private authority."""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.door import CANARY, TOKEN, WAIT_S, Authority
from tests.e2e.proxy import ROOT, fake_core, trace_proxy


async def talk(*arguments: str) -> tuple[int, str, str]:
    """Run it; returns its exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trace_proxy", "talk", *arguments),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WAIT_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    assert CANARY not in out.decode() + err.decode()
    return process.returncode, out.decode(), err.decode()


async def test_a_token_and_an_authority_open_the_door(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue()
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    options = ["--tls-cert", str(cert), "--tls-key", str(key)]
    options += ["--ws-auth", "capability-token", "--ws-token-file", str(token)]
    shown, trusted = ["--token-file", str(token)], ["--ca", str(authority.path)]
    async with trace_proxy(*options, core=fake_core("fake")) as proxy:
        code, out, err = await talk(*shown, *trusted, proxy.url, "hello")
        assert (code, err) == (0, "")
        assert out.startswith("hello\n\nturn completed")
        code, out, err = await talk(*trusted, proxy.url, "hello")
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "401" in err
        code, out, err = await talk(*shown, proxy.url, "hello")
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "certificate" in err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--token-file", "token", "ws://192.0.2.1:4500"], "wss:// or to this machine only"),
        (["--token-file", "token", "http://192.0.2.1:4500"], "wss:// or to this machine only"),
        (["--token-file", "nowhere", "ws://127.0.0.1:1"], "nowhere: No such file or directory"),
        (["--token-file", "empty", "ws://127.0.0.1:1"], "empty holds no token"),
        (["--ca", "token", "wss://127.0.0.1:1"], "token holds no certificate in PEM format"),
        (["--ca", "nowhere", "wss://127.0.0.1:1"], "nowhere: No such file or directory"),
    ],
)
async def test_what_it_cannot_use_or_must_not_tell_is_said_in_one_line(
    arguments: list[str], why: str, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "empty").write_text("\n")
    given = [
        str(tmp_path / each) if each in ("token", "empty", "nowhere") else each
        for each in arguments
    ]
    code, out, err = await talk(*given, "hello")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert why in err
