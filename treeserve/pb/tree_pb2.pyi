from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetTreeRequest(_message.Message):
    __slots__ = ("max_nodes", "all_namespaces")
    MAX_NODES_FIELD_NUMBER: _ClassVar[int]
    ALL_NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    max_nodes: int
    all_namespaces: bool
    def __init__(self, max_nodes: _Optional[int] = ..., all_namespaces: _Optional[bool] = ...) -> None: ...

class GetTreeResponse(_message.Message):
    __slots__ = ("tree",)
    TREE_FIELD_NUMBER: _ClassVar[int]
    tree: Tree
    def __init__(self, tree: _Optional[_Union[Tree, _Mapping]] = ...) -> None: ...

class WatchTreeRequest(_message.Message):
    __slots__ = ("interval_seconds", "max_nodes", "all_namespaces")
    INTERVAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_NODES_FIELD_NUMBER: _ClassVar[int]
    ALL_NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    interval_seconds: float
    max_nodes: int
    all_namespaces: bool
    def __init__(self, interval_seconds: _Optional[float] = ..., max_nodes: _Optional[int] = ..., all_namespaces: _Optional[bool] = ...) -> None: ...

class WatchTreeResponse(_message.Message):
    __slots__ = ("tree",)
    TREE_FIELD_NUMBER: _ClassVar[int]
    tree: Tree
    def __init__(self, tree: _Optional[_Union[Tree, _Mapping]] = ...) -> None: ...

class Tree(_message.Message):
    __slots__ = ("nodes", "left_out_nodes", "left_out_tokens", "tokens", "is_partly_counted")
    NODES_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_NODES_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    IS_PARTLY_COUNTED_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[TreeSegment]
    left_out_nodes: int
    left_out_tokens: int
    tokens: int
    is_partly_counted: bool
    def __init__(self, nodes: _Optional[_Iterable[_Union[TreeSegment, _Mapping]]] = ..., left_out_nodes: _Optional[int] = ..., left_out_tokens: _Optional[int] = ..., tokens: _Optional[int] = ..., is_partly_counted: _Optional[bool] = ...) -> None: ...

class TreeSegment(_message.Message):
    __slots__ = ("id", "parent_id", "namespace", "start_position", "tokens", "computed_tokens", "pages", "children", "use", "token_ids")
    ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    START_POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    CHILDREN_FIELD_NUMBER: _ClassVar[int]
    USE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    id: int
    parent_id: int
    namespace: str
    start_position: int
    tokens: int
    computed_tokens: int
    pages: int
    children: int
    use: SegmentUse
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, id: _Optional[int] = ..., parent_id: _Optional[int] = ..., namespace: _Optional[str] = ..., start_position: _Optional[int] = ..., tokens: _Optional[int] = ..., computed_tokens: _Optional[int] = ..., pages: _Optional[int] = ..., children: _Optional[int] = ..., use: _Optional[_Union[SegmentUse, _Mapping]] = ..., token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class SegmentUse(_message.Message):
    __slots__ = ("pins", "hits", "rows", "retained_weight", "age_seconds")
    PINS_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    RETAINED_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    pins: int
    hits: int
    rows: int
    retained_weight: float
    age_seconds: float
    def __init__(self, pins: _Optional[int] = ..., hits: _Optional[int] = ..., rows: _Optional[int] = ..., retained_weight: _Optional[float] = ..., age_seconds: _Optional[float] = ...) -> None: ...

class GetPlanRequest(_message.Message):
    __slots__ = ("all_namespaces",)
    ALL_NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    all_namespaces: bool
    def __init__(self, all_namespaces: _Optional[bool] = ...) -> None: ...

class GetPlanResponse(_message.Message):
    __slots__ = ("nodes", "left_out_nodes", "totals")
    NODES_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_NODES_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[PlannedNode]
    left_out_nodes: int
    totals: PlanTotals
    def __init__(self, nodes: _Optional[_Iterable[_Union[PlannedNode, _Mapping]]] = ..., left_out_nodes: _Optional[int] = ..., totals: _Optional[_Union[PlanTotals, _Mapping]] = ...) -> None: ...

class PlannedNode(_message.Message):
    __slots__ = ("node_id", "namespace", "start_position", "end_position", "rows", "is_shared", "pieces", "shared_cost", "folded_cost", "reason")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    START_POSITION_FIELD_NUMBER: _ClassVar[int]
    END_POSITION_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    IS_SHARED_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    SHARED_COST_FIELD_NUMBER: _ClassVar[int]
    FOLDED_COST_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    namespace: str
    start_position: int
    end_position: int
    rows: int
    is_shared: bool
    pieces: int
    shared_cost: float
    folded_cost: float
    reason: str
    def __init__(self, node_id: _Optional[int] = ..., namespace: _Optional[str] = ..., start_position: _Optional[int] = ..., end_position: _Optional[int] = ..., rows: _Optional[int] = ..., is_shared: _Optional[bool] = ..., pieces: _Optional[int] = ..., shared_cost: _Optional[float] = ..., folded_cost: _Optional[float] = ..., reason: _Optional[str] = ...) -> None: ...

class PlanTotals(_message.Message):
    __slots__ = ("shared_items", "private_items", "folded_segments", "tokens_read", "tokens_read_flat", "saved_cost", "merging_cost")
    SHARED_ITEMS_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_ITEMS_FIELD_NUMBER: _ClassVar[int]
    FOLDED_SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_READ_FIELD_NUMBER: _ClassVar[int]
    TOKENS_READ_FLAT_FIELD_NUMBER: _ClassVar[int]
    SAVED_COST_FIELD_NUMBER: _ClassVar[int]
    MERGING_COST_FIELD_NUMBER: _ClassVar[int]
    shared_items: int
    private_items: int
    folded_segments: int
    tokens_read: int
    tokens_read_flat: int
    saved_cost: float
    merging_cost: float
    def __init__(self, shared_items: _Optional[int] = ..., private_items: _Optional[int] = ..., folded_segments: _Optional[int] = ..., tokens_read: _Optional[int] = ..., tokens_read_flat: _Optional[int] = ..., saved_cost: _Optional[float] = ..., merging_cost: _Optional[float] = ...) -> None: ...

class GetActivityRequest(_message.Message):
    __slots__ = ("max_calls", "all_namespaces")
    MAX_CALLS_FIELD_NUMBER: _ClassVar[int]
    ALL_NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    max_calls: int
    all_namespaces: bool
    def __init__(self, max_calls: _Optional[int] = ..., all_namespaces: _Optional[bool] = ...) -> None: ...

class GetActivityResponse(_message.Message):
    __slots__ = ("calls", "left_out_calls", "totals")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_CALLS_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[RunningCall]
    left_out_calls: int
    totals: Totals
    def __init__(self, calls: _Optional[_Iterable[_Union[RunningCall, _Mapping]]] = ..., left_out_calls: _Optional[int] = ..., totals: _Optional[_Union[Totals, _Mapping]] = ...) -> None: ...

class RunningCall(_message.Message):
    __slots__ = ("call_id", "namespace", "method", "age_seconds", "first_token_seconds", "drawn_tokens")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DRAWN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    namespace: str
    method: str
    age_seconds: float
    first_token_seconds: float
    drawn_tokens: int
    def __init__(self, call_id: _Optional[str] = ..., namespace: _Optional[str] = ..., method: _Optional[str] = ..., age_seconds: _Optional[float] = ..., first_token_seconds: _Optional[float] = ..., drawn_tokens: _Optional[int] = ...) -> None: ...

class Totals(_message.Message):
    __slots__ = ("at_seconds", "steps", "step_seconds", "drawn_tokens", "prompt_rows", "kv_tokens_read", "kv_tokens_read_flat", "cached_tokens", "shared_in_flight_tokens", "computed_tokens", "evicted_tokens", "running_samples", "waiting_requests", "used_pages", "cached_pages", "total_pages")
    AT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DRAWN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_ROWS_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_READ_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_READ_FLAT_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SHARED_IN_FLIGHT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EVICTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    WAITING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    USED_PAGES_FIELD_NUMBER: _ClassVar[int]
    CACHED_PAGES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_PAGES_FIELD_NUMBER: _ClassVar[int]
    at_seconds: float
    steps: int
    step_seconds: float
    drawn_tokens: int
    prompt_rows: int
    kv_tokens_read: int
    kv_tokens_read_flat: int
    cached_tokens: int
    shared_in_flight_tokens: int
    computed_tokens: int
    evicted_tokens: int
    running_samples: int
    waiting_requests: int
    used_pages: int
    cached_pages: int
    total_pages: int
    def __init__(self, at_seconds: _Optional[float] = ..., steps: _Optional[int] = ..., step_seconds: _Optional[float] = ..., drawn_tokens: _Optional[int] = ..., prompt_rows: _Optional[int] = ..., kv_tokens_read: _Optional[int] = ..., kv_tokens_read_flat: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., shared_in_flight_tokens: _Optional[int] = ..., computed_tokens: _Optional[int] = ..., evicted_tokens: _Optional[int] = ..., running_samples: _Optional[int] = ..., waiting_requests: _Optional[int] = ..., used_pages: _Optional[int] = ..., cached_pages: _Optional[int] = ..., total_pages: _Optional[int] = ...) -> None: ...
