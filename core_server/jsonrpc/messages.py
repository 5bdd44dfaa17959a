"""One JSON-RPC message, seen from outside: the envelope decoded, its values raw.

Values stay `msgspec.Raw`, slices of the received bytes, because nobody who only
routes a message needs more. What the method means by `params` is not known here.
"""

from enum import Enum

import msgspec
from msgspec import UNSET, Raw, UnsetType


class Kind(Enum):
    """What a message is, by the members it has (JSON-RPC 2.0 sections 4 and 5)."""

    REQUEST = "request"
    NOTIFICATION = "notification"
    RESPONSE = "response"


class Message(msgspec.Struct, gc=False):
    """The members of a request, notification or response; absent ones are UNSET.

    Unknown members are ignored, as the reference server does.
    """

    id: Raw | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    trace: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    jsonrpc: Raw | UnsetType = UNSET

    @property
    def kind(self) -> Kind:
        """Request, notification or response; `codec.decode` made sure it is one."""
        if self.method is UNSET:
            return Kind.RESPONSE
        return Kind.NOTIFICATION if self.id is UNSET else Kind.REQUEST
