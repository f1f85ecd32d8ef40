"""Every metric that treeserve exports: name, kind, unit, labels, and the question it answers."""

from treeserve.metrics.declaration import Declaration

NO_TENANT = "(none)"
"""The label of callers who have no tenant; no tenant of a key can have such a name."""
OTHER_TENANTS = "(other)"
"""The label of all tenants that come after the first MAX_TENANTS."""
MAX_TENANTS = 64

_STEP_SECONDS = (
    0.0001, 0.0003, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
)  # fmt: skip
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_REQUEST_SECONDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip
_TOKENS = tuple(float(2**power) for power in range(2, 18))
_SAMPLES = tuple(float(2**power) for power in range(11))
_RATIOS = (0.25, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
_NODE_ROWS = tuple(float(2**power) for power in range(13))
_STATES = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
_BRANCHES = (0.0, *(float(2**power) for power in range(13)))

# fmt: off

INFO = Declaration(
    "server", "info", "", "", "What is being served, and how, as labels; always 1.",
    "Which version, model, device, backend, policy and sharing does this server run?",
    ("version", "model", "dtype", "device", "backend", "policy", "sharing"),
)
READY = Declaration(
    "server", "gauge", "ready", "", "1 while the server takes requests, else 0.",
    "Does it take requests?",
)
STALLED_SECONDS = Declaration(
    "server", "gauge", "engine_stalled_seconds", "seconds",
    "How long there has been work for the engine and no step; asked at the scrape.",
    "Is the engine stuck?",
)
CALLS_RUNNING = Declaration(
    "server", "gauge", "calls_running", "calls", "Generation calls in flight.",
    "How many callers are being served?",
)
CALLS = Declaration(
    "server", "counter", "calls", "calls", "Calls that ended, by method and gRPC status.",
    "How much traffic is there, and what share of it fails or is refused, and how?",
    ("method", "code", "tenant"),
)

REQUESTS = Declaration(
    "requests", "counter", "requests_finished", "requests",
    "Requests whose samples have all ended: one for each prompt, so several for a tree.",
    "How many prompts are served?", ("tenant",),
)
PROMPT_TOKENS = Declaration(
    "requests", "counter", "prompt_tokens", "tokens",
    "Tokens of the requests that ended: cached before they came, shared with a request in "
    "flight, or computed for them. All of them are the queries of the prefix cache, and those "
    "that were not computed its hits.",
    "What share of the prompts' tokens need not be computed, and why?", ("source", "tenant"),
)
MODULE_TOKENS = Declaration(
    "requests", "counter", "module_tokens", "tokens",
    "Tokens of imported prompt modules, of the requests that ended: read, which is approximate and "
    "no hit of the prefix cache; and encoded while the request waited for them.",
    "How much of the prompts comes from modules, and how often are they encoded again?",
    ("kind", "tenant"),
)
REQUEST_TOKENS = Declaration(
    "requests", "histogram", "request_prompt_tokens", "tokens", "Tokens of a request's prompt.",
    "How long are prompts?", buckets=_TOKENS,
)
REQUEST_SAMPLES = Declaration(
    "requests", "histogram", "request_samples", "samples", "Samples of a request.",
    "How many samples are asked for of a prompt?", buckets=_SAMPLES,
)
QUEUE_SECONDS = Declaration(
    "requests", "histogram", "request_queue_seconds", "seconds",
    "From a request's arrival until it was admitted.",
    "How long do requests wait before anything is done for them?", ("tenant",),
    buckets=_REQUEST_SECONDS,
)
FIRST_TOKEN_SECONDS = Declaration(
    "requests", "histogram", "time_to_first_token_seconds", "seconds",
    "From the call to the first token of any of a request's samples.",
    "How soon does a caller see something?", ("tenant",), buckets=_REQUEST_SECONDS,
)
REQUEST_SECONDS = Declaration(
    "requests", "histogram", "request_duration_seconds", "seconds",
    "From the call to the end of all of a request's samples.",
    "How long does a caller wait for the whole?", ("tenant",), buckets=_REQUEST_SECONDS,
)

SAMPLES = Declaration(
    "samples", "counter", "samples_finished", "samples", "Samples that ended, by reason.",
    "How many samples are served, and how do they end?", ("reason", "tenant"),
)
SAMPLE_TOKENS = Declaration(
    "samples", "histogram", "sample_completion_tokens", "tokens", "Tokens that a sample drew.",
    "How long are completions? What sharing gains falls as they grow.", buckets=_TOKENS,
)
TENANT_TOKENS = Declaration(
    "samples", "counter", "sample_tokens", "tokens", "Tokens that the samples that ended drew.",
    "Who draws how much?", ("tenant",),
)
SAMPLE_FIRST_SECONDS = Declaration(
    "samples", "histogram", "sample_time_to_first_token_seconds", "seconds",
    "From a request's arrival to the first token of each of its samples.",
    "How much later than the first do the other samples of a request start?",
    buckets=_REQUEST_SECONDS,
)
TOKEN_SECONDS = Declaration(
    "samples", "histogram", "time_per_output_token_seconds", "seconds",
    "A sample's mean time between tokens; of samples with two or more.",
    "How fast does a sample grow?", buckets=_TOKEN_SECONDS,
)
SAMPLE_SECONDS = Declaration(
    "samples", "histogram", "sample_duration_seconds", "seconds",
    "From a request's arrival to the end of each of its samples.",
    "How long does one sample take?", buckets=_REQUEST_SECONDS,
)

COMPLETION_TOKENS = Declaration(
    "steps", "counter", "completion_tokens", "tokens",
    "Tokens drawn, those of aborted samples too.", "How many tokens a second does it draw?",
)
ROWS = Declaration(
    "steps", "counter", "step_rows", "rows", "Tokens that went through the model, by kind.",
    "What share of the work is prompts, and what is decoding?", ("kind",), ("prompt", "decode"),
)
STEP_SECONDS = Declaration(
    "steps", "histogram", "step_seconds", "seconds",
    "One step: scheduling, where the device waited for it, and the model.",
    "How long is a step?", buckets=_STEP_SECONDS,
)
MODEL_SECONDS = Declaration(
    "steps", "histogram", "model_seconds", "seconds", "The model and the sampler in one step.",
    "How much of a step is the device's?", buckets=_STEP_SECONDS,
)
SCHEDULE_SECONDS = Declaration(
    "steps", "histogram", "schedule_seconds", "seconds",
    "Deciding one step, its plan included, and folding its tokens back.",
    "How much of a step is the scheduler's?", buckets=_STEP_SECONDS,
)
PLAN_SECONDS = Declaration(
    "steps", "histogram", "plan_seconds", "seconds", "Planning the attention of one step.",
    "What does planning cost?", buckets=_STEP_SECONDS,
)
HIDDEN_SECONDS = Declaration(
    "steps", "counter", "schedule_hidden_seconds", "seconds",
    "Scheduling in which the device worked on another step.",
    "How much of the scheduler's time costs nothing?",
)
PREDICTED_SECONDS = Declaration(
    "steps", "counter", "step_predicted_seconds", "seconds",
    "What steps were expected to take, from their rows and KV tokens.",
    "Does the scheduler know its own pace?",
)
ACTUAL_SECONDS = Declaration(
    "steps", "counter", "step_actual_seconds", "seconds",
    "What the same steps took, from their decision to their result.",
    "Does the scheduler know its own pace?",
)
ACTUAL_RATIO = Declaration(
    "steps", "histogram", "step_actual_ratio", "",
    "What a step took over what it was expected to take.",
    "How far is a single prediction off?", buckets=_RATIOS,
)
FAILED_STEPS = Declaration(
    "steps", "counter", "steps_failed", "steps", "Steps that could not be computed.",
    "Does the model or the device fail?",
)

KV_READ = Declaration(
    "sharing", "counter", "kv_tokens_read", "tokens",
    "KV tokens that attention read in each layer.", "What does attention read?",
)
KV_FLAT = Declaration(
    "sharing", "counter", "kv_tokens_read_flat", "tokens",
    "KV tokens that ordinary attention, every sample alone, would have read.",
    "What would it read if nothing were shared?",
)
KV_READ_BYTES = Declaration(
    "sharing", "counter", "kv_read_bytes", "bytes",
    "Bytes of K and V that attention read over all layers, each read in whole; windows of "
    "attention are not taken off.", "How much memory traffic is left?",
)
KV_FLAT_BYTES = Declaration(
    "sharing", "counter", "kv_read_flat_bytes", "bytes",
    "Bytes of K and V that ordinary attention would have read.",
    "How much memory traffic does sharing save?",
)
OUTCOMES = Declaration(
    "sharing", "counter", "steps", "steps",
    "Steps by what became of sharing. shared: something was read once for several; too_small: "
    "there was something in common, and no part of it would have paid; outweighed: parts would "
    "have paid, but not for merging in the step as a whole; nothing_in_common; off: "
    "`--sharing off`.", "Does sharing fire, and if not, why not?",
    ("sharing",), ("shared", "too_small", "outweighed", "nothing_in_common", "off"),
)
ORIGINS = Declaration(
    "sharing", "counter", "plans", "plans",
    "Plans by how they came about: made anew, or the last one carried on.",
    "How often is planning skipped?", ("origin",), ("rebuilt", "reused"),
)
ITEMS = Declaration(
    "sharing", "counter", "work_items", "items", "Work items of all plans.",
    "How much work are steps cut into?",
)
SHARED_ITEMS = Declaration(
    "sharing", "counter", "shared_items", "items",
    "Work items that served more than one sample.", "How many work items are shared ones?",
)
CUT_PIECES = Declaration(
    "sharing", "counter", "cut_pieces", "items",
    "Work items beyond those there would be if no long one had been split.",
    "How often are long segments split?",
)
FOLDED = Declaration(
    "sharing", "counter", "folded_segments", "segments",
    "Shared segments that were read once for each sharer, by reason: an item of their own would "
    "not have paid (too_small), or it would, but not for merging in the step (outweighed).",
    "Why is what could be shared not shared?", ("reason",), ("too_small", "outweighed"),
)
PLAIN_ROWS = Declaration(
    "sharing", "counter", "plain_rows", "rows", "Rows that read all their tokens alone.",
    "How many rows have no part in sharing?",
)
NODE_ROWS = Declaration(
    "sharing", "histogram", "node_rows", "rows",
    "Rows beneath each node that was read once for all of them, in each step.",
    "How wide are the products that sharing makes?", buckets=_NODE_ROWS,
)
ROW_STATES = Declaration(
    "sharing", "histogram", "step_depth", "states",
    "States of the row that has most, in each step: how deep the shared tree is.",
    "How deep is the sharing?", buckets=_STATES,
)
FAN_OUT = Declaration(
    "sharing", "histogram", "step_fan_out", "branches",
    "Branches and sharers directly beneath the shared segment that has most, in each step.",
    "How far does the tree branch?", buckets=_BRANCHES,
)

PAGES_USED = Declaration(
    "memory", "gauge", "pages_used", "pages", "Pages held by anything, the cache among it.",
    "How full is the pool?",
)
PAGES_CACHED = Declaration(
    "memory", "gauge", "pages_cached", "pages", "Pages that only the cache holds: evictable.",
    "How much of that could be given up at once?",
)
PAGES_RESERVED = Declaration(
    "memory", "gauge", "pages_reserved", "pages",
    "Pages promised to running samples and not yet taken.", "How much is promised?",
)
PAGES_CAPACITY = Declaration(
    "memory", "gauge", "pages_capacity", "pages", "Pages in the pool.", "How large is the pool?",
)
KV_USAGE = Declaration(
    "memory", "gauge", "kv_cache_usage_ratio", "",
    "Part of the pool that cannot be given up at once, from 0 to 1: what only the cache holds can.",
    "Is there room? What endpoint pickers of llm-d and the Gateway API weigh replicas by.",
)
PAGE_TOKENS = Declaration(
    "memory", "gauge", "page_tokens", "tokens", "Slots of a page.",
    "How many tokens is a page?",
)
KV_TOKEN_BYTES = Declaration(
    "memory", "gauge", "kv_token_bytes", "bytes", "K and V of one token in all layers.",
    "How much memory is a token?",
)
RETAINED = Declaration(
    "memory", "gauge", "retained_tokens", "tokens", "Cached tokens that a retention favours.",
    "How much of the cache is kept warm on purpose?",
)
EVICTED = Declaration(
    "memory", "counter", "evicted_tokens", "tokens",
    "Cached tokens given up, by reason: for room, or because the cache was cleared.",
    "Is the pool too small for what comes back?", ("reason",), ("room", "clear"),
)
PREEMPTED = Declaration(
    "memory", "counter", "preempted_samples", "samples",
    "Samples that gave up their memory and started again later.", "Is too much admitted?",
)
RECOMPUTED = Declaration(
    "memory", "counter", "recomputed_tokens", "tokens",
    "Tokens of requests that ended, computed once more since samples gave up their memory.",
    "What does preemption cost?",
)

RUNNING = Declaration(
    "scheduling", "gauge", "running_samples", "samples",
    "Samples that have a place in the batch.", "How wide is the batch?",
)
AWAITING = Declaration(
    "scheduling", "gauge", "awaiting_samples", "samples",
    "Of the running ones, those whose context is not computed yet.",
    "How many hold memory and draw nothing yet?",
)
WAITING = Declaration(
    "scheduling", "gauge", "waiting_requests", "requests", "Requests that wait for room.",
    "How long is the queue?",
)
STARTABLE = Declaration(
    "scheduling", "gauge", "startable_requests", "requests",
    "Admitted requests of which samples wait for memory.",
    "How many requests are served in part?",
)
FORKED = Declaration(
    "scheduling", "counter", "forked_requests", "requests",
    "Requests that go on from another sample's tokens.", "Is branching used?",
)
EXPIRED = Declaration(
    "scheduling", "counter", "expired_requests", "requests",
    "Requests that their deadlines ended.", "Are deadlines kept?",
)

# fmt: on

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Declaration))
