"""Everything a user may settle, as frozen values that cannot be wrong.

Making a group checks it; `Config` checks what concerns several. There is no I/O and no
environment here: `options` reads those, `limits` and `listen` hold the two larger groups.
"""

import re
import sys
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from trace_proxy.errors import ConfigurationError
from trace_proxy.protocol.authority import parse_authority, parse_ws_url
from trace_proxy.settings.authentication import Authentication, Tls, WsAuth
from trace_proxy.settings.limits import Limits, check_count, check_seconds
from trace_proxy.settings.listen import Listen, ListenStdio, ListenTcp, ListenUnix, parse_listen

__all__ = [
    "Authentication",
    "Config",
    "CoreStderr",
    "Delivery",
    "Fleet",
    "Framing",
    "Limits",
    "Listen",
    "ListenStdio",
    "ListenTcp",
    "ListenUnix",
    "LogFormat",
    "LogLevel",
    "Logging",
    "Placement",
    "Pool",
    "Security",
    "Sessions",
    "Spoken",
    "Tls",
    "Tracing",
    "TrustContext",
    "WsAuth",
    "parse_listen",
]

MAX_CORES: Final = 256
"""More processes of one program on one machine are a slip of the finger."""

MAX_NAME_CHARACTERS: Final = 255
"""For `service.name`: what Jaeger's storages index."""

DEFAULT_COMMAND: Final = (sys.executable, "-m", "core_server")
"""Our own core with its offline engine: `trace-proxy` alone serves a working system."""

_HTTP_URL: Final = re.compile(r"https?://([^/]+)(?:/[A-Za-z0-9._~/-]*)?")
"""Without query, escapes or user names: it becomes the beginning of a link in a page."""

_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(.+)")


class Sessions(Enum):
    """Whether connections share the cores or get one each."""

    SHARED = "shared"
    PER_CONNECTION = "per-connection"


class Delivery(Enum):
    """Who hears a notification."""

    SUBSCRIBERS = "subscribers"
    BROADCAST = "broadcast"


class Placement(Enum):
    """Where new threads of a fleet are made."""

    STICKY = "sticky"
    LEAST_LOADED = "least-loaded"


class Framing(Enum):
    """How messages stand on a core's stdin and stdout."""

    LINES = "lines"
    CONTENT_LENGTH = "content-length"


class Spoken(Enum):
    """What a core of one client speaks; `auto`: its client's first request tells."""

    AUTO = "auto"
    ACP = "acp"
    MCP = "mcp"
    LSP = "lsp"
    CODEX = "codex"


_SUBPROTOCOLS: Final = {
    Spoken.AUTO: ("mcp", "acp"),
    Spoken.ACP: ("acp",),
    Spoken.MCP: ("mcp",),
    Spoken.LSP: (),
    Spoken.CODEX: (),
}
"""Names of websocket subprotocols that clients of these offer."""

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
"""RFC 9110 section 5.6.2; what a subprotocol's name may be (RFC 6455 section 4.1)."""


class TrustContext(Enum):
    """What a trace context from outside becomes: the parent, or only a link."""

    PARENT = "parent"
    LINK = "link"


class LogFormat(Enum):
    """`auto` is console on a terminal and JSON otherwise."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class LogLevel(Enum):
    """The least level that is written; `warn` is read as `warning`."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @classmethod
    def _missing_(cls, value: object) -> "LogLevel | None":
        return cls.WARNING if value == "warn" else None


class CoreStderr(Enum):
    """What is shown of a core's stderr: all, the last lines when it fails, or nothing."""

    PASS = "pass"  # noqa: S105 - no password
    TAIL = "tail"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The cores: what to start, how many, and when to give one up.

    Attributes:
        command: The core's argv; found or not found when it is started.
        cores: Processes in shared mode.
        sessions: Shared, or one core for each connection.
        delivery: Who hears notifications in shared mode.
        framing: How messages stand on the pipes; lines in shared mode.
        protocol: What the core of one client speaks.
        subprotocols: Further names that the websocket handshake may select.
        restart_backoff_min_s: Wait before the first restart; doubles with each.
        restart_backoff_max_s: Longest wait between two restarts.
        max_restarts: So many within the window, and the core has failed for good.
        restart_window_s: That window.
        core_stderr: What is shown of their stderr.
    """

    command: tuple[str, ...] = DEFAULT_COMMAND
    cores: int = 1
    sessions: Sessions = Sessions.SHARED
    delivery: Delivery = Delivery.SUBSCRIBERS
    framing: Framing = Framing.LINES
    protocol: Spoken = Spoken.AUTO
    subprotocols: tuple[str, ...] = ()
    restart_backoff_min_s: float = 0.25  # a crash by accident is over before a client notices
    restart_backoff_max_s: float = 8.0  # long enough to cost nothing, short enough to wait for
    max_restarts: int = 5  # five crashes in three minutes are no accident
    restart_window_s: float = 180.0
    core_stderr: CoreStderr = CoreStderr.PASS

    def __post_init__(self) -> None:
        if not self.command or not self.command[0]:
            raise ConfigurationError(
                "no command after --: name the core's program, or leave out --"
            )
        if any("\0" in argument for argument in self.command):
            raise ConfigurationError("the command after -- contains a NUL character: remove it")
        check_count("cores", self.cores, most=MAX_CORES)
        check_count("max_restarts", self.max_restarts)
        for name in ("restart_backoff_min_s", "restart_backoff_max_s", "restart_window_s"):
            check_seconds(name, getattr(self, name))
        if self.restart_backoff_min_s > self.restart_backoff_max_s:
            raise ConfigurationError(
                "--restart-backoff-min is more than --restart-backoff-max: swap them"
            )
        if self.sessions is Sessions.PER_CONNECTION and self.cores != 1:
            raise ConfigurationError(
                "--cores goes with --sessions shared: per-connection starts one core per client"
            )
        if self.sessions is Sessions.SHARED:
            self._refuse_private()
        for name in self.subprotocols:
            if _TOKEN.fullmatch(name) is None:
                raise ConfigurationError(
                    f"--subprotocol {name[:200]!r}: use the name that clients offer, "
                    "letters, digits and !#$%&'*+.^_`|~- without blanks"
                )

    def _refuse_private(self) -> None:
        """What clients cannot share, since a core then speaks the app-server's protocol."""
        if self.framing is not Framing.LINES:
            raise ConfigurationError(
                "--framing content-length goes with --sessions per-connection: add that"
            )
        if self.protocol not in (Spoken.AUTO, Spoken.CODEX):
            raise ConfigurationError(
                f"--protocol {self.protocol.value} goes with --sessions per-connection: add that"
            )

    @property
    def offered(self) -> tuple[str, ...]:
        """All subprotocols that the websocket handshake may select."""
        shared = self.sessions is Sessions.SHARED
        return (*(() if shared else _SUBPROTOCOLS[self.protocol]), *self.subprotocols)


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """Who may come in besides this machine's own programs.

    Attributes:
        allow_origins: Web pages that may connect, each as the browser writes its origin.
        allow_hosts: Names under which the proxy may be addressed, `NAME` or `NAME:PORT`.
        insecure_behind_proxy: Somebody in front authenticates, or speaks TLS: listening
            off-loopback without one of them is fine.
    """

    allow_origins: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    insecure_behind_proxy: bool = False

    def __post_init__(self) -> None:
        for origin in self.allow_origins:
            _check_origin(origin)
        for host in self.allow_hosts:
            if parse_authority(host) is None:
                raise ConfigurationError(
                    f"--allow-host {host[:200]!r}: use NAME or NAME:PORT, without a scheme or path"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Other hosts that share a PostgreSQL store with us.

    Attributes:
        advertise_url: Where they reach us; None: there are none.
        peer_token_file: Holds the bearer token that we show them; None: we show nothing.
        placement: Where new threads are made.
        host_id: Our name among them, which stays when we are started anew; None: we have none.
    """

    advertise_url: str | None = None
    peer_token_file: str | None = None
    placement: Placement = Placement.STICKY
    host_id: str | None = None

    def __post_init__(self) -> None:
        if self.advertise_url is not None and parse_ws_url(self.advertise_url) is None:
            raise ConfigurationError(
                f"--advertise-url {self.advertise_url[:200]!r}: use ws://HOST:PORT as other hosts reach us"
            )
        if self.peer_token_file is not None and self.advertise_url is None:
            raise ConfigurationError(
                "--peer-token-file goes with --advertise-url: without it there are no peers"
            )
        if self.placement is not Placement.STICKY and self.advertise_url is None:
            raise ConfigurationError(
                "--placement goes with --advertise-url: without it there are no other hosts"
            )
        if self.host_id is not None and self.advertise_url is None:
            raise ConfigurationError(
                "--host-id goes with --advertise-url: without it there are no other hosts"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """Where traces come from and go to. `OTEL_*` is `telemetry`'s business.

    Attributes:
        trust_context: Whether a context from outside is the parent or a link.
        trace_file: OTLP JSON lines go here when no collector is set.
        core_service_name: `service.name` of turns, tools and approvals.
        trace_reads: Whether requests that only look get spans.
        record_content: Whether params, results and texts may be recorded.
        jaeger_url: Where the console links to, without a slash at its end.
    """

    trust_context: TrustContext = TrustContext.PARENT
    trace_file: str | None = None
    core_service_name: str = "core-server"
    trace_reads: bool = True
    record_content: bool = False
    jaeger_url: str | None = None

    def __post_init__(self) -> None:
        name = self.core_service_name
        if not (name.isprintable() and 0 < len(name) <= MAX_NAME_CHARACTERS):
            raise ConfigurationError(
                f"--core-service-name {name[:200]!r}: use 1 to {MAX_NAME_CHARACTERS} printable characters"
            )
        if self.trace_file is not None and "\0" in self.trace_file:
            raise ConfigurationError("--trace-file contains a NUL character: remove it")
        if self.jaeger_url is not None and not _is_http_url(self.jaeger_url):
            raise ConfigurationError(
                f"--jaeger-url {self.jaeger_url[:200]!r}: use http://HOST:PORT as the browser reaches it"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Logging:
    """How to write the log on stderr."""

    format: LogFormat = LogFormat.AUTO
    level: LogLevel = LogLevel.INFO


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of it.

    Attributes:
        drain_timeout_s: Seconds that running turns get after the first signal; 0: no deadline.
        console: Whether plain GETs are shown the page.

    Raises:
        ConfigurationError: Two settings contradict each other, or strangers could come in.
    """

    listen: tuple[Listen, ...] = (ListenTcp("127.0.0.1", 4500),)
    pool: Pool = field(default_factory=Pool)
    limits: Limits = field(default_factory=Limits)
    security: Security = field(default_factory=Security)
    authentication: Authentication = field(default_factory=Authentication)
    tls: Tls = field(default_factory=Tls)
    tracing: Tracing = field(default_factory=Tracing)
    logging: Logging = field(default_factory=Logging)
    fleet: Fleet = field(default_factory=Fleet)
    drain_timeout_s: float = 0.0
    console: bool = True

    def __post_init__(self) -> None:
        check_seconds("drain_timeout_s", self.drain_timeout_s, zero=True)
        if not self.listen:
            raise ConfigurationError("nowhere to listen: give at least one --listen URL")
        fixed = [where for where in self.listen if getattr(where, "port", None) != 0]
        for index, where in enumerate(fixed):
            if where in fixed[:index]:
                raise ConfigurationError(f"--listen {where.url} is given twice: leave one out")
        if self.fleet.advertise_url is not None and (
            self.pool.sessions is not Sessions.SHARED
            or self.pool.delivery is not Delivery.SUBSCRIBERS
        ):
            raise ConfigurationError(
                "--advertise-url goes with --sessions shared and --delivery subscribers: leave those out"
            )
        self._refuse_strangers()

    @property
    def allow_hosts(self) -> tuple[str, ...]:
        """Names under which we may be addressed: what was given, and what other hosts are told."""
        advertised = parse_ws_url(self.fleet.advertise_url or "")
        return (*self.security.allow_hosts, *(() if advertised is None else (str(advertised),)))

    def _refuse_strangers(self) -> None:
        """Listening to the world by accident, and tokens that everybody on the way can read."""
        authenticates = self.authentication.mode is not None or self.tls.client_ca is not None
        for where in self.listen:
            if not isinstance(where, ListenTcp):
                continue
            if where.tls and not self.tls.on:
                raise ConfigurationError(
                    f"--listen {where.url}: add --tls-cert and --tls-key, or write ws://"
                )
            if where.loopback or self.security.insecure_behind_proxy:
                continue
            if not authenticates:
                raise ConfigurationError(
                    f"--listen {where.url} lets other machines in without authentication: "
                    "use 127.0.0.1, or --ws-auth and --tls-cert, "
                    "or --insecure-behind-proxy when something in front checks who comes"
                )
            if not self.tls.on:
                raise ConfigurationError(
                    f"--listen {where.url} takes tokens from other machines in plain text: "
                    "add --tls-cert and --tls-key, "
                    "or --insecure-behind-proxy when something in front speaks TLS"
                )


def _check_origin(origin: str) -> None:
    match = _ORIGIN.fullmatch(origin)
    authority = None if match is None else parse_authority(match[2])
    usual = (
        match is not None
        and authority is not None
        and str(authority) == match[2]
        and (match[1], authority.port) not in {("http", 80), ("https", 443)}
    )
    if not usual:
        raise ConfigurationError(
            f"--allow-origin {origin[:200]!r}: write it as the browser does, "
            "scheme://host or scheme://host:port, lower case, no path, no default port"
        )


def _is_http_url(text: str) -> bool:
    match = _HTTP_URL.fullmatch(text)
    return match is not None and parse_authority(match[1]) is not None
