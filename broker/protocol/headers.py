"""Request and response headers, by hand: they are decoded for every request.

Request header v1 is key, version, correlation id, client id; v2, for the flexible versions of an API, has tagged fields behind it. The client id always has a length of
two bytes. The response to ApiVersions always has header v0 (no tagged fields), so that a client can read it before it knows what the broker speaks (KIP-511).
"""

from __future__ import annotations

from struct import Struct, error
from typing import Final

from broker.protocol.api_keys import APIS, NEVER_FLEXIBLE, ApiKey
from broker.protocol.errors import ProtocolError, bad_length, malformed, truncated
from broker.protocol.primitives import Buffer, skip_tagged_fields

RequestHeader = tuple[int, int, int, str | None, int]

# One row more than there are keys, so that an unknown key can be looked up as -1.
_FIRST_FLEXIBLE: Final = [APIS[key].first_flexible_version if key in APIS else NEVER_FLEXIBLE for key in range(max(APIS) + 1)]
_LAST_VERSION: Final = [APIS[key].last_version if key in APIS else -1 for key in range(max(APIS) + 1)]
_KEYS: Final = len(_FIRST_FLEXIBLE)
_API_VERSIONS: Final = int(ApiKey.API_VERSIONS)

_unpack = Struct(">hhih").unpack_from
_pack_v0 = Struct(">i").pack
_pack_v1 = Struct(">ix").pack
FIXED_SIZE: Final = 10


def decode_request_header(view: Buffer) -> RequestHeader:
    """(api key, version, correlation id, client id or None, position of the body) of the request frame `view` (without its length).

    A key or version that the schemas do not know is no error: what follows the correlation id is then read as far as it makes sense, so that the caller can
    still answer under the right correlation id. ProtocolError when the frame of a known version is malformed, or when even the correlation id is missing.
    """
    try:
        key, version, correlation_id, length = _unpack(view, 0)
        if not (0 <= key < _KEYS and 0 <= version <= _LAST_VERSION[key]):
            return _decode_unknown(view, key, version, correlation_id, length)
        if length > 0:
            position = 10 + length
            if position > len(view):
                raise truncated("RequestHeader.client_id", 10, length, len(view) - 10)
            client_id = str(view[10:position], "utf-8")
        elif length == 0:
            client_id = ""
            position = 10
        elif length == -1:
            client_id = None
            position = 10
        else:
            raise bad_length("RequestHeader.client_id", 10, length)
        if version >= _FIRST_FLEXIBLE[key]:
            position = position + 1 if view[position] == 0 else skip_tagged_fields(view, position, len(view))
        return key, version, correlation_id, client_id, position
    except (error, IndexError, UnicodeDecodeError) as fault:
        if len(view) >= 8 and len(view) < FIXED_SIZE:
            return _without_client_id(view)
        raise malformed("RequestHeader", 1, len(view), fault) from fault


_unpack_short = Struct(">hhi").unpack_from


def _without_client_id(view: Buffer) -> RequestHeader:
    """Header v0, without a client id, has its eight bytes only: no key that is served uses it, but its correlation id can be answered."""
    key, version, correlation_id = _unpack_short(view, 0)
    if 0 <= key < _KEYS and 0 <= version <= _LAST_VERSION[key]:
        raise truncated("RequestHeader.client_id", 8, 2, len(view) - 8)
    return key, version, correlation_id, None, len(view)


def _decode_unknown(view: Buffer, key: int, version: int, correlation_id: int, length: int) -> RequestHeader:
    size = len(view)
    if not 0 <= length <= size - FIXED_SIZE:
        return key, version, correlation_id, None, FIXED_SIZE
    position = FIXED_SIZE + length
    client_id = str(view[FIXED_SIZE:position], "utf-8", "replace")
    if 0 <= key < _KEYS and version >= _FIRST_FLEXIBLE[key]:
        try:
            position = skip_tagged_fields(view, position, size)
        except (ProtocolError, IndexError):
            position = size
    return key, version, correlation_id, client_id, position


def response_header(api_key: int, version: int, correlation_id: int) -> bytes:
    """The response's header: v1 (with an empty tag section) for flexible versions, v0 otherwise and always for ApiVersions."""
    if api_key != _API_VERSIONS and 0 <= api_key < _KEYS and version >= _FIRST_FLEXIBLE[api_key]:
        return _pack_v1(correlation_id)
    return _pack_v0(correlation_id)
