"""Recorded streams, mutated: any member or event dropped, retyped, repeated, moved, cut. Pure."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

STREAMS = Path(__file__).parent / "streams"

# Values that hold no text, and values that do: what stands in a field then is what is said.
NO_TEXTS: tuple[object, ...] = (
    None,
    True,
    False,
    0,
    -1,
    7,
    1.5,
    1e300,
    10**30,
    "",
    [],
    {},
    [None],
    [[]],
    {"x": None},
    [{"text": 5}],
)
TEXTS: tuple[object, ...] = (
    "x",
    "\ud83d",
    "\ude80\ud83d",
    "\u0000",
    "completed",
    "message",
    "0",
    ["x", 5],
    {"text": "x"},
    [{"type": "output_text", "text": "x"}],
    {"error": "x"},
)

OPERATIONS = (
    "drop_event",
    "repeat_event",
    "move_event",
    "drop_member",
    "no_text",
    "text",
    "repeat_element",
    "reorder",
    "junk_frame",
)


class Mutation(NamedTuple):
    """One change; the numbers choose where, modulo how many places there are."""

    operation: str
    event: int
    place: int
    value: int


class Frame(NamedTuple):
    """An event of a stream: its lines before the data, and the data, decoded if it is JSON."""

    head: str
    data: object
    is_json: bool


class Touched(NamedTuple):
    """What a mutation changed."""

    operation: str
    member: str = ""
    before: object = None
    after: object = None


def frames_of(path: Path) -> list[Frame]:
    """Read a stream of one data line an event."""
    frames: list[Frame] = []
    head: list[str] = []
    for line in path.read_bytes().decode("utf-8-sig").split("\n"):
        text = line.rstrip("\r")
        if text.startswith("data:"):
            data = text.removeprefix("data:").strip()
            is_json = data.startswith("{")
            frames.append(Frame("\n".join(head), json.loads(data) if is_json else data, is_json))
            head = []
        elif text:
            head.append(text)
    return frames


def encoded(frames: list[Frame]) -> bytes:
    """Return the stream as it goes over the wire."""
    blocks = []
    for head, data, is_json in frames:
        text = json.dumps(data) if is_json else str(data)
        blocks.append("".join([head, "\n" if head else "", f"data: {text}\n\n"]))
    return "".join(blocks).encode("utf-8")


def mutated(frames: list[Frame], mutations: list[Mutation]) -> tuple[list[Frame], list[Touched]]:
    """Apply the mutations in turn."""
    frames = copy.deepcopy(frames)
    return frames, [_mutate(frames, mutation) for mutation in mutations if frames]


def _mutate(frames: list[Frame], mutation: Mutation) -> Touched:
    at = mutation.event % len(frames)
    match mutation.operation:
        case "drop_event":
            frames.pop(at)
        case "repeat_event":
            there = at + mutation.place % (len(frames) - at) + 1
            frames.insert(there, copy.deepcopy(frames[at]))
        case "move_event":
            frames.insert(mutation.place % len(frames), frames.pop(at))
        case "junk_frame":
            junk = ('{"broken', "ping", "", "5", "null", "[]", '"x"', "{}", "\u00ff{")
            frames.insert(at, Frame("", junk[mutation.value % len(junk)], is_json=False))
        case _ if frames[at].is_json:
            return _mutate_member(frames[at].data, mutation)
        case _:
            return Touched("nothing")
    return Touched(mutation.operation)


def _mutate_member(event: object, mutation: Mutation) -> Touched:
    places = list(_places(event))
    if not places:
        return Touched("nothing")
    container, key = places[mutation.place % len(places)]
    before = container[key]
    match mutation.operation:
        case "drop_member":
            container.pop(key)
            return Touched("no_text", str(key), before)
        case "no_text" | "text":
            values = NO_TEXTS if mutation.operation == "no_text" else TEXTS
            container[key] = value = copy.deepcopy(values[mutation.value % len(values)])
            return Touched(mutation.operation, str(key), before, value)
        case "repeat_element" if isinstance(before, list) and before:
            before.append(copy.deepcopy(before[mutation.value % len(before)]))
        case "reorder" if isinstance(before, list):
            before.reverse()
        case "reorder" if isinstance(before, dict):
            for name in list(before)[::-1]:
                before[name] = before.pop(name)
        case _:
            return Touched("nothing")
    return Touched(mutation.operation, str(key))


def _places(value: object) -> Iterator[tuple[Any, Any]]:
    """All places of a value: what holds it, and under which key or index."""
    if isinstance(value, dict):
        for key in list(value):
            yield value, key
            yield from _places(value[key])
    elif isinstance(value, list):
        for index in range(len(value)):
            yield value, index
            yield from _places(value[index])
