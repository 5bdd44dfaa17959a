"""The table of options: name, help, place in `Config`, and how its text is read.

Bounds are taken from `Limits` itself, so none can be without its option. How flags and
the environment are told apart, and the help as a whole, is `grammar`'s business; what
values mean together is checked in `config`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum
from typing import Final

from trace_proxy.errors import ConfigurationError
from trace_proxy.settings.config import (
    CoreStderr,
    Delivery,
    Framing,
    LogFormat,
    LogLevel,
    Placement,
    Sessions,
    Spoken,
    TrustContext,
    WsAuth,
    parse_listen,
)
from trace_proxy.settings.limits import Limits, option_of

Read = Callable[[str, str], object]
"""(option as the user writes it, text) → value. Raises ConfigurationError.

Strict, so that a slip is an error and not another value. Ranges are `config`'s business."""


def read_text(flag: str, text: str) -> str:
    """Any text but none."""
    if not text:
        raise ConfigurationError(f"{flag} is empty: give a value or leave it out")
    return text


def read_count(flag: str, text: str) -> int:
    """A whole number in plain digits."""
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ConfigurationError(f"{flag} {text[:80]!r}: give a whole number in plain digits")
    return int(text)


def read_seconds(flag: str, text: str) -> float:
    """Seconds, with or without a fraction."""
    if not re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,18})?", text):
        raise ConfigurationError(f"{flag} {text[:80]!r}: give seconds as a number, 30 or 0.5")
    return float(text)


def read_switch(flag: str, text: str) -> bool:
    """Yes or no, as containers write them."""
    match text.lower():
        case "true" | "1" | "yes" | "on":
            return True
        case "false" | "0" | "no" | "off":
            return False
        case _:
            raise ConfigurationError(f"{flag} {text[:80]!r}: give true or false")


def read_member(kind: type[Enum]) -> Read:
    """One of the values of `kind`, in any case."""

    def read(flag: str, text: str) -> Enum:
        try:
            return kind(text.lower())
        except ValueError:
            known = ", ".join(member.value for member in kind)
            raise ConfigurationError(f"{flag} {text[:80]!r}: give one of {known}") from None

    return read


PREFIX: Final = "TRACE_PROXY_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One row.

    Attributes:
        name: Without dashes.
        group: Its heading in the help.
        help: One line; the default is added to it.
        section: The group of `Config` it belongs to; empty for `Config` itself.
        field: Its field there.
        read: Text to value.
        metavar: What stands for its value in the help; empty for a switch.
        default: As shown in the help; empty: not shown.
        many: Whether it may be repeated.
        fallback: Another variable that is read when `TRACE_PROXY_<NAME>` is not set.
    """

    name: str
    group: str
    help: str
    section: str = ""
    field: str = ""
    read: Read
    metavar: str = ""
    default: str = ""
    many: bool = False
    fallback: str = ""

    @property
    def flag(self) -> str:
        """As on the command line."""
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return PREFIX + self.name.replace("-", "_").upper()


def _choices(kind: type[Enum]) -> str:
    return "|".join(member.value for member in kind)


def _bounds() -> tuple[Option, ...]:
    """A row for each field of `Limits`."""
    return tuple(
        Option(
            name=option_of(bound.name)[2:],
            group="Bounds (each says what happens at it)",
            help=bound.metadata["help"],
            section="limits",
            field=bound.name,
            read=read_seconds if isinstance(bound.default, float) else read_count,
            metavar=_unit(bound.name),
            default=f"{bound.default:g}"
            if isinstance(bound.default, float)
            else f"{bound.default}",
        )
        for bound in fields(Limits)
    )


def _unit(field_name: str) -> str:
    if field_name.endswith("_s"):
        return "S"
    return "BYTES" if "bytes" in field_name else "N"


_CLIENTS: Final = "Clients"
_CORES: Final = "Cores"
_FLEET: Final = "More than one machine"
_TRACES: Final = "Traces"
_DOOR: Final = "Who may connect"
_LOG: Final = "Log"

OPTIONS: Final = (
    Option(
        name="listen",
        group=_CLIENTS,
        help="ws://HOST:PORT (port 0: any free one; wss:// with --tls-cert), unix://PATH (mode 0600) or stdio:// "
        "(one client, its EOF ends the proxy); repeatable",
        field="listen",
        read=lambda _, text: parse_listen(text),
        metavar="URL",
        default="ws://127.0.0.1:4500",
        many=True,
    ),
    Option(
        name="sessions",
        group=_CLIENTS,
        help="shared: all clients on the same cores; per-connection: a core for each, "
        "which may then be any JSON-RPC program on stdio",
        section="pool",
        field="sessions",
        read=read_member(Sessions),
        metavar=_choices(Sessions),
        default="shared",
    ),
    Option(
        name="framing",
        group=_CORES,
        help="how a core of one client speaks: newline-delimited JSON, or (LSP) messages "
        "behind Content-Length headers; on the websocket it is one message a frame",
        section="pool",
        field="framing",
        read=read_member(Framing),
        metavar=_choices(Framing),
        default="lines",
    ),
    Option(
        name="protocol",
        group=_CORES,
        help="what a core of one client speaks; auto: its client's first request tells",
        section="pool",
        field="protocol",
        read=read_member(Spoken),
        metavar=_choices(Spoken),
        default="auto",
    ),
    Option(
        name="subprotocol",
        group=_CLIENTS,
        help="a websocket subprotocol to select when a client offers it, beside mcp and acp "
        "of --sessions per-connection; repeatable",
        section="pool",
        field="subprotocols",
        read=read_text,
        metavar="NAME",
        many=True,
    ),
    Option(
        name="delivery",
        group=_CLIENTS,
        help="who hears a thread's events: its subscribers, or every client",
        section="pool",
        field="delivery",
        read=read_member(Delivery),
        metavar=_choices(Delivery),
        default="subscribers",
    ),
    Option(
        name="core-stderr",
        group=_CLIENTS,
        help="what is shown of a core's stderr: all, its last lines when it fails, or nothing",
        section="pool",
        field="core_stderr",
        read=read_member(CoreStderr),
        metavar=_choices(CoreStderr),
        default="pass",
    ),
    Option(
        name="drain-timeout",
        group=_CLIENTS,
        help="after the first signal, time for running turns before they are interrupted; 0: no limit",
        field="drain_timeout_s",
        read=read_seconds,
        metavar="S",
        default="0",
    ),
    Option(
        name="console",
        group=_CLIENTS,
        help="the page that a browser sees at the websocket's address; off: 404",
        field="console",
        read=read_switch,
        metavar="on|off",
        default="on",
    ),
    Option(
        name="cores",
        group=_CORES,
        help="core processes that the clients share",
        section="pool",
        field="cores",
        read=read_count,
        metavar="N",
        default="1",
    ),
    Option(
        name="restart-backoff-min",
        group=_CORES,
        help="wait before a crashed core is started again; doubles each time",
        section="pool",
        field="restart_backoff_min_s",
        read=read_seconds,
        metavar="S",
        default="0.25",
    ),
    Option(
        name="restart-backoff-max",
        group=_CORES,
        help="longest such wait",
        section="pool",
        field="restart_backoff_max_s",
        read=read_seconds,
        metavar="S",
        default="8",
    ),
    Option(
        name="max-restarts",
        group=_CORES,
        help="restarts of a core within the window; at the next crash it stays down",
        section="pool",
        field="max_restarts",
        read=read_count,
        metavar="N",
        default="5",
    ),
    Option(
        name="restart-window",
        group=_CORES,
        help="that window",
        section="pool",
        field="restart_window_s",
        read=read_seconds,
        metavar="S",
        default="180",
    ),
    Option(
        name="advertise-url",
        group=_FLEET,
        help="ws://HOST:PORT where the other hosts that share a PostgreSQL store reach this one;"
        " without it, the first --listen with a port",
        section="fleet",
        field="advertise_url",
        read=read_text,
        metavar="URL",
    ),
    Option(
        name="host-id",
        group=_FLEET,
        help="our name among the hosts, the same after a new start and nobody else's: what we"
        " owned before is then ours at once",
        section="fleet",
        field="host_id",
        read=read_text,
        metavar="NAME",
    ),
    Option(
        name="peer-token-file",
        group=_FLEET,
        help="a file with the bearer token that is shown to the other hosts",
        section="fleet",
        field="peer_token_file",
        read=read_text,
        metavar="FILE",
    ),
    Option(
        name="placement",
        group=_FLEET,
        help="where new threads are made: at the host of their client, or where there are fewest",
        section="fleet",
        field="placement",
        read=read_member(Placement),
        metavar=_choices(Placement),
        default="sticky",
    ),
    Option(
        name="trust-context",
        group=_TRACES,
        help="a client's trace context becomes the parent, or (at a public edge) only a link",
        section="tracing",
        field="trust_context",
        read=read_member(TrustContext),
        metavar=_choices(TrustContext),
        default="parent",
    ),
    Option(
        name="trace-file",
        group=_TRACES,
        help="without OTEL_EXPORTER_OTLP_ENDPOINT: write OTLP JSON lines that Jaeger UI can upload",
        section="tracing",
        field="trace_file",
        read=read_text,
        metavar="FILE",
    ),
    Option(
        name="core-service-name",
        group=_TRACES,
        help="service.name of turns, tools and approvals",
        section="tracing",
        field="core_service_name",
        read=read_text,
        metavar="NAME",
        default="core-server",
    ),
    Option(
        name="trace-reads",
        group=_TRACES,
        help="off: no spans of requests that only look (thread/list, thread/read and such), "
        "which pages and TUIs repeat",
        section="tracing",
        field="trace_reads",
        read=read_switch,
        metavar="on|off",
        default="on",
    ),
    Option(
        name="record-content",
        group=_TRACES,
        help="record params, results and texts too; they may hold secrets",
        section="tracing",
        field="record_content",
        read=read_switch,
    ),
    Option(
        name="jaeger-url",
        group=_TRACES,
        help="where the console page links to traces, as the browser reaches it",
        section="tracing",
        field="jaeger_url",
        read=lambda flag, text: read_text(flag, text).rstrip("/"),
        metavar="URL",
    ),
    Option(
        name="allow-origin",
        group=_DOOR,
        help="a web page that may connect, as https://app.example.com; repeatable",
        section="security",
        field="allow_origins",
        read=read_text,
        metavar="ORIGIN",
        many=True,
    ),
    Option(
        name="allow-host",
        group=_DOOR,
        help="a name under which clients may address the proxy, NAME or NAME:PORT; repeatable",
        section="security",
        field="allow_hosts",
        read=read_text,
        metavar="NAME",
        many=True,
    ),
    Option(
        name="ws-auth",
        group=_DOOR,
        help="clients show a bearer token: one that is known here, or one that was signed (JWT)",
        section="authentication",
        field="mode",
        read=read_member(WsAuth),
        metavar=_choices(WsAuth),
    ),
    Option(
        name="ws-token-file",
        group=_DOOR,
        help="holds the capability token; read again when it changes",
        section="authentication",
        field="token_file",
        read=read_text,
        metavar="FILE",
    ),
    Option(
        name="ws-token-sha256",
        group=_DOOR,
        help="the capability token's SHA-256 instead of the token",
        section="authentication",
        field="token_sha256",
        read=lambda flag, text: read_text(flag, text.strip()),
        metavar="HEX",
    ),
    Option(
        name="ws-shared-secret-file",
        group=_DOOR,
        help="holds the secret of signed tokens (HS256), 32 bytes at least; "
        "read again when it changes",
        section="authentication",
        field="shared_secret_file",
        read=read_text,
        metavar="FILE",
    ),
    Option(
        name="ws-issuer",
        group=_DOOR,
        help="what a signed token's iss must be",
        section="authentication",
        field="issuer",
        read=read_text,
        metavar="ISSUER",
    ),
    Option(
        name="ws-audience",
        group=_DOOR,
        help="what a signed token's aud must be or contain",
        section="authentication",
        field="audience",
        read=read_text,
        metavar="AUDIENCE",
    ),
    Option(
        name="ws-max-clock-skew-seconds",
        group=_DOOR,
        help="by so much may the clock of whoever signs differ; 30 unless given",
        section="authentication",
        field="clock_skew_s",
        read=read_count,
        metavar="S",
    ),
    Option(
        name="ws-enforce-expiry",
        group=_DOOR,
        help="close an open connection when its signed token expires (1008)",
        section="authentication",
        field="enforce_expiry",
        read=read_switch,
    ),
    Option(
        name="auth-overlap-seconds",
        group=_DOOR,
        help="a token, secret or client authority stays valid so long after its file has changed",
        section="authentication",
        field="overlap_s",
        read=read_seconds,
        metavar="S",
        default="60",
    ),
    Option(
        name="tls-cert",
        group=_DOOR,
        help="certificate and chain (PEM): every TCP listener speaks TLS; "
        "read again when it changes, open connections stay",
        section="tls",
        field="cert",
        read=read_text,
        metavar="FILE",
    ),
    Option(
        name="tls-key",
        group=_DOOR,
        help="its private key (PEM, without a passphrase)",
        section="tls",
        field="key",
        read=read_text,
        metavar="FILE",
    ),
    Option(
        name="tls-client-ca",
        group=_DOOR,
        help="authorities (PEM): clients must have a certificate of one of them",
        section="tls",
        field="client_ca",
        read=read_text,
        metavar="FILE",
    ),
    Option(
        name="insecure-behind-proxy",
        group=_DOOR,
        help="listen off-loopback without authentication or TLS: something in front checks who comes",
        section="security",
        field="insecure_behind_proxy",
        read=read_switch,
    ),
    Option(
        name="log-format",
        group=_LOG,
        help="auto is console on a terminal and JSON otherwise; also LOG_FORMAT",
        section="logging",
        field="format",
        read=read_member(LogFormat),
        metavar=_choices(LogFormat),
        default="auto",
        fallback="LOG_FORMAT",
    ),
    Option(
        name="log-level",
        group=_LOG,
        help="least level that is written; also LOG_LEVEL",
        section="logging",
        field="level",
        read=read_member(LogLevel),
        metavar=_choices(LogLevel),
        default="info",
        fallback="LOG_LEVEL",
    ),
    *_bounds(),
)
"""All options, in the order of the help."""
