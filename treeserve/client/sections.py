"""Where the protobuf Parameters keep the fields of SamplingParams and OutputOptions."""

SECTIONS = {
    "sampling": (
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "seed",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
    ),
    "stopping": (
        "max_tokens",
        "stop",
        "stop_token_ids",
        "ignore_eos",
        "include_stop",
        "min_tokens",
        "time_limit_seconds",
    ),
    "output": ("logprobs", "prompt_logprobs"),
}
OUTPUTS = ("token_ids", "usage", "echo", "progress")
