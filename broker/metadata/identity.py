"""The identity of a data directory: `node.json`, which says whose data this is. Written beside, fsynced and renamed, never changed in place.

States: `joining` (the directory has an id, the node belongs to no cluster yet), then `joined` (a cluster took it in) or `creating` (it makes the
cluster `cluster_id`): in both its `__meta` may not be on disk yet. Then `member`, for good: a file that is missing is damage and is never made anew.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import msgspec

from wal.errors import DataDirectoryError
from wal.filesystem import FileSystem, write_durably

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


_decoder = msgspec.json.Decoder(Identity)


def new_identity(node_id: int, directory_id: str) -> Identity:
    """For an empty data directory."""
    return Identity(FORMAT_VERSION, "joining", node_id, directory_id)


def as_member(identity: Identity) -> Identity:
    """The last step of a bootstrap: to be saved once `__meta` is on disk, and before anything of it is sent."""
    return msgspec.structs.replace(identity, state="member")


class IdentityStore:
    """Reads and writes the identity of the data directory `directory`. Blocks: for the start only."""

    __slots__ = ("_fs", "_path")

    def __init__(self, fs: FileSystem, directory: str) -> None:
        self._fs = fs
        self._path = f"{directory}/{IDENTITY_FILE}"

    def load(self) -> Identity | None:
        """None when there is none. Raises DataDirectoryError when it can not be understood: the node must not start on a guess."""
        if not self._fs.exists(self._path):
            return None
        file = self._fs.open(self._path)
        try:
            data = file.pread(file.size(), 0)
        finally:
            file.close()
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

    def data_exists(self, ignored: Collection[str] = ()) -> bool:
        """Whether the directory holds more than the identity; `ignored` are names that mean nothing (a lock file)."""
        names = self._fs.list(self._path.rpartition("/")[0])
        return any(name not in ignored and not name.startswith(IDENTITY_FILE) for name in names)

    def save(self, identity: Identity) -> None:
        """Durable when it returns."""
        write_durably(self._fs, self._path, msgspec.json.format(msgspec.json.encode(identity), indent=2) + b"\n")
