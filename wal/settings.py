"""Sizes and limits of the log. Everything may be tiny, so that a simulation makes laps, rolls and checkpoints all the time."""

from __future__ import annotations

from dataclasses import dataclass

from wal.errors import check

BLOCK_BYTES = 4096
"""Unit of alignment on disk: what O_DIRECT needs on every common device."""

PROFILES = {"low": (500, 5_000_000), "medium": (2_000, 15_000_000), "high": (10_000, 50_000_000), "ultra": (20_000, 100_000_000)}
"""Upper limits of one flush by the name in CHRONIK_WAL_PROFILE: entries, bytes. They are limits, never waits."""


@dataclass(frozen=True, slots=True)
class WalSettings:
    """How large things are.

    `memory_limit_bytes` 0 means half the journal. `segment_piece_bytes` is how much gathers before a group is written behind,
    `segment_piece_bytes_max` how much one piece takes. `cache_bytes` is kept for readers of the tail after entries are in segments. `reserve_bytes`
    of free space are left for votes and deletes.
    """

    journal_file_bytes: int = 32 << 20
    journal_files: int = 4
    segment_bytes: int = 256 << 20
    segment_piece_bytes: int = 256 << 10
    segment_piece_bytes_max: int = 4 << 20
    buffer_bytes: int = 1 << 20
    flush_entries_max: int = 10_000
    flush_bytes_max: int = 50_000_000
    memory_limit_bytes: int = 0
    cache_bytes: int = 32 << 20
    reserve_bytes: int = 64 << 20
    direct: bool = True

    def __post_init__(self) -> None:
        for name in ("journal_file_bytes", "segment_bytes", "segment_piece_bytes", "buffer_bytes"):
            value = getattr(self, name)
            check(value >= BLOCK_BYTES and value % BLOCK_BYTES == 0, f"{name} must be a multiple of {BLOCK_BYTES} bytes, not {value}")
        check(self.journal_files >= 3, f"journal_files must be at least 3, not {self.journal_files}: one is written, one is freed, one gives slack")
        check(self.segment_piece_bytes_max >= self.segment_piece_bytes, "segment_piece_bytes_max must be at least segment_piece_bytes")
        check(self.segment_bytes >= 2 * BLOCK_BYTES, f"segment_bytes must be at least {2 * BLOCK_BYTES}")
        check(self.flush_entries_max > 0 and self.flush_bytes_max > 0, "flush limits must be positive")

    @property
    def journal_bytes(self) -> int:
        """Capacity of the whole journal."""
        return self.journal_file_bytes * self.journal_files

    @property
    def memory_limit(self) -> int:
        """Payload bytes that may wait for their segment before producers slow down."""
        return self.memory_limit_bytes or self.journal_bytes // 2

    @property
    def entry_bytes_max(self) -> int:
        """Largest payload of one entry: it must fit into one flush of one journal file together with its headers and a few control frames."""
        return self.journal_file_bytes - BLOCK_BYTES


def profile_limits(name: str) -> tuple[int, int]:
    """(entries, bytes) of one flush for a profile name; ValueError names the choices."""
    if name not in PROFILES:
        raise ValueError(f"unknown WAL profile {name!r}: use one of {', '.join(PROFILES)}")
    return PROFILES[name]
