"""From a URL to a store."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from core_server.storage.memory import MemoryStore
from core_server.storage.opening import open_store


def test_memory_is_a_store_that_forgets() -> None:
    assert isinstance(open_store("memory"), MemoryStore)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///threads.db", "threads.db"),
        ("sqlite:////var/lib/core/threads.db", "/var/lib/core/threads.db"),
        ("sqlite:///~/state/100%/threads.db", "/home/ada/state/100%/threads.db"),
    ],
)
def test_a_sqlite_url_names_a_path(url: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")

    assert repr(open_store(url)) == f"<SqliteStore {Path(path)} closed queued=0>"


def test_a_postgres_url_keeps_its_secrets() -> None:
    pytest.importorskip("psycopg")
    url = "postgresql://ada:secret@one:5433,two/threads?sslmode=require&application_name=x"

    store = open_store(url)

    assert repr(store) == "<PostgresStore postgresql://ada@one,two:5433,/threads closed queued=0>"


def test_without_its_extra_postgresql_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "core_server.storage.sql.conninfo", raising=False)

    with pytest.raises(ValueError, match=r"install psycopg 3, as in trace-proxy\[postgres\]"):
        open_store("postgresql://host/db")


def test_nothing_of_postgresql_is_loaded_for_another_store() -> None:
    script = (
        "import asyncio, sys, tempfile; from core_server.storage.opening import open_store\n"
        "from core_server.storage.base import ThreadQuery\n"
        "async def use(store):\n"
        "    await store.open(); await store.acquire('t')\n"
        "    await store.threads(ThreadQuery(limit=1)); await store.close()\n"
        "for url in ('memory', f'sqlite:///{tempfile.mkdtemp()}/threads.db'):\n"
        "    asyncio.run(use(open_store(url)))\n"
        "words = ('psycopg', 'libpq', 'postgresql', 'storage.sql.postgres', 'sql.conninfo')\n"
        "loaded = [name for name in sys.modules if any(word in name for word in words)]\n"
        "assert not loaded, loaded"
    )

    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        (
            "postgres://ada:secret@host/db",
            "unknown store 'postgres://…@host/db': write sqlite:///PATH, postgresql://USER@HOST",
        ),
        ("sqlite://threads.db", "unknown store 'sqlite://threads.db': write sqlite:///PATH,"),
        ("", "unknown store '': write sqlite:///PATH, postgresql://USER@HOST/DB or memory"),
        (
            "postgresql://ada:secret@host/db?colour=red",
            "store postgresql://…@host/db?colour=red: ",
        ),
        ("sqlite:///", "store 'sqlite:///' names no file: write sqlite:///PATH"),
        ("sqlite:///folder/", "store 'sqlite:///folder/' names no file: write sqlite:///PATH"),
        ("sqlite:///:memory:", "store 'sqlite:///:memory:': for a store in memory write memory"),
        ("sqlite:///x.db?mode=ro", "PATH takes no options, '?' or NUL"),
        ("sqlite:///~nobody-has-this-name/x.db", "store 'sqlite:///~nobody-has-this-name/x.db': "),
    ],
)
def test_any_other_url_is_refused_with_what_to_write(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        open_store(url)


def test_the_event_loop_does_not_pay_for_importing_sqlalchemy() -> None:
    script = (
        "import asyncio, sys, tempfile; from core_server.storage.opening import open_store\n"
        "def loaded(): return [n for n in ('sqlalchemy', 'sqlalchemy.orm') if n in sys.modules]\n"
        "store = open_store(f'sqlite:///{tempfile.mkdtemp()}/threads.db'); first = loaded()\n"
        "asyncio.run(store.open()); assert (first, loaded()) == ([], ['sqlalchemy'])"
    )

    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
