"""The identity of a data directory: `node.json`, which says whose data this is. Written beside, fsynced and renamed, and never changed in place.

States: `joining` (the directory has an id, the node belongs to no cluster yet) → `joined` (the cluster took it in) or `creating` (it makes the cluster
`cluster_id`); in both its `__meta` may not be on disk yet. Then `member`, for good: from now on a file that is missing is damage, and never made anew.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from wal.errors import DataDirectoryError

IDENTITY_FILE = "node.json"
FORMAT_VERSION = 1

State = Literal["joining", "joined", "creating", "member"]


class Identity(msgspec.Struct, frozen=True):
    """`directory_id` is random, made with the directory; `generation` is the upper half of the node's replica ids (-1 while joining)."""

    format_version: int
    state: State
    node_id: int
    directory_id: str
    cluster_id: str = ""
    generation: int = -1


class IdentityFiles(Protocol):
    """What is needed of a file system."""

    def read(self, path: str) -> bytes | None:
        """The whole file; None when it does not exist."""

    def write_atomically(self, path: str, data: bytes) -> None:
        """Write beside, fsync, rename, fsync the directory."""


_decoder = msgspec.json.Decoder(Identity)


def new_identity(node_id: int, directory_id: str) -> Identity:
    """For an empty data directory."""
    return Identity(FORMAT_VERSION, "joining", node_id, directory_id)


def as_member(identity: Identity) -> Identity:
    """The last step of a bootstrap: to be saved once `__meta` is on disk, and before anything of it is sent."""
    return msgspec.structs.replace(identity, state="member")


class IdentityStore:
    """Reads and writes the identity of the data directory `directory`. Blocks: for the start only."""

    __slots__ = ("_files", "_path")

    def __init__(self, files: IdentityFiles, directory: str) -> None:
        self._files = files
        self._path = f"{directory}/{IDENTITY_FILE}"

    def load(self) -> Identity | None:
        """None when there is none. Raises DataDirectoryError when it can not be understood: the node must not start on a guess."""
        data = self._files.read(self._path)
        if data is None:
            return None
        try:
            identity = _decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise DataDirectoryError(
                f"{self._path} is damaged ({error}); restore it from a copy, "
                "or remove this node from the cluster and start it with an empty data directory"
            ) from error
        if identity.format_version != FORMAT_VERSION:
            raise DataDirectoryError(
                f"{self._path} has format version {identity.format_version}, known is {FORMAT_VERSION}: start the version that wrote it"
            )
        return identity

    def save(self, identity: Identity) -> None:
        """Durable when it returns."""
        self._files.write_atomically(self._path, msgspec.json.format(msgspec.json.encode(identity), indent=2) + b"\n")
