"""Request and response headers, by hand: they are decoded for every request.

Request header v1 is key, version, correlation id, client id; v2, for the flexible versions of an API, has tagged fields behind it. The client id
always has a length of two bytes. The response to ApiVersions always has header v0 (no tagged fields), so that a client can read it before it knows
what the broker speaks (KIP-511).
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import Final

from broker.protocol.api_keys import APIS, NEVER_FLEXIBLE, ApiKey
from broker.protocol.errors import ProtocolError, bad_length, malformed
from broker.protocol.primitives import Buffer, skip_tagged_fields

RequestHeader = tuple[int, int, int, str | None, int]

_KEYS: Final = max(APIS) + 1
_FIRST_FLEXIBLE: Final = tuple(APIS[key].first_flexible_version if key in APIS else NEVER_FLEXIBLE for key in range(_KEYS))
_LAST_VERSION: Final = tuple(APIS[key].last_version if key in APIS else -1 for key in range(_KEYS))
_API_VERSIONS: Final = int(ApiKey.API_VERSIONS)

# Key, version, correlation id and the client id's length.
_fixed_part = Struct(">hhih").unpack_from
_FIXED_SIZE: Final = 10
_without_client_id = Struct(">hhi").unpack_from
# One reader for each usual length of a client id: takes the bytes out in one call, and refuses when they are not all there.
_client_ids = tuple(Struct(f"{length}s").unpack_from for length in range(65))

_pack_v0 = Struct(">i").pack
_pack_v1 = Struct(">ix").pack


def decode_request_header(view: Buffer) -> RequestHeader:
    """(api key, version, correlation id, client id or None, position of the body) of the request frame `view`, which has no length in front.

    A key or version that the schemas do not have is no error: what follows the correlation id is then read as far as it makes sense, so that the
    caller can answer under the right correlation id. ProtocolError when a known version's header is malformed, or no correlation id is there.
    """
    try:
        key, version, correlation_id, length = _fixed_part(view)
        if not (0 <= key < _KEYS and 0 <= version <= _LAST_VERSION[key]):
            return _decode_unknown(view, key, version, correlation_id, length)
        client_id: str | None
        if 0 <= length <= 64:
            client_id = _client_ids[length](view, 10)[0].decode()
            position = 10 + length
        elif length > 0:
            client_id = Struct(f"{length}s").unpack_from(view, 10)[0].decode()
            position = 10 + length
        elif length == -1:
            client_id = None
            position = 10
        else:
            raise bad_length("RequestHeader.client_id", 10, length)
        if version >= _FIRST_FLEXIBLE[key]:
            position = position + 1 if view[position] == 0 else skip_tagged_fields(view, position, len(view))
        return key, version, correlation_id, client_id, position
    except (struct.error, IndexError, UnicodeDecodeError) as fault:
        size = len(view)
        if 8 <= size < _FIXED_SIZE:
            return _decode_short(view)
        raise malformed("RequestHeader", 1, size, fault) from fault


def _decode_short(view: Buffer) -> RequestHeader:
    """A frame that ends before the client id, as header v0 did: an error for a known version, but its correlation id can be answered otherwise."""
    key, version, correlation_id = _without_client_id(view)
    if 0 <= key < _KEYS and 0 <= version <= _LAST_VERSION[key]:
        raise ProtocolError(f"RequestHeader: truncated, the frame ends after {len(view)} bytes, before the client id")
    return key, version, correlation_id, None, len(view)


def _decode_unknown(view: Buffer, key: int, version: int, correlation_id: int, length: int) -> RequestHeader:
    size = len(view)
    if not 0 <= length <= size - _FIXED_SIZE:
        return key, version, correlation_id, None, _FIXED_SIZE
    position = _FIXED_SIZE + length
    client_id = str(view[_FIXED_SIZE:position], "utf-8", "replace")
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
