"""All APIs that are served. What is not in this list is not advertised."""

from __future__ import annotations

from collections.abc import Callable
from secrets import randbelow
from types import ModuleType

from broker.api import Broker
from broker.handlers import (
    add_offsets_to_txn,
    add_partitions_to_txn,
    alter_configs,
    alter_partition_reassignments,
    alter_replica_log_dirs,
    api_versions,
    create_partitions,
    create_topics,
    delete_groups,
    delete_records,
    delete_topics,
    describe_cluster,
    describe_configs,
    describe_groups,
    describe_log_dirs,
    describe_producers,
    describe_quorum,
    describe_topic_partitions,
    describe_transactions,
    elect_leaders,
    end_txn,
    fetch,
    find_coordinator,
    heartbeat,
    incremental_alter_configs,
    init_producer_id,
    join_group,
    leave_group,
    list_config_resources,
    list_groups,
    list_offsets,
    list_partition_reassignments,
    list_transactions,
    metadata,
    offset_commit,
    offset_delete,
    offset_fetch,
    offset_for_leader_epoch,
    produce,
    sync_group,
    txn_offset_commit,
    unregister_broker,
    write_txn_markers,
)
from broker.handlers.fetch_session import FetchSessionCache
from broker.handlers.services import Services
from broker.network.dispatcher import Dispatcher
from broker.network.timer_wheel import TimerWheel

HANDLERS: tuple[ModuleType, ...] = (
    produce,
    fetch,
    list_offsets,
    metadata,
    api_versions,
    create_topics,
    delete_topics,
    init_producer_id,
    offset_for_leader_epoch,
    describe_configs,
    create_partitions,
    describe_cluster,
    incremental_alter_configs,
    alter_configs,
    list_config_resources,
    delete_records,
    describe_log_dirs,
    alter_replica_log_dirs,
    elect_leaders,
    alter_partition_reassignments,
    list_partition_reassignments,
    describe_quorum,
    describe_topic_partitions,
    unregister_broker,
    find_coordinator,
    join_group,
    sync_group,
    heartbeat,
    leave_group,
    offset_commit,
    offset_fetch,
    describe_groups,
    list_groups,
    delete_groups,
    offset_delete,
    add_partitions_to_txn,
    add_offsets_to_txn,
    end_txn,
    txn_offset_commit,
    write_txn_markers,
    describe_producers,
    describe_transactions,
    list_transactions,
)


def _new_session_id() -> int:
    return 1 + randbelow(2**31 - 1)


def register_all(broker: Broker, dispatcher: Dispatcher, new_session_id: Callable[[], int] = _new_session_id) -> Services:
    """Give `dispatcher` all handlers of `broker`; returns what they share. Further APIs may be registered beside them."""
    slots = broker.settings.get("max.incremental.fetch.session.cache.slots")
    sessions = FetchSessionCache(broker.clock.now_ms, new_session_id, slots if isinstance(slots, int) else 1000)
    services = Services(broker, dispatcher, TimerWheel(broker.clock), sessions)
    dispatcher.register(module.route(services) for module in HANDLERS)
    return services
