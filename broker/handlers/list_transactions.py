"""ListTransactions (key 66), versions 0-2: the transactional ids that this broker coordinates (KIP-664).

v1 only those open for longer than a duration (KIP-994) · v2 only those whose id matches an expression as a whole (KIP-1152), in RE2's syntax and by
RE2, whose time is linear in the id, whatever the expression. The loop turns while many ids are matched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from broker.coordinator.transactions.state import RESTING, Transaction
from broker.coordinator.transactions.state import TransactionState as State
from broker.errors import ErrorCode, KafkaError
from broker.handlers.services import Services
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.list_transactions import ListTransactionsRequest, ListTransactionsResponse, TransactionState
from broker.protocol.message import Message

KEY = 66
VERSIONS = (0, 2)

IDS_PER_TURN = 200
EXPRESSION_BYTES_MAX = 4096
PROGRAM_BYTES_MAX = 1 << 20
"""Memory of a compiled expression; one that needs more is refused as an invalid one."""

_BY_TEXT = {state.text: state for state in State}


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, ListTransactionsRequest, handle, on_error)


def handle(services: Services, request: Request, body: ListTransactionsRequest) -> Message | Coroutine[Any, Any, Message]:
    states = {_BY_TEXT[text] for text in body.state_filters if text in _BY_TEXT}
    unknown = [text for text in body.state_filters if text not in _BY_TEXT]
    try:
        found = services.broker.transactions.all_here()
    except KafkaError as error:
        return ListTransactionsResponse(error_code=error.code)
    now_ms = services.broker.wall_time_ms()

    def wanted(one: Transaction) -> bool:
        return (
            (not body.state_filters or one.state in states)
            and (not body.producer_id_filters or one.producer_id in body.producer_id_filters)
            and (body.duration_filter < 0 or (one.state not in RESTING and now_ms - one.started_ms > body.duration_filter))
        )

    chosen = [one for one in found if wanted(one)]
    if body.transactional_id_pattern:
        return _matching(chosen, body.transactional_id_pattern, unknown)
    return _answer(chosen, unknown)


async def _matching(chosen: Iterable[Transaction], expression: str, unknown: list[str]) -> ListTransactionsResponse:
    import re2  # by few requests, and some ms at the start of every node

    options = re2.Options()
    options.max_mem = PROGRAM_BYTES_MAX
    options.log_errors = False
    try:
        if len(expression.encode()) > EXPRESSION_BYTES_MAX:
            return ListTransactionsResponse(error_code=ErrorCode.INVALID_REGULAR_EXPRESSION)
        pattern = re2.compile(expression, options)
    except (re2.error, UnicodeEncodeError):
        return ListTransactionsResponse(error_code=ErrorCode.INVALID_REGULAR_EXPRESSION)
    matching: list[Transaction] = []
    for looked_at, one in enumerate(chosen, 1):
        if pattern.fullmatch(one.transactional_id) is not None:
            matching.append(one)
        if looked_at % IDS_PER_TURN == 0:
            await asyncio.sleep(0)
    return _answer(matching, unknown)


def _answer(chosen: Iterable[Transaction], unknown: list[str]) -> ListTransactionsResponse:
    return ListTransactionsResponse(
        unknown_state_filters=unknown,
        transaction_states=[
            TransactionState(transactional_id=one.transactional_id, producer_id=one.producer_id, transaction_state=one.state.text) for one in chosen
        ],
    )


def on_error(body: ListTransactionsRequest, code: int, message: str) -> ListTransactionsResponse:
    return ListTransactionsResponse(error_code=code)
