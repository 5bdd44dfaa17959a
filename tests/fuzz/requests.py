"""Requests as a client could send them, and as none should: made from the method table.

Structure-aware: params of a method's own type, with ids that are known, then spoilt in a
few places. All comes from one `Random`, so a number is a request, and again the same one.
"""

import json
from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec
from msgspec import inspect

from core_server.protocol.methods import METHODS, REFUSED, SAYS_NOTHING

Value = Any

ODD_TEXTS = (
    "",
    "\0",
    "a\0b",
    "/",
    "..",
    "../../etc",
    "/proc/self/mem",
    "/nonexistent/\0",
    "\U0001f600",
    "\ufeff",
    "\u2028",
    "%s%n",
    "-1",
    "null",
    "x" * 300,
    "/" * 5000,
    "é" * 3000,
    "\x1b[31m",
    "'; DROP TABLE threads; --",
)
ODD_NUMBERS = (
    *(-1, 0, 1, 2, 255, 65535, 65536, 2**31, -(2**31), 2**32 - 1, 2**32, 2**53 + 1),
    *(2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**20, 10**40, 10**400),
    *(0.5, -0.0, 1e308, 1e-320),
)
ODD_VALUES: tuple[Value, ...] = (None, True, False, [], {}, [[]], {"": None}, [None], "x", 7)
# What a line can be that is no request with an id.
BROKEN_LINES = (
    b"{",
    b"null",
    b"[]",
    b'[{"id":1,"method":"model/list"}]',
    b"\xff\xfe",
    b'{"id":{},"method":"model/list"}',
    b'{"id":1.5,"method":"model/list"}',
    b'{"id":null,"method":"model/list"}',
    b'{"method":"model/list","id":NaN}',
    b"{" * 300,
    b'{"id":' + b"9" * 400 + b',"method":"model/list"}',
    b'"\\ud800"',
    b"\xef\xbb\xbf{}",
)
DIRECTIVES = (
    "hello",
    "/think of it",
    "/tokens 3",
    "/slow 0.01",
    "/write f{n}.txt text",
    "/write ../out.txt no",
    "/write a\0b text",
    "/fail no",
    "/help",
    "/run",
    "/run true",
    "/tokens 99999999999",
    "/slow -1",
    "/slow 1e400",
)
COMMANDS = (
    *(
        ("true",),
        ("echo", "x"),
        ("false",),
        ("head", "-c", "100000", "/dev/zero"),
        ("stty", "size"),
    ),
    *(("cat",), ("nonexistent",), ("/",), ("",), (), ("a\0b",), ("echo", "a\0b"), ("x" * 5000,)),
)
_TEXT_FIELDS: dict[str, tuple[str, ...]] = {
    "cwd": ("/", "", ".", "sub", "/nonexistent", "/tmp", "a\0b", "/etc/passwd"),  # noqa: S108 - only named
    "path": ("/", "f1.txt", "/nonexistent", "a\0b"),
    "process_id": ("p1", "p2", "p3", "", "a\0b"),
    "delta_base64": ("", "aGk=", "!", "aGk", "AAAA" * 1000),
}


class Known:
    """What a client has learnt: ids that make a request mean something."""

    def __init__(self) -> None:
        self.threads: list[str] = ["00000000-0000-7000-8000-000000000000"]
        self.turns: list[str] = ["00000000-0000-7000-8000-000000000001"]
        self.revisions: list[str] = ["r"]

    def learn(self, result: Value) -> None:
        """Take the ids out of an answer; the newest twenty are kept."""
        if not isinstance(result, dict):
            return
        marked = result.get("readState")
        if isinstance(marked, dict):
            self.revisions = [marked["revision"]]
        for name, ids in (("thread", self.threads), ("turn", self.turns)):
            made = result.get(name)
            if isinstance(made, dict) and made.get("id") not in ids:
                ids.append(made["id"])
                del ids[1:-20]


class Requests:
    """Makes requests.

    Args:
        seed: The same gives the same requests, as long as the same is known.
        known: Read at each request.
        commands: Share of requests that may start a process; each costs 50 ms.
    """

    def __init__(self, seed: int, known: Known, *, commands: float) -> None:
        self._random = Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._known = known
        self._commands = commands

    def next(self) -> tuple[str, Value]:
        """A method and its params."""
        random = self._random
        if random.random() < self._commands:
            method = random.choice(("command/exec", "thread/shellCommand"))
        else:
            method = random.choice(_QUIET)
        if random.random() < 0.01:
            odd = ("", "x", method + "/", method.upper(), "a" * 5000, "\0")
            method = random.choice((*odd, *REFUSED, *SAYS_NOTHING))
        known = METHODS.get(method)
        kind = known.params if known else None
        params = {} if kind is None else self._made(inspect.type_info(kind), "")
        for _ in range(random.choice((0, 0, 0, 0, 0, 1, 1, 3))):
            params = self._spoilt(params)
        return method, params

    def line(self, request_id: int) -> tuple[bytes, bool]:
        """A line, and whether its id can be read."""
        random = self._random
        if random.random() < 0.01:
            return random.choice(BROKEN_LINES), False
        method, params = self.next()
        message: dict[str, Value] = {"id": request_id, "method": method}
        if params is not None or random.random() < 0.5:
            message["params"] = params
        if random.random() < 0.05:
            message["trace"] = random.choice(ODD_VALUES)
        return json.dumps(message, ensure_ascii=random.random() < 0.5).encode(), True

    def _made(self, kind: inspect.Type, name: str) -> Value:
        """A value of a type, for the field of this name."""
        random = self._random
        match kind:
            case inspect.Metadata(type=inner):
                return self._made(inner, name)
            case inspect.UnionType(types):
                return self._made(random.choice(list(types)), name)
            case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
                if name == "command":
                    return list(random.choice(COMMANDS))
                return [self._made(item, name) for _ in range(random.choice((0, 1, 1, 3)))]
            case inspect.DictType(key_type=key, value_type=value):
                keys = [str(self._made(key, "")) for _ in range(random.choice((0, 1, 3)))]
                return {each: self._made(value, "") for each in keys}
            case _:
                return self._plain(kind, name)

    def _plain(self, kind: inspect.Type, name: str) -> Value:
        random = self._random
        match kind:
            case inspect.StrType():
                return self._text(name)
            case inspect.IntType() | inspect.FloatType():
                return random.choice((1, 5, 20, 80, 1000, random.choice(ODD_NUMBERS)))
            case inspect.BoolType():
                return random.random() < 0.5
            case inspect.LiteralType(values):
                return random.choice(list(values))
            case inspect.StructType():
                return self._object(kind)
            case _:
                return random.choice(ODD_VALUES)

    def _object(self, kind: inspect.StructType) -> dict[str, Value]:
        made: dict[str, Value] = {}
        if kind.tag_field is not None:
            made[kind.tag_field] = kind.tag
        for field in kind.fields:
            if self._random.random() < (0.98 if field.required else 0.3):
                made[field.encode_name] = self._made(field.type, field.name)
        return made

    def _text(self, name: str) -> str:
        random, known = self._random, self._known
        if random.random() < 0.05:
            return random.choice(ODD_TEXTS)
        match name:
            case "thread_id" | "id":
                texts: Sequence[str] = known.threads
            case _ if name.endswith("turn_id"):
                texts = known.turns
            case "expected_revision":
                texts = known.revisions
            case "text" | "prompt":
                texts = [each.replace("{n}", str(random.randrange(5))) for each in DIRECTIVES]
            case "command":
                texts = ("true", "echo x", "exit 3", "", "a\0b", "nonexistent")
            case _:
                texts = _TEXT_FIELDS.get(name, ("a", "b", random.choice(ODD_TEXTS)))
        return random.choice(texts)

    def _spoilt(self, value: Value) -> Value:
        """The value with one place of it replaced, taken away, doubled or made deep."""
        random = self._random
        if isinstance(value, dict) and value and random.random() < 0.8:
            name = random.choice(list(value))
            changed = dict(value)
            match random.randrange(5):
                case 0:
                    del changed[name]
                case 1:
                    changed[random.choice((*ODD_TEXTS, "threadId", "cwd", "history"))] = (
                        self._odd()
                    )
                case _:
                    changed[name] = self._spoilt(changed[name])
            return changed
        if isinstance(value, list) and value and random.random() < 0.8:
            place = random.randrange(len(value))
            return [*value[:place], self._spoilt(value[place]), *value[place:]]
        return self._odd()

    def _odd(self) -> Value:
        random = self._random
        match random.randrange(4):
            case 0:
                return random.choice(ODD_TEXTS)
            case 1:
                return random.choice(ODD_NUMBERS)
            case 2:
                deep: Value = random.choice(ODD_VALUES)
                for _ in range(random.choice((1, 30, 70))):
                    deep = [deep] if random.random() < 0.5 else {"a": deep}
                return deep
            case _:
                return random.choice(ODD_VALUES)


# What the others need is asked more often than what is only looked up.
_QUIET = [
    *(name for name in METHODS if name not in {"command/exec", "thread/shellCommand"}),
    *["turn/start", "thread/start", "thread/resume"] * 3,
    *["thread/archive", "thread/unarchive", "thread/fork"],
]


def answer(random: Random, request_id: Value) -> bytes:
    """What a client says to a question: mostly a decision, now and then nonsense."""
    result: Value = {
        "decision": random.choice(("accept", "decline", "cancel", "acceptForSession"))
    }
    message: dict[str, Value] = {"id": request_id, "result": result}
    match random.randrange(12):
        case 0:
            message["result"] = random.choice(ODD_VALUES)
        case 1:
            message = {"id": request_id, "error": random.choice((*ODD_VALUES, {"code": 1}))}
        case 2:
            message["error"] = {"code": -1, "message": "both"}
        case _:
            pass
    return msgspec.json.encode(message)
