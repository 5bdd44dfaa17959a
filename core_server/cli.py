"""The command line: options and environment into a `Config`, and exit codes out.

    0 end of input or drained   1 could not start   2 configuration   143, 130 forced

The only module that reads the environment. Whatever keeps the core from serving ends in
one line on stderr: never a traceback, unless `--log-level debug` asks for it. Defaults
are computed when they are needed, so a missing HOME is no matter to who names a store.
The heavy imports stand inside functions (PLC0415): the signals are held back first, and
one that comes meanwhile is served after.
"""

import argparse
import contextlib
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from core_server.errors import ConfigurationError, StartError

if TYPE_CHECKING:
    from core_server.runtime.server import Server
    from core_server.storage.sql.owner import Place

PREFIX: Final = "CORE_SERVER_"
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MIN_DESCRIPTORS: Final = 32
"""The event loop, the store and one command with its pipes take some 25."""

_WS_URL: Final = re.compile(
    r"wss?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?"
)

MAX_LINE_CHARACTERS: Final = 1000
"""Of an error: what a terminal shows without scrolling."""

DESCRIPTION: Final = """\
A plain app-server: threads, turns, items over JSON-RPC on stdin and stdout.

commands:
  (none), app-server    serve; the second name as the codex binary has it
  schema --out DIR      write the JSON Schema of every message into DIR"""

EPILOG: Final = """\
examples:
  core-server                                     offline engine, threads in ~/.local/state
  core-server --store memory --workspace /src     leave nothing behind
  OPENAI_API_KEY=... core-server --engine openai --model gpt-5
  core-server schema --out schema

It speaks JSON-RPC, one message a line, on stdin and stdout; logs go to stderr.
Every option also reads CORE_SERVER_<NAME>; the flag wins. Commands of turns are
approved by the client (--approval-policy) and confined (--sandbox).

exit codes: 0 end of input or drained, 1 could not start, 2 wrong options,
143 or 130 forced by a second signal"""


@dataclass(frozen=True, slots=True)
class _Option:
    """One row of the table.

    Attributes:
        name: Without dashes.
        help: One line.
        default: As text; None when it is worked out from elsewhere, or there is none.
        known: What it may be; None for anything.
        shown: The default as the help shows it; empty for the text itself.
        fallback: Another variable, read when ours is not set.
        metavar: What stands for its value in the help, where that is not one of `known`.
    """

    name: str
    help: str
    default: str | None = None
    known: tuple[str, ...] | None = None
    shown: str = ""
    fallback: str = ""
    metavar: str = ""

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return PREFIX + self.name.upper().replace("-", "_")

    @property
    def field(self) -> str:
        """Its name in what argparse gives back."""
        return self.name.replace("-", "_")


OPTIONS: Final = (
    _Option("listen", "where to serve; stdio:// is the only one", "stdio://", metavar="URL"),
    _Option("engine", "what answers", "offline", ("offline", "openai")),
    _Option(
        "wire",
        "what the endpoint of the engine openai speaks",
        "responses",
        ("responses", "chat"),
    ),
    _Option("model", "model of new threads", shown="the engine's own", metavar="NAME"),
    _Option(
        "store",
        "sqlite:///PATH, postgresql://USER@HOST/DB or memory",
        shown="sqlite:///$XDG_STATE_HOME/core-server/threads.db",
        metavar="URL",
    ),
    _Option(
        "advertise-url",
        "where other hosts of a PostgreSQL store reach this one",
        "",
        shown="none",
        metavar="URL",
    ),
    _Option(
        "host-id",
        "a name that stays when this host is started anew",
        "",
        shown="none",
        metavar="NAME",
    ),
    _Option(
        "lease-seconds", "a host that is silent for so long loses its threads", "10", metavar="S"
    ),
    _Option("workspace", "directory where threads work", shown="the current one", metavar="DIR"),
    _Option(
        "approval-policy",
        "when the client is asked before a command or file change",
        "on-request",
        ("on-request", "untrusted", "never"),
    ),
    _Option(
        "sandbox",
        "what commands may touch",
        "workspace-write",
        ("workspace-write", "read-only", "none"),
    ),
    _Option(
        "approval-timeout",
        "seconds after which an unanswered question means no",
        "300",
        metavar="S",
    ),
    _Option("max-message-bytes", "longest message, in bytes", "16777216", metavar="N"),
    _Option("log-format", "on stderr", "auto", ("auto", "json", "console"), fallback="LOG_FORMAT"),
    _Option(
        "log-level",
        "lowest level",
        "info",
        ("debug", "info", "warning", "error"),
        fallback="LOG_LEVEL",
    ),
)


class _Answered(Exception):  # noqa: N818 - no error: `--help` and `--version` end the reading
    """The command line asked for a text and nothing else."""


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing its usage and ending the process."""

    def error(self, message: str) -> NoReturn:
        """Refuse.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(f"{message.removeprefix('argument ')} (see core-server --help)")


class _Help(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise _Answered(parser.format_help())


class _Version(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        from core_server import __version__  # noqa: PLC0415

        raise _Answered(f"core-server {__version__}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    _hold_signals()
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = False
    try:
        _fill_standard_descriptors()
        if arguments[:1] == ["schema"]:
            return _write_schema(arguments[1:])
        options = parse(arguments, os.environ)
        debug = options.log_level == "debug"
        return _serve(options, os.environ)
    except _Answered as answer:
        return _print(str(answer))
    except (ConfigurationError, StartError) as error:
        return _refused(str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001 - the last door: a line, whatever it was
        if debug:
            import traceback  # noqa: PLC0415 - hardly ever needed

            traceback.print_exc()
        return _refused(_fault(error), 1)


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> argparse.Namespace:
    """Read options, with all defaults worked out.

    Raises:
        ConfigurationError: one line says what is wrong, where it came from, what to do.
    """
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:  # its name only: a value behind `=` may be a secret
        parser.error(f"unknown option {unknown[0].partition('=')[0][:80]!r}")
    if options.command == "schema":
        raise ConfigurationError("schema stands alone: core-server schema --out DIR")
    sources = _fill(options, environ)
    _override(options, sources)
    _check(options, sources)
    _work_out(options, environ)
    return options


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables that look like options of ours and are none: mistyped, most likely."""
    known = {option.variable for option in OPTIONS}
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in known)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "core-server",
        usage="core-server [app-server] [OPTIONS]\n       core-server schema --out DIR",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a new option must not change what an old script means
        add_help=False,
    )
    parser.add_argument(
        "command", nargs="?", choices=["app-server", "schema"], help=argparse.SUPPRESS
    )
    parser.add_argument("-h", "--help", action=_Help, nargs=0, help="show this help and exit")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    for option in OPTIONS:
        default = option.shown or option.default
        metavar = option.metavar or "|".join(option.known or ())
        parser.add_argument(
            f"--{option.name}", metavar=metavar, help=f"{option.help} (default: {default})"
        )
    parser.add_argument(
        "--stdio", action="store_true", help="the same as --listen stdio://, as codex has it"
    )
    parser.add_argument(
        "-c",
        "--config",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as the codex binary has it: model, approval_policy, sandbox_mode; others are ignored",
    )
    return parser


def _fill(options: argparse.Namespace, environ: Mapping[str, str]) -> dict[str, str]:
    """Take what no flag gave from the environment; an empty variable is an unset one.

    Returns:
        Where each option's text came from: its flag or a variable.
    """
    if options.stdio and options.listen is not None:
        raise ConfigurationError("--stdio cannot be used with --listen: leave one out")
    sources = {}
    for option in OPTIONS:
        sources[option.field] = f"--{option.name}"
        if getattr(options, option.field) is not None:
            continue
        value = option.default
        for variable in (option.variable, option.fallback):
            if text := environ.get(variable, ""):
                value, sources[option.field] = text, variable
                break
        setattr(options, option.field, value)
    if options.stdio:
        options.listen = "stdio://"
    return sources


def _override(options: argparse.Namespace, sources: dict[str, str]) -> None:
    """Take what a client of the codex binary configures by `-c KEY=VALUE` (TOML)."""
    names = {"model": "model", "approval_policy": "approval_policy", "sandbox_mode": "sandbox"}
    for pair in options.config:
        key, is_pair, value = pair.partition("=")
        if not is_pair:
            raise ConfigurationError(f"--config {pair}: write KEY=VALUE")
        text = value.strip().strip("\"'")
        if field := names.get(key.strip()):
            text = "none" if text == "danger-full-access" else text
            setattr(options, field, text)
            sources[field] = f"-c {key.strip()}"


def _check(options: argparse.Namespace, sources: Mapping[str, str]) -> None:
    """Judge each value; the message names where it came from."""
    options.log_level = options.log_level.lower()
    if options.log_level == "warn":
        options.log_level = "warning"
    for option in OPTIONS:
        value, source = getattr(options, option.field), sources[option.field]
        if option.known is not None and value not in option.known:
            known = ", ".join(option.known)
            raise ConfigurationError(f"{source} {value[:200]!r}: use one of {known}")
        if value is not None and option.field != "store" and not _is_utf8(value):
            raise ConfigurationError(f"{source}: not UTF-8, which is all that the protocol takes")
    if options.listen != "stdio://":
        said = options.listen[:200]
        raise ConfigurationError(
            f"{sources['listen']} {said!r}: this server speaks stdio:// only"
            " (trace-proxy serves websockets)"
        )
    size = options.max_message_bytes
    if not re.fullmatch(r"[0-9]{1,15}", size) or int(size) < 1024:
        source = sources["max_message_bytes"]
        raise ConfigurationError(f"{source}: a whole number of bytes, at least 1024")
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", options.approval_timeout):
        source = sources["approval_timeout"]
        raise ConfigurationError(f"{source}: a number of seconds, for example 300")


def _work_out(options: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """The defaults that depend on where we are: each only when nobody gave it."""
    if options.workspace is None:
        options.workspace = _current_directory()
    elif not os.path.isdir(options.workspace):  # noqa: PTH112 - False, whatever is wrong with it
        shown = options.workspace[:500]
        raise ConfigurationError(f"--workspace {shown}: no such directory, or not yours to read")
    if options.store is None:
        options.store = f"sqlite:///{_state_directory(environ)}/core-server/threads.db"


def _current_directory() -> str:
    try:
        here = os.getcwd()  # noqa: PTH109 - text in, text out
    except OSError as error:
        raise ConfigurationError(
            f"the current directory cannot be used ({error.strerror}): give --workspace DIR"
        ) from None
    if not _is_utf8(here):
        raise ConfigurationError(
            "the name of the current directory is not UTF-8, which is all that the protocol"
            " takes: give --workspace DIR"
        )
    return here


def _state_directory(environ: Mapping[str, str]) -> str:
    """Where state is kept (XDG Base Directory Specification: a relative path does not count)."""
    given = environ.get("XDG_STATE_HOME", "")
    if given.startswith("/"):
        return given
    home = _home(environ)
    if home is None:
        raise ConfigurationError(
            "no home directory is known for the thread store: set HOME or XDG_STATE_HOME,"
            " or give --store sqlite:///PATH or --store memory"
        )
    return f"{home.rstrip('/')}/.local/state"


def _home(environ: Mapping[str, str]) -> str | None:
    """The home directory: `HOME`, else what the user database says, else None."""
    given = environ.get("HOME", "")
    if given.startswith("/"):
        return given
    import pwd  # noqa: PLC0415 - hardly ever needed

    try:
        return pwd.getpwuid(os.getuid()).pw_dir or None
    except KeyError:  # a container's arbitrary user
        return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that the file system encoding could not read
        return False
    return True


def _require_descriptors() -> None:
    """Take what is allowed, and refuse what is too little, before something fails half-way."""
    import resource  # noqa: PLC0415 - behind the first signals

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= MIN_DESCRIPTORS:
        return
    if hard != resource.RLIM_INFINITY and hard < MIN_DESCRIPTORS:
        raise StartError(
            f"only {hard} open files are allowed and {MIN_DESCRIPTORS} are needed:"
            " raise the limit (ulimit -n)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (MIN_DESCRIPTORS, hard))


def _serve(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    _require_descriptors()
    from core_server.runtime import stdio  # noqa: PLC0415

    ends = stdio.claim()
    import uvloop  # noqa: PLC0415

    from core_server.config import Config  # noqa: PLC0415
    from core_server.engines.opening import build_engine  # noqa: PLC0415
    from core_server.logs import choose, logger  # noqa: PLC0415
    from core_server.runtime.server import Server  # noqa: PLC0415
    from core_server.storage.base import StorageError  # noqa: PLC0415
    from core_server.storage.opening import open_store  # noqa: PLC0415

    choose(options.log_format, options.log_level)
    for name in unknown_variables(environ):
        logger().warning("config.unknown_variable", name=name[:200])
    config = Config(
        model=options.model,
        workspace=os.path.realpath(options.workspace),
        approval_policy=options.approval_policy,
        sandbox="danger-full-access" if options.sandbox == "none" else options.sandbox,
        max_message_bytes=int(options.max_message_bytes),
        approval_timeout_s=float(options.approval_timeout),
        home=_shown(_home(environ) or "/"),
    )
    try:
        engine = build_engine(
            options.engine, model=options.model, environ=environ, wire=options.wire
        )
        store = open_store(options.store, place_of(options))
        store.check()
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    except StorageError as error:
        raise StartError(str(error)) from None
    uvloop.run(_served(Server(config, engine, store, ends)))
    return 0


async def _served(server: "Server") -> None:
    """Serve; a signal that comes while the interpreter ends changes nothing any more."""
    try:
        await server.serve()
    finally:
        _hold_signals()


def place_of(options: argparse.Namespace) -> "Place":
    """This host among those that share a PostgreSQL store.

    Raises:
        ValueError: with one line that says what is wrong and what to write.
    """
    from core_server.storage.sql.owner import Place  # noqa: PLC0415

    url, lease = options.advertise_url, options.lease_seconds
    if url and not _WS_URL.fullmatch(url):
        raise ValueError("--advertise-url: write ws://HOST:PORT, as other hosts reach this one")
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", lease) or float(lease) < 1:
        raise ValueError("--lease-seconds: a number of seconds, from 1 to 9999, for example 10")
    return Place(options.host_id, url, float(lease))


def _hold_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def _fill_standard_descriptors() -> None:
    """Give 0, 1 and 2 to the null device where our parent closed them.

    Otherwise the next file or socket gets the number, and log lines go into it.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)  # noqa: FBT003 - the function's only argument
    os.close(fd)
    if sys.stderr is None:
        sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115


def _write_schema(arguments: Sequence[str]) -> int:
    parser = _Parser("core-server schema", add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action=_Help, nargs=0, help="show this help and exit")
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write the files")
    out = Path(parser.parse_args(arguments).out)
    from core_server.protocol.schema import write_schema  # noqa: PLC0415

    try:
        write_schema(out)
    except OSError as error:
        raise StartError(f"cannot write the schema: {error}") from None
    return 0


def _print(text: str) -> int:
    """Write to stdout, without a buffer that could fail only when the interpreter ends."""
    left = memoryview(text.encode(errors="replace"))
    try:
        while left:
            left = left[os.write(1, left) :]
    except BrokenPipeError:  # `| head` has seen enough
        return 0
    except OSError as error:
        return _refused(f"cannot write to stdout: {error.strerror}", 1)
    return 0


def _refused(reason: str, code: int) -> int:
    """Say it in one line; nobody reading it changes nothing: the exit code still tells."""
    with contextlib.suppress(OSError):
        os.write(2, f"core-server: {_shown(reason)}\n".encode())
    return code


def _shown(text: str) -> str:
    """As one printable line of UTF-8, whatever was in it."""
    safe = text.encode(errors="surrogateescape").decode(errors="replace")[:MAX_LINE_CHARACTERS]
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in safe)


def _fault(error: BaseException) -> str:
    """What no part of us foresaw, in words: the innermost reason, and what may be done."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    why = _reason(error)
    return f"cannot go on: {why}; --log-level debug shows where"


def _reason(error: Any) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where} (are the limits of this process too low?)"
    return f"{type(error).__name__}: {error}".rstrip(": ")
