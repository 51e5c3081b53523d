from __future__ import annotations

from lmrc.config.schema import ServerOptions
from lmrc.rc.decoding.openai.backend import UsageCounter
from lmrc.rc.decoding.openai.client import ServerAnswer


def meter(**prices: float) -> UsageCounter:
    counted = UsageCounter(ServerOptions(**prices))
    for _ in range(3):
        counted.count_answer(ServerAnswer("x", "stop", 4000, 50), cached=False)
    counted.count_answer(ServerAnswer("x", "content_filter", 1000, None), cached=True)
    return counted


def test_new_and_cached_answers_are_counted_separately() -> None:
    usage = meter(prompt_price=10.0, completion_price=30.0).usage()
    assert (usage.requests, usage.prompt_tokens, usage.completion_tokens) == (3, 12000, 150)
    assert (usage.cached, usage.cached_prompt_tokens, usage.cached_completion_tokens) == (1, 1000, 0)
    # A million prompt tokens cost 10, a million completion tokens 30.
    assert (usage.cost, usage.cached_cost) == (0.12 + 0.0045, 0.01)
    assert (usage.uncounted, usage.withheld) == (1, 1)


def test_usage_as_text() -> None:
    assert str(meter().usage()) == (
        "3 answers paid (12000 + 150 tokens); 1 from the cache (1000 + 0); 1 uncounted; 1 withheld"
    )
    counted = meter(prompt_price=10.0, completion_price=30.0)
    assert counted.count_failure("429")
    assert not counted.count_failure("429")
    assert counted.count_failure("timeout")
    counted.count("retries")
    assert str(counted.usage()) == (
        "3 answers paid (12000 + 150 tokens, 0.12); 1 from the cache (1000 + 0); 1 retries; 1 uncounted; 1 withheld; "
        "failures: 429 2, timeout 1"
    )
    assert str(UsageCounter(ServerOptions()).usage()) == "0 answers paid (0 + 0 tokens)"
