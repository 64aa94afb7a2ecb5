"""ListTransactions (key 66), versions 0-1: the transactional ids that this broker coordinates (KIP-664).

v1 only those open for longer than a duration (KIP-994). Version 2 (KIP-1152) is not served: its regular expressions would run on the loop, and a
hostile one could stop it.
"""

from __future__ import annotations

from broker.coordinator.transactions.state import RESTING, Transaction
from broker.coordinator.transactions.state import TransactionState as State
from broker.errors import KafkaError
from broker.handlers.services import Services
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.list_transactions import ListTransactionsRequest, ListTransactionsResponse, TransactionState

KEY = 66
VERSIONS = (0, 1)

_BY_TEXT = {state.text: state for state in State}


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, ListTransactionsRequest, handle, on_error)


def handle(services: Services, request: Request, body: ListTransactionsRequest) -> ListTransactionsResponse:
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

    return ListTransactionsResponse(
        unknown_state_filters=unknown,
        transaction_states=[
            TransactionState(transactional_id=one.transactional_id, producer_id=one.producer_id, transaction_state=one.state.text)
            for one in found
            if wanted(one)
        ],
    )


def on_error(body: ListTransactionsRequest, code: int, message: str) -> ListTransactionsResponse:
    return ListTransactionsResponse(error_code=code)
