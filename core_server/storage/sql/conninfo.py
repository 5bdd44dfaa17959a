"""What a `postgresql://` URL says, and what we say where it is silent.

libpq reads the URL itself, so all that it knows works: several hosts, `sslmode`, sockets.
Apart from `postgres`, since the event loop asks for a store's name and needs no SQLAlchemy.
"""

from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

CONNECT_TIMEOUT_S: Final = 3
"""For one try; libpq takes whole seconds. A lease of 10 s then lasts for three of them."""


def parameters_of(url: str) -> dict[str, str]:
    """What libpq reads in the URL, and our own settings where it says nothing.

    Raises:
        ValueError: libpq cannot read it; one line without the URL's secrets.
    """
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    except psycopg.ProgrammingError as error:
        words = str(error).strip().replace(url, "the URL").partition("\n")[0]
        raise ValueError(f"store {_without_secrets(url)}: {words}") from None
    ours = {
        "application_name": "core-server",
        "connect_timeout": str(CONNECT_TIMEOUT_S),
        "target_session_attrs": "read-write",  # of several hosts the primary
        "client_encoding": "UTF8",
        # A server that is cut off is noticed before a lease ends, also while we wait for it.
        "keepalives_idle": "3",
        "keepalives_interval": "1",
        "keepalives_count": "3",
        "tcp_user_timeout": "6000",
    }
    return {**ours, **given}


def public_name(url: str) -> str:
    """The URL without password and options, for messages."""
    about = parameters_of(url)
    user = f"{about['user']}@" if "user" in about else ""
    port = f":{about['port']}" if "port" in about else ""
    return f"postgresql://{user}{about.get('host', '')}{port}/{about.get('dbname', '')}"


def _without_secrets(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"postgresql://…@{tail}" if at else head or tail
