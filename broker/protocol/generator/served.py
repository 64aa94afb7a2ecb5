"""SERVED: API key → first and last version for which a codec is generated. One line makes a further key available.

Kafka 4.3's ranges. What is *advertised* stands beside the handlers; a version must be here before it can be advertised.
"""

from __future__ import annotations

from typing import Final

SERVED: Final[dict[int, tuple[int, int]]] = {
    0: (3, 13),  # Produce
    1: (4, 18),  # Fetch
    2: (1, 11),  # ListOffsets
    3: (0, 13),  # Metadata
    18: (0, 4),  # ApiVersions
    19: (2, 7),  # CreateTopics
    20: (1, 6),  # DeleteTopics
    22: (0, 6),  # InitProducerId
    23: (2, 4),  # OffsetForLeaderEpoch
    32: (1, 4),  # DescribeConfigs
    37: (0, 3),  # CreatePartitions
    60: (0, 2),  # DescribeCluster
}
