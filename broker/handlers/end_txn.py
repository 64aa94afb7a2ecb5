"""EndTxn (key 26), versions 0-5: commit or abort a producer's transaction; answered when the decision is committed, before the markers are.

v1 same · v2 PRODUCER_FENCED (KIP-588) · v3 flexible · v4 TRANSACTION_ABORTABLE · v5 the end bumps the epoch, and the answer names the producer id and
epoch to go on with (KIP-890).
"""

from __future__ import annotations

from broker.coordinator.transactions.machine import Answer
from broker.coordinator.transactions.state import VERSION_EPOCH_BUMP
from broker.errors import ErrorCode
from broker.handlers.groups import Reply, callback_route
from broker.handlers.services import Services
from broker.handlers.transactions import fenced_code
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.end_txn import EndTxnRequest, EndTxnResponse

KEY = 26
VERSIONS = (0, 5)
FIRST_VERSION_EPOCH_BUMP = 5


def route(services: Services) -> Route:
    return callback_route(services, KEY, VERSIONS, EndTxnRequest, handle, on_error)


def handle(services: Services, request: Request, body: EndTxnRequest, reply: Reply) -> None:
    version = request.api_version

    def done(answer: Answer) -> None:
        if answer.error:
            reply(EndTxnResponse(error_code=fenced_code(answer.error, version)))
        elif version >= FIRST_VERSION_EPOCH_BUMP:
            reply(EndTxnResponse(producer_id=answer.producer_id, producer_epoch=answer.epoch))
        else:
            reply(EndTxnResponse())

    if not body.transactional_id:
        done(Answer(ErrorCode.INVALID_REQUEST))
        return
    client_version = VERSION_EPOCH_BUMP if version >= FIRST_VERSION_EPOCH_BUMP else 0
    services.broker.transactions.end(body.transactional_id, (body.producer_id, body.producer_epoch), body.committed, client_version, done)


def on_error(body: EndTxnRequest, code: int, message: str) -> EndTxnResponse:
    return EndTxnResponse(error_code=code)
