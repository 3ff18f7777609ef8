"""What an engine tells of itself: for health checks, metrics and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class EngineStats:
    """Gauges of this moment, and counters since the start.

    Attributes:
        running, waiting: requests. max_running: most at once.
        kv_usage: part of the cache's pages that running requests hold, 0..1.
        prefix_queries, prefix_hits: prompt tokens looked up in the cache, and found there.
        prompt_tokens, generation_tokens: finished counting; prompt tokens include cached ones.
        preemptions: times that a request lost its pages and was computed again.
        drafts: times that a request's drafts were verified. draft_tokens, accepted_tokens: how many there were, and
            how many of them became output. accepted_by_position: of the first, second, … drafts.
        steps: finished. step_seconds: time from the launch of a step until its tokens were known, all steps.
        host_seconds, wait_seconds: time in which the engine worked for steps, and in which it waited for the device.
        last_step_tokens, last_step_seconds: of the last one.
        heartbeat_age: seconds since a step finished, or since there was nothing to do; a hung step makes it grow.
        dead: why the engine has ended, or None.
    """

    running: int = 0
    waiting: int = 0
    max_running: int = 0
    kv_usage: float = 0.0
    prefix_queries: int = 0
    prefix_hits: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_by_position: tuple[int, ...] = ()
    steps: int = 0
    step_seconds: float = 0.0
    host_seconds: float = 0.0
    wait_seconds: float = 0.0
    last_step_tokens: int = 0
    last_step_seconds: float = 0.0
    heartbeat_age: float = 0.0
    dead: str | None = None
