"""One request's params: decoded into their type, with errors that name the field."""

import re
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from core_server.errors import invalid_params
from core_server.protocol.methods import Method
from core_server.session.gate import needs_experimental

_MISSING = re.compile(r"Object missing required field (`[^`]+`)(?: - at `\$\.?(.*)`)?")
_AT = re.compile(r"(.*) - at `\$\.?(.+)`", re.DOTALL)

_ANY: Final = msgspec.json.Decoder(dict[str, object])


class ParamsReader:
    """Reads the params of one method."""

    def __init__(self, name: str, method: Method) -> None:
        self._name = name
        self._method = method
        self._decoder = None if method.params is None else msgspec.json.Decoder(method.params)

    def read(self, raw: Raw | UnsetType) -> msgspec.Struct | None:
        """Decode.

        Raises:
            WireError: -32602 that names the field.
        """
        given = b"null" if raw is UNSET else bytes(raw)
        if self._decoder is None:
            if given == b"null" or given.strip(b"{ \t\r\n}") == b"":
                return None
            raise invalid_params(f"{self._name} takes none")
        if given == b"null":
            raise invalid_params("missing field `params`")
        try:
            params = self._decoder.decode(given)
        except msgspec.ValidationError as error:
            raise invalid_params(_explain(str(error))) from None
        except RecursionError:  # pragma: no cover - the codec bounds the depth
            raise invalid_params("nested too deep") from None
        assert isinstance(params, msgspec.Struct)
        return params

    def check_experimental(self, raw: Raw | UnsetType) -> None:
        """Refuse members of the experimental surface.

        Raises:
            WireError: names the first one.
        """
        fields = self._method.experimental_fields
        if not fields or raw is UNSET:
            return
        for name, value in _ANY.decode(raw).items():
            if name in fields and value is not None and value is not False:
                raise needs_experimental(f"{self._name}.{name}")


def _explain(why: str) -> str:
    if missing := _MISSING.fullmatch(why):
        return f"missing field {missing[1]}" + (f" in `{missing[2]}`" if missing[2] else "")
    if at := _AT.fullmatch(why):
        return f"`{at[2]}`: {at[1][:1].lower()}{at[1][1:]}"
    return why[:1].lower() + why[1:]
