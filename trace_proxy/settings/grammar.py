"""The command line as a whole: argv and environment → `Config`, and the help that teaches.

The flag wins over `TRACE_PROXY_<NAME>`, which wins over the default; an empty variable
is an unset one. Both are kept as text until here, so one error reads like the other.
What single options are is told by `options`.
"""

import argparse
import difflib
import re
import socket
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, Final, NoReturn

from trace_proxy.errors import ConfigurationError
from trace_proxy.protocol.authority import address_of, parse_ws_url
from trace_proxy.settings.config import (
    DEFAULT_COMMAND,
    Authentication,
    Config,
    Delivery,
    Fleet,
    ListenTcp,
    Logging,
    Pool,
    Security,
    Sessions,
    Tls,
    Tracing,
)
from trace_proxy.settings.limits import Limits
from trace_proxy.settings.options import OPTIONS, PREFIX, Option

DISTRIBUTION: Final = "trace-proxy"

TESTS: Final = ("TRACE_PROXY_TEST_", "TRACE_PROXY_REQUIRE_")
"""What the tests are told by the environment; their children inherit it."""

_OWN_CORE: Final = re.compile(r"\bcore[_-]server\b")

_DESCRIPTION: Final = """\
Share one or more app-server processes among many websocket clients, trace every
request, turn and tool call, and drain before stopping. COMMAND is the app-server;
without one it is this project's own core-server with its offline engine.
`trace-proxy talk` is a client for people: one turn, streamed."""

_EPILOG: Final = """\
Every option also reads TRACE_PROXY_<NAME>, as TRACE_PROXY_DRAIN_TIMEOUT=30; the flag
wins, lists are separated by commas. OTEL_* is honoured, TRACEPARENT is the fallback parent.

examples:
  trace-proxy
      a working system: console page at http://127.0.0.1:4500, websocket at the same place
  OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 trace-proxy --cores 2 -- codex app-server
      many clients on two real servers, traces in Jaeger
  trace-proxy --listen stdio:// --trace-file traces.jsonl -- codex app-server
      for a client that starts its own server: same wire, plus traces in a file

exit codes: 0 drained, 1 could not start, 2 wrong options, 3 drained but turns were
interrupted, 143 or 130 forced by a second signal"""


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing its usage: one clear line is the caller's to write."""

    def error(self, message: str) -> NoReturn:
        """Refuse.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(f"{message.removeprefix('argument ')} (see trace-proxy --help)")


class Answered(Exception):  # noqa: N818 - no error: `--help` and `--version` end the reading
    """The command line asked for a text, to be shown, and for nothing else."""


class _ShowHelp(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise Answered(parser.format_help())


class _ShowVersion(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        raise Answered(f"{DISTRIBUTION} {installed_version()}\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of what stands before `--`. Every value is text, or None when not given."""
    parser = _Parser(
        prog=DISTRIBUTION,
        usage="trace-proxy [OPTIONS] [-- COMMAND [ARG...]]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a new option must not change what an old script means
        add_help=False,
    )
    parser.add_argument("-h", "--help", action=_ShowHelp, nargs=0, help="show this help and exit")
    parser.add_argument(
        "--version", action=_ShowVersion, nargs=0, help="show the version and exit"
    )
    groups = {option.group: parser.add_argument_group(option.group) for option in OPTIONS}
    for option in OPTIONS:
        text = f"{option.help} (default: {option.default})" if option.default else option.help
        if not option.metavar:
            groups[option.group].add_argument(
                option.flag, action=argparse.BooleanOptionalAction, default=None, help=text
            )
        else:
            groups[option.group].add_argument(
                option.flag,
                action="append" if option.many else "store",
                metavar=option.metavar,
                help=text,
            )
    return parser


def read_config(argv: Sequence[str], environment: Mapping[str, str]) -> Config:
    """What the user asked for. `argv` is without the program's name.

    Raises:
        ConfigurationError: Something is wrong; one line says what, where it came from, what to do.
        Answered: `--help` or `--version` was asked for.
    """
    options, command = _split(argv)
    flags = _flags(options)
    from_environment: dict[str, str] = {}
    sections: dict[str, dict[str, Any]] = {}
    try:
        for option in OPTIONS:
            values = flags.get(option.name) or _variable(option, environment, from_environment)
            if values:
                read = [option.read(option.flag, value) for value in values]
                section = sections.setdefault(option.section, {})
                section[option.field] = tuple(read) if option.many else read[-1]
        if command is not None:
            sections.setdefault("pool", {})["command"] = command
        _advertise(sections, environment)
        return _config(sections)
    except ConfigurationError as error:
        raise ConfigurationError(_name_sources(str(error), from_environment)) from None


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Variables that look like options of ours and are none: mistyped, most likely."""
    known = {option.variable for option in OPTIONS}
    return sorted(
        name
        for name in environment
        if name.startswith(PREFIX) and not name.startswith(TESTS) and name not in known
    )


def _split(argv: Sequence[str]) -> tuple[Sequence[str], tuple[str, ...] | None]:
    """Options and the command behind the first `--`, which argparse would not keep apart."""
    if "--" not in argv:
        return argv, None
    end = list(argv).index("--")
    return argv[:end], tuple(argv[end + 1 :])


def _flags(argv: Sequence[str]) -> dict[str, list[str]]:
    """The options given on the command line, as texts by name."""
    parser = build_parser()
    parsed, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(_unknown(unknown[0]))
    texts: dict[str, list[str]] = {}
    for option in OPTIONS:
        value = getattr(parsed, option.name.replace("-", "_"))
        if value is not None:
            texts[option.name] = value if isinstance(value, list) else [str(value)]
    return texts


def _unknown(argument: str) -> str:
    """Its name only: a value behind `=` may be a secret."""
    name = argument.partition("=")[0][:80]
    if not name.startswith("-"):
        return f"unexpected {name!r}: put the core's command after --"
    close = difflib.get_close_matches(name, [option.flag for option in OPTIONS], n=1)
    return f"unknown option {name!r}" + (f", did you mean {close[0]}?" if close else "")


def _variable(option: Option, environment: Mapping[str, str], seen: dict[str, str]) -> list[str]:
    """The texts that the environment has for `option`; notes in `seen` where from."""
    for variable in (option.variable, option.fallback):
        text = environment.get(variable, "")
        if text:
            seen[option.flag] = variable
            return (
                [part for item in text.split(",") if (part := item.strip())]
                if option.many
                else [text]
            )
    return []


def _advertise(sections: dict[str, dict[str, Any]], environment: Mapping[str, str]) -> None:
    """Where the store is one that machines share, others reach us at our first port, if not said."""
    fleet, pool = sections.setdefault("fleet", {}), sections.get("pool", {})
    alone = (
        pool.get("sessions", Sessions.SHARED) is not Sessions.SHARED
        or pool.get("delivery", Delivery.SUBSCRIBERS) is not Delivery.SUBSCRIBERS
    )
    if "advertise_url" in fleet or alone:
        return
    if not _store(pool.get("command", DEFAULT_COMMAND), environment).startswith("postgresql://"):
        return
    for where in sections.get("", {}).get("listen", Config().listen):
        if isinstance(where, ListenTcp) and where.port:
            address = address_of(where.host)
            everywhere = address is not None and address.is_unspecified
            host = socket.gethostname().lower() if everywhere else where.host
            tls = where.tls or "cert" in sections.get("tls", {})
            url = ListenTcp(host, where.port, tls).url
            if parse_ws_url(url) is not None:
                fleet["advertise_url"] = url
            return


def _store(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """The store of our own core, as its command or its environment says; empty for others."""
    if not any(_OWN_CORE.search(word) for word in command):
        return ""
    store = environment.get("CORE_SERVER_STORE", "")
    for word, following in zip(command, [*command[1:], ""], strict=True):
        flag, is_assigned, value = word.partition("=")
        if flag == "--store":
            store = value if is_assigned else following
    return store


def _config(sections: Mapping[str, dict[str, Any]]) -> Config:
    return Config(
        pool=Pool(**sections.get("pool", {})),
        limits=Limits(**sections.get("limits", {})),
        security=Security(**sections.get("security", {})),
        authentication=Authentication(**sections.get("authentication", {})),
        tls=Tls(**sections.get("tls", {})),
        tracing=Tracing(**sections.get("tracing", {})),
        fleet=Fleet(**sections.get("fleet", {})),
        logging=Logging(**sections.get("logging", {})),
        **sections.get("", {}),
    )


def _name_sources(message: str, from_environment: Mapping[str, str]) -> str:
    """The message with the variable's name wherever its option did not come from a flag."""
    return re.sub(
        r"--[a-z][a-z0-9-]*", lambda match: from_environment.get(match[0], match[0]), message
    )


def installed_version(distribution: str = DISTRIBUTION) -> str:
    """Its version; a remark where it runs from a source tree that is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(not installed, version unknown)"
