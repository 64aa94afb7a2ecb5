from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class CallRequest(_message.Message):
    __slots__ = ("method", "sender", "cluster_id", "incarnation", "payload")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    method: str
    sender: int
    cluster_id: bytes
    incarnation: int
    payload: bytes
    def __init__(self, method: _Optional[str] = ..., sender: _Optional[int] = ..., cluster_id: _Optional[bytes] = ..., incarnation: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class CallResponse(_message.Message):
    __slots__ = ("error_code", "error", "node_id", "cluster_id", "payload")
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    error_code: int
    error: str
    node_id: int
    cluster_id: bytes
    payload: bytes
    def __init__(self, error_code: _Optional[int] = ..., error: _Optional[str] = ..., node_id: _Optional[int] = ..., cluster_id: _Optional[bytes] = ..., payload: _Optional[bytes] = ...) -> None: ...
