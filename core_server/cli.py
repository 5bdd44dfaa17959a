"""The command line: options and environment into a `Config`, and exit codes out.

    0 end of input or drained   1 could not start   2 configuration   143, 130 forced

The only module that reads the environment. The heavy imports stand inside functions
(PLC0415): the signals are held back first, and one that comes meanwhile is served after.
"""

import argparse
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core_server.runtime.server import Server

PREFIX = "CORE_SERVER_"
EPILOG = """\
examples:
  core-server                                     offline engine, threads in ~/.local/state
  core-server --store memory --workspace /src     leave nothing behind
  OPENAI_API_KEY=... core-server --engine openai --model gpt-5

It speaks JSON-RPC, one message a line, on stdin and stdout; logs go to stderr.
Every option also reads CORE_SERVER_<NAME>; the flag wins. Commands of turns are
approved by the client (--approval-policy) and confined (--sandbox)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    _hold_signals()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["schema"]:
        return _write_schema(arguments[1:])
    options = parse(arguments, os.environ)
    return _serve(options, os.environ)


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> argparse.Namespace:
    """Read options; exits with 2 and one line when they are wrong."""
    parser = argparse.ArgumentParser(
        "core-server",
        description="A plain app-server: threads, turns, items over JSON-RPC on stdio.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command", nargs="?", choices=["app-server"], help="accepted as the codex binary has it"
    )
    parser.add_argument("--version", action="version", version=_version())
    for name, default, known, text in _options(environ):
        parser.add_argument(
            f"--{name}",
            default=environ.get(PREFIX + name.upper().replace("-", "_"), default),
            choices=known,
            help=f"{text} (default: {default})",
        )
    parser.add_argument(
        "-c",
        "--config",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as the codex binary has it: model, approval_policy, sandbox_mode; others are ignored",
    )
    options = parser.parse_args(arguments)
    _override(parser, options)
    _check(parser, options)
    return options


def _options(
    environ: Mapping[str, str],
) -> list[tuple[str, str | None, list[str] | None, str]]:
    state = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    store = f"sqlite:///{state}/core-server/threads.db"
    return [
        ("listen", "stdio://", None, "where to serve; stdio:// is the only one"),
        ("engine", "offline", ["offline", "openai"], "what answers"),
        ("model", None, None, "model of new threads"),
        (
            "wire",
            "responses",
            ["responses", "chat"],
            "what the endpoint of the engine openai speaks",
        ),
        ("store", store, None, "sqlite:///PATH or memory"),
        ("workspace", str(Path.cwd()), None, "directory where threads work"),
        (
            "approval-policy",
            "on-request",
            ["on-request", "untrusted", "never"],
            "when the client is asked before a command or file change",
        ),
        (
            "sandbox",
            "workspace-write",
            ["workspace-write", "read-only", "none"],
            "what commands may touch",
        ),
        (
            "approval-timeout",
            "300",
            None,
            "seconds after which an unanswered question means no",
        ),
        ("max-message-bytes", "16777216", None, "longest message, in bytes"),
        (
            "log-format",
            environ.get("LOG_FORMAT", "auto"),
            ["auto", "json", "console"],
            "on stderr",
        ),
        (
            "log-level",
            environ.get("LOG_LEVEL", "info").lower(),
            ["debug", "info", "warning", "error"],
            "lowest level",
        ),
    ]


def _override(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Take what a client of the codex binary configures by `-c KEY=VALUE` (TOML)."""
    names = {"model": "model", "approval_policy": "approval_policy", "sandbox_mode": "sandbox"}
    for pair in options.config:
        key, is_pair, value = pair.partition("=")
        if not is_pair:
            parser.error(f"--config {pair}: write KEY=VALUE")
        text = value.strip().strip("\"'")
        if key.strip() in names:
            text = "none" if text == "danger-full-access" else text
            setattr(options, names[key.strip()], text)


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """What argparse does not check: values from the environment, and their meaning."""
    if options.listen != "stdio://":
        parser.error(f"--listen {options.listen}: this server speaks stdio:// only")
    if not Path(options.workspace).is_dir():
        parser.error(f"--workspace {options.workspace}: no such directory")
    if not options.max_message_bytes.isdecimal() or int(options.max_message_bytes) < 1024:
        parser.error("--max-message-bytes: a whole number of bytes, at least 1024")
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", options.approval_timeout):
        parser.error("--approval-timeout: a number of seconds, for example 300")
    for name, _, known, _ in _options({}):  # argparse does not check defaults
        value = getattr(options, name.replace("-", "_"))
        if known is not None and value not in known:
            variable = PREFIX + name.upper().replace("-", "_")
            parser.error(f"--{name} or {variable}={value}: use one of {', '.join(known)}")


def _serve(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from core_server.runtime import stdio  # noqa: PLC0415

    ends = stdio.claim()
    import asyncio  # noqa: PLC0415

    from core_server.config import Config  # noqa: PLC0415
    from core_server.engines.opening import build_engine  # noqa: PLC0415
    from core_server.errors import StartError  # noqa: PLC0415
    from core_server.logs import choose  # noqa: PLC0415
    from core_server.runtime.server import Server  # noqa: PLC0415
    from core_server.storage.opening import open_store  # noqa: PLC0415

    choose(options.log_format, options.log_level)
    config = Config(
        model=options.model,
        workspace=str(Path(options.workspace).resolve()),
        approval_policy=options.approval_policy,
        sandbox="danger-full-access" if options.sandbox == "none" else options.sandbox,
        max_message_bytes=int(options.max_message_bytes),
        approval_timeout_s=float(options.approval_timeout),
        home=str(Path.home()),
    )
    try:
        engine = build_engine(
            options.engine, model=options.model, environ=environ, wire=options.wire
        )
        store = open_store(options.store)
    except ValueError as error:
        sys.stderr.write(f"core-server: {error}\n")
        return 2
    try:
        asyncio.run(_served(Server(config, engine, store, ends)))
    except StartError as error:
        sys.stderr.write(f"core-server: {error}\n")
        return 1
    return 0


async def _served(server: "Server") -> None:
    """Serve; a signal that comes while the interpreter ends changes nothing any more."""
    try:
        await server.serve()
    finally:
        _hold_signals()


def _hold_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


def _write_schema(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("core-server schema")
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write the files")
    out = Path(parser.parse_args(arguments).out)
    from core_server.protocol.schema import write_schema  # noqa: PLC0415

    try:
        write_schema(out)
    except OSError as error:
        sys.stderr.write(f"core-server: cannot write the schema: {error}\n")
        return 1
    return 0


def _version() -> str:
    from core_server import __version__  # noqa: PLC0415

    return f"core-server {__version__}"
