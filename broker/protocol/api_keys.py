"""API keys by number and name, and what the schemas say of each. What is *advertised* is another matter: it stands beside the handlers."""

from __future__ import annotations

from typing import Final, NamedTuple

from broker.protocol._generated.api_table import TABLE, ApiKey

__all__ = ["APIS", "NEVER_FLEXIBLE", "ApiInfo", "ApiKey", "api_name"]

NEVER_FLEXIBLE: Final = 32767


class ApiInfo(NamedTuple):
    """`name` as Kafka writes it; versions as in the schema; `first_flexible_version` may be NEVER_FLEXIBLE (SaslHandshake, OffsetDelete)."""

    name: str
    first_version: int
    last_version: int
    first_flexible_version: int


APIS: Final[dict[int, ApiInfo]] = {key: ApiInfo(*row) for key, row in TABLE.items()}


def api_name(key: int) -> str:
    """Kafka's name of a key, for logs and metrics; `key 123` when there is none."""
    info = APIS.get(key)
    return info.name if info is not None else f"key {key}"
