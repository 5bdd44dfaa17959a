"""Messages of every structure, as large as wanted: what a message may cost is its bytes.

    shaped("brackets", 15 * MIB, request_id=7)

All are requests that `core_server.jsonrpc.codec` has to look at from end to end; some it
refuses. To add one, enter in `SHAPES` what is repeated and where it stands.
"""

from typing import Final, NamedTuple


class Shape(NamedTuple):
    """A message: its beginning, what is repeated, its end.

    Attributes:
        head: With `ID` where the request's id is.
        piece: Repeated; `#` is its number.
        tail: The same for the end.
    """

    head: str
    piece: str
    tail: str


_PARAMS: Final = '{"id":ID,"method":"model/list","params":'
_NESTED: Final = '{"a":[' * 60 + "1" + "]}" * 60

SHAPES: Final[dict[str, Shape]] = {
    "text": Shape(_PARAMS + '{"text":"', "x", '"}}'),
    "members": Shape(_PARAMS + "{", '"k#":1,', '"z":1}}'),
    "outer members": Shape('{"id":ID,"method":"model/list",', '"k#":1,', '"z":1}'),
    "objects": Shape(_PARAMS + "[", "{},", "1]}"),
    "objects in an unknown member": Shape('{"id":ID,"method":"model/list","x":[', "{},", "1]}"),
    "deep": Shape(_PARAMS + "[", _NESTED + ",", "1]}"),
    "deep in an unknown member": Shape(
        '{"id":ID,"method":"m","x":[', "[" * 120 + "]" * 120 + ",", "1]}"
    ),
    "pairs of brackets": Shape(_PARAMS + "[", "[[],[[],[]],[[[]]]],", "1]}"),
    "hills": Shape(_PARAMS + "[", "[[[[[[[[[]]]]]]]]],[[]],", "1]}"),
    "brackets in texts": Shape(_PARAMS + "[", '"[","]{",', "1]}"),
    "small keys": Shape(_PARAMS + "[", '{"a":{"b":0}},', "1]}"),
    "equal keys": Shape(_PARAMS + "{", '"a":0,', '"a":1}}'),
    "escapes": Shape(_PARAMS + '{"text":"', '\\"\\\\[\\u00e4', '"}}'),
    "escaped keys": Shape(_PARAMS + "{", '"\\u0061\\"#":[],', '"z":1}}'),
    "numbers": Shape(_PARAMS + "[", "-1.5e-7,12345678901,", "1]}"),
    "long numbers": Shape(_PARAMS + "[", "1" * 300 + ",", "1]}"),
    "literals": Shape(_PARAMS + "[", "null,true,", "1]}"),
    "other scripts": Shape(_PARAMS + '{"text":"', "\u00e4\u20ac\U0001f600", '"}}'),
    "late id": Shape('{"method":"model/list","params":[', "{},", '1],"id":ID}'),
    "duplicate at the end": Shape(_PARAMS + "[", "{},", '1],"params":1}'),
    "duplicate of an unknown member": Shape(
        '{"id":ID,"method":"model/list","x":[', "{},", '1],"x":1}'
    ),
    "blanks": Shape(_PARAMS + "[", "   1 \t , ", "1]}"),
    "blanks outside": Shape('{"id":ID,', " \t ", '"method":"model/list"}'),
    "result": Shape('{"id":ID,"result":[', "{},", "1]}"),
}


def shaped(name: str, size: int, request_id: int = 1) -> str:
    """A message of this shape of nearly so many bytes."""
    shape = SHAPES[name]
    head, tail = (each.replace("ID", str(request_id)) for each in (shape.head, shape.tail))
    room = size - len(head) - len(tail)
    if "#" not in shape.piece:
        return head + shape.piece * (room // len(shape.piece.encode())) + tail
    count = room // (len(shape.piece) + len(str(room // len(shape.piece))) - 1)
    return head + "".join(shape.piece.replace("#", str(each)) for each in range(count)) + tail
