"""The dashboards: an overview, sharing, memory, scheduling, and tenants."""

from panels import (
    SELECTOR,
    TENANT,
    Board,
    Panel,
    by_tenant,
    gauge,
    mean,
    quantile,
    quantiles,
    ratio,
    total_rate,
)

_CACHED = ratio(
    total_rate("prompt_tokens_total", more=',source=~"cached|shared"'),
    total_rate("prompt_tokens_total"),
)
_KV_SAVED = (
    f"1 - {ratio(total_rate('kv_tokens_read_total'), total_rate('kv_tokens_read_flat_total'))}"
)
_USED = ratio(gauge("pages_used"), gauge("pages_capacity"))
_TOKEN_BYTES = f"treeserve_page_tokens{{{SELECTOR}}} * treeserve_kv_token_bytes{{{SELECTOR}}}"

OVERVIEW = Board(
    "overview",
    "treeserve: overview",
    "Traffic, latency, errors and saturation of some servers.",
    {
        "At a glance": (
            Panel("Ready", "How many of the servers take requests?", "short",
                  ((gauge("ready"), "ready"),), "number", 4),
            Panel("Calls running", "How many callers are being served?", "short",
                  ((gauge("calls_running"), "calls"),), "number", 4),
            Panel("Tokens drawn", "How many tokens a second are drawn?", "short",
                  ((total_rate("completion_tokens_total"), "tokens/s"),), "number", 4),
            Panel("Prompt tokens not computed", "What share of the prompts was there already?",
                  "percentunit", ((_CACHED, "hits"),), "number", 4),
            Panel("KV reads saved", "What share of attention's reads does sharing save?",
                  "percentunit", ((_KV_SAVED, "saved"),), "number", 4),
            Panel("Pool used", "How full is the memory?", "percentunit",
                  ((_USED, "used"),), "number", 4),
        ),
        "Traffic": (
            Panel("Calls", "How many calls end, by method?", "reqps",
                  ((total_rate("calls_total", "method"), "{{method}}"),)),
            Panel("Requests and samples", "How many prompts are served, and how many samples?",
                  "reqps", ((total_rate("requests_finished_total"), "requests"),
                            (total_rate("samples_finished_total"), "samples"))),
            Panel("Tokens", "What goes through the model?", "short",
                  ((total_rate("step_rows_total", "kind"), "{{kind}} rows/s"),
                   (total_rate("completion_tokens_total"), "drawn/s"))),
        ),
        "Latency": (
            Panel("Time to first token", "How soon does a caller see something?", "s",
                  quantiles("time_to_first_token_seconds")),
            Panel("Time per output token", "How fast does a sample grow?", "s",
                  quantiles("time_per_output_token_seconds")),
            Panel("Request duration", "How long does a caller wait for the whole?", "s",
                  quantiles("request_duration_seconds")),
        ),
        "Errors": (
            Panel("Calls that did not end well", "Which errors do callers get?", "reqps",
                  ((total_rate("calls_total", "code", ',code!="OK"'), "{{code}}"),)),
            Panel("How samples end", "How many are cut short?", "reqps",
                  ((total_rate("samples_finished_total", "reason"), "{{reason}}"),)),
            Panel("Failed steps", "Does the model or the device fail?", "short",
                  ((total_rate("steps_failed_total"), "failed steps/s"),)),
        ),
        "Saturation": (
            Panel("Running and waiting", "Is there more work than room?", "short",
                  ((gauge("running_samples"), "running samples"),
                   (gauge("waiting_requests"), "waiting requests"))),
            Panel("Pool", "How full is the memory, and how much of that could be given up?",
                  "percentunit",
                  ((_USED, "used"),
                   (ratio(gauge("pages_cached"), gauge("pages_capacity")), "cache alone"))),
            Panel("Engine stalled", "Is an engine stuck?", "s",
                  ((f"treeserve_engine_stalled_seconds{{{SELECTOR}}}", "{{instance}}"),)),
        ),
        "What runs": (
            Panel("Servers", "Which versions, models and devices?", "short",
                  ((f"treeserve_info{{{SELECTOR}}}",
                    "{{instance}}: {{version}}, {{model}}, {{dtype}}, {{device}}, {{backend}}, "
                    "policy {{policy}}, sharing {{sharing}}"),), span=24),
        ),
    },
)  # fmt: skip

SHARING = Board(
    "sharing",
    "treeserve: sharing",
    "What sharing prefixes saves, in tokens computed and in memory read, and why not more.",
    {
        "Computed once": (
            Panel("Prompt tokens by source", "Why need a token not be computed?", "short",
                  ((total_rate("prompt_tokens_total", "source"), "{{source}}/s"),), "stacked"),
            Panel("Hit rate", "What share of the prompts' tokens is cached or shared?",
                  "percentunit", ((_CACHED, "hits"),)),
            Panel("Computed once for several", "How much is computed once for requests that wait "
                  "together?", "short",
                  ((total_rate("prompt_tokens_total", more=',source="shared"'), "tokens/s"),)),
            Panel("Tokens of prompt modules", "How much is read of modules (approximate, no hit "
                  "of the cache), and how much encoded?", "short",
                  ((total_rate("module_tokens_total", "kind"), "{{kind}}/s"),), span=12),
        ),
        "Read once": (
            Panel("KV bytes read", "What does attention read, and what would it without sharing?",
                  "Bps", ((total_rate("kv_read_bytes_total"), "read"),
                          (total_rate("kv_read_flat_bytes_total"), "flat"))),
            Panel("KV bytes saved", "How much memory traffic does sharing save?", "Bps",
                  ((f"{total_rate('kv_read_flat_bytes_total')} - "
                    f"{total_rate('kv_read_bytes_total')}", "saved"),)),
            Panel("KV reads saved", "What share is that?", "percentunit", ((_KV_SAVED, "saved"),)),
        ),
        "The shape of it": (
            Panel("Rows per node", "How wide are the products that sharing makes?", "short",
                  ((total_rate("node_rows_bucket", "le"), "{{le}}"),), "heat"),
            Panel("Depth", "How deep is the sharing?", "short",
                  ((mean("step_depth"), "mean"), (quantile(0.99, "step_depth"), "p99"))),
            Panel("Fan-out", "How far does the tree branch?", "short",
                  ((mean("step_fan_out"), "mean"), (quantile(0.99, "step_fan_out"), "p99"))),
            Panel("Rows per node, mean", "How many rows does one read serve?", "short",
                  ((mean("node_rows"), "rows"),)),
            Panel("Work items", "How many are shared, and how many are pieces of long ones?",
                  "short", ((total_rate("work_items_total"), "all/s"),
                            (total_rate("shared_items_total"), "shared/s"),
                            (total_rate("cut_pieces_total"), "split/s"))),
            Panel("Plain rows", "What share of the rows has no part in sharing?", "percentunit",
                  ((ratio(total_rate("plain_rows_total"), total_rate("step_rows_total")),
                    "plain"),)),
        ),
        "Why not more": (
            Panel("Steps by what became of sharing", "Does it fire, and if not, why not?", "short",
                  ((total_rate("steps_total", "sharing"), "{{sharing}}/s"),), "stacked", 12),
            Panel("Folded segments", "What could be shared and is not, and why?", "short",
                  ((total_rate("folded_segments_total", "reason"), "{{reason}}/s"),), "stacked",
                  12),
        ),
    },
)  # fmt: skip

MEMORY = Board(
    "memory",
    "treeserve: memory",
    "The pool of KV pages: who holds it, what is evicted, retained and preempted.",
    {
        "Pool": (
            Panel("Pages", "Who holds the pool?", "short",
                  ((f"{gauge('pages_used')} - {gauge('pages_cached')}", "running"),
                   (gauge("pages_cached"), "cache alone"),
                   (f"{gauge('pages_capacity')} - {gauge('pages_used')}", "free")), "stacked"),
            Panel("Bytes", "How much memory is that?", "bytes",
                  ((f"sum (treeserve_pages_used{{{SELECTOR}}} * {_TOKEN_BYTES})", "used"),
                   (f"sum (treeserve_pages_capacity{{{SELECTOR}}} * {_TOKEN_BYTES})", "pool"))),
            Panel("In use", "How full is each, as endpoint pickers see it?", "percentunit",
                  ((f"treeserve_kv_cache_usage_ratio{{{SELECTOR}}}", "{{instance}}"),)),
            Panel("Promised", "How many pages are promised and not yet taken?", "short",
                  ((gauge("pages_reserved"), "pages"),)),
        ),
        "Cache": (
            Panel("Evicted tokens", "Is the pool too small for what comes back?", "short",
                  ((total_rate("evicted_tokens_total", "reason"), "{{reason}}/s"),)),
            Panel("Hit rate", "Does what was cached come back?", "percentunit",
                  ((_CACHED, "hits"),)),
            Panel("Retained tokens", "How much is kept warm on purpose?", "short",
                  ((gauge("retained_tokens"), "tokens"),)),
        ),
        "Preemption": (
            Panel("Preempted samples", "Is too much admitted?", "short",
                  ((total_rate("preempted_samples_total"), "samples/s"),), span=12),
            Panel("Recomputed tokens", "What does that cost?", "short",
                  ((total_rate("recomputed_tokens_total"), "tokens/s"),), span=12),
        ),
    },
)  # fmt: skip

SCHEDULING = Board(
    "scheduling",
    "treeserve: scheduling",
    "Queue, waiting, policy, and where the time of a step goes.",
    {
        "Queue": (
            Panel("Requests", "How long is the queue, and who is served in part?", "short",
                  ((gauge("waiting_requests"), "waiting"),
                   (gauge("startable_requests"), "started in part"))),
            Panel("Time in the queue", "How long do requests wait to be admitted?", "s",
                  quantiles("request_queue_seconds")),
            Panel("Samples", "How wide is the batch?", "short",
                  ((gauge("running_samples"), "running"),
                   (gauge("awaiting_samples"), "of which awaiting their context"))),
            Panel("Policy", "In which order, on which server?", "short",
                  ((f"count by (policy) (treeserve_info{{{SELECTOR}}})", "{{policy}}"),)),
            Panel("Ended by deadlines", "Are deadlines kept?", "short",
                  ((total_rate("expired_requests_total"), "requests/s"),)),
            Panel("Branches", "How often does a request go on from another's sample?", "short",
                  ((total_rate("forked_requests_total"), "requests/s"),)),
        ),
        "A step": (
            Panel("Step", "How long is a step?", "s", quantiles("step_seconds")),
            Panel("Where its time goes", "How much is the model's, the scheduler's, the plan's?",
                  "s", ((mean("model_seconds"), "model"), (mean("schedule_seconds"), "scheduler"),
                        (mean("plan_seconds"), "of which plan"))),
            Panel("Planning", "What does planning cost?", "s", quantiles("plan_seconds")),
            Panel("Plans", "How often is planning skipped?", "short",
                  ((total_rate("plans_total", "origin"), "{{origin}}/s"),), "stacked"),
            Panel("Hidden scheduling", "What share of the scheduler's time costs nothing?",
                  "percentunit", ((ratio(total_rate("schedule_hidden_seconds_total"),
                                         total_rate("schedule_seconds_sum")), "hidden"),)),
            Panel("Actual over predicted", "Does the scheduler know its own pace?", "short",
                  ((ratio(total_rate("step_actual_seconds_total"),
                          total_rate("step_predicted_seconds_total")), "mean"),
                   (quantile(0.1, "step_actual_ratio"), "p10"),
                   (quantile(0.9, "step_actual_ratio"), "p90"))),
        ),
        "Requests": (
            Panel("Prompt tokens", "How long are prompts?", "short",
                  ((mean("request_prompt_tokens"), "mean"),
                   (quantile(0.99, "request_prompt_tokens"), "p99"))),
            Panel("Samples per request", "How many samples are asked for?", "short",
                  ((mean("request_samples"), "mean"), (quantile(0.99, "request_samples"), "p99"))),
            Panel("Completion tokens", "How long are completions?", "short",
                  ((mean("sample_completion_tokens"), "mean"),
                   (quantile(0.99, "sample_completion_tokens"), "p99"))),
            Panel("First token of each sample", "How much later do the others start?",
                  "s", quantiles("sample_time_to_first_token_seconds"), span=12),
            Panel("Sample duration", "How long does one sample take?", "s",
                  quantiles("sample_duration_seconds"), span=12),
        ),
    },
)  # fmt: skip


TENANTS = Board(
    "tenants",
    "treeserve: tenants",
    "Who asks for what, what they share within their own namespace, and how long they wait.",
    {
        "Use": (
            Panel("Requests", "Who asks?", "reqps",
                  ((by_tenant("requests_finished_total"), "{{tenant}}"),), "stacked"),
            Panel("Samples", "Who asks for how many samples?", "reqps",
                  ((by_tenant("samples_finished_total"), "{{tenant}}"),), "stacked"),
            Panel("Tokens drawn", "Who draws how much?", "short",
                  ((by_tenant("sample_tokens_total"), "{{tenant}}"),), "stacked"),
        ),
        "Sharing": (
            Panel("Prompt tokens computed", "Who makes the model work?", "short",
                  ((by_tenant("prompt_tokens_total", ',source="computed"'), "{{tenant}}"),),
                  "stacked", 12),
            Panel("Hit rate", "Whose prompts were there already?", "percentunit",
                  ((ratio(by_tenant("prompt_tokens_total", ',source=~"cached|shared"'),
                          by_tenant("prompt_tokens_total")), "{{tenant}}"),), span=12),
        ),
        "Waiting": (
            Panel("Time to first token, p99", "Who waits for the first token?", "s",
                  ((quantile(0.99, "time_to_first_token_seconds", TENANT, "tenant"),
                    "{{tenant}}"),)),
            Panel("Time in the queue, p99", "Who waits to be admitted?", "s",
                  ((quantile(0.99, "request_queue_seconds", TENANT, "tenant"), "{{tenant}}"),)),
            Panel("Request duration, p99", "Who waits for the whole?", "s",
                  ((quantile(0.99, "request_duration_seconds", TENANT, "tenant"),
                    "{{tenant}}"),)),
        ),
        "Errors": (
            Panel("Refused calls", "Who is over a limit?", "reqps",
                  ((by_tenant("calls_total", ',code="RESOURCE_EXHAUSTED"'), "{{tenant}}"),),
                  span=12),
            Panel("Calls that did not end well", "Whose calls fail?", "reqps",
                  ((by_tenant("calls_total", ',code!="OK"'), "{{tenant}}"),), span=12),
        ),
    },
    ("job", "instance", "tenant"),
)  # fmt: skip

BOARDS = (OVERVIEW, SHARING, MEMORY, SCHEDULING, TENANTS)
