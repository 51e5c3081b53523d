"""Check of decoding: the same answers as token by token, the time of a pass, and the memory of keys and values."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from decoding import grammar
from gpu.check import CheckFailed, Machine, require
from gpu.models import adapted, large_llama, make_lm, small_llama
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmrc.config.schema import DecodeOptions
from lmrc.launcher.gpu_memory import GIB, kv_bytes_per_token
from lmrc.launcher.model_shapes import load_model_shape
from lmrc.rc.decoding import constrained
from lmrc.rc.decoding.constrained import Request, decode
from lmrc.rc.decoding.generate import generate
from lmrc.rc.decoding.grammar import PartialAnswer
from lmrc.rc.decoding.row_limit import RowLimit
from lmrc.rc.decoding.scoring import relation_scores
from lmrc.rc.model.fused_norm import fuse_norms
from lmrc.rc.model.kv_cache import PrefixCache, extend_caches
from lmrc.rc.model.lora import DTYPES
from lmrc.rc.model.merge import merge_weights
from lmrc.rc.prompts.query_builder import Query
from tests.rc.tiny import merging_tokenizer


def decoding(machine: Machine) -> str:
    """Decode with a small LM, and with one of the shape of LLaMA2-13B."""
    tokenizer = merging_tokenizer()
    texts = [_equals_token_by_token(machine, tokenizer)]
    config = large_llama(machine, len(tokenizer))
    config.save_pretrained(machine.folder / "llama")
    base = make_lm(config, machine.device, DTYPES[machine.precision]).eval()
    fuse_norms(base)
    model = adapted(base).eval()
    texts.append(_time_of_passes(machine, "adapter beside", model, tokenizer, (2,) if machine.tiny else (8,)))
    merged = merge_weights(model).eval()
    texts.append(_time_of_passes(machine, "merged", merged, tokenizer, (1, 3) if machine.tiny else (1, 8, 32)))
    texts.append(_kv_bytes(machine, merged))
    texts.append(_score_mode(machine, merged, tokenizer))
    texts.append(_mode_free(machine, merged, tokenizer))
    return "; ".join(texts)


def _prompt(length: int) -> list[int]:
    return [7 + index % 89 for index in range(length)]


def _requests(tokenizer: PreTrainedTokenizerBase, rows: int, length: int, pairs: int) -> list[Request]:
    """Return requests with prompts of different lengths that share half of their tokens."""
    return [
        Request(_prompt(length) + _prompt(length // 4 + 17 * row), grammar(tokenizer, pairs), 200 if pairs > 2 else 80)
        for row in range(rows)
    ]


def _equals_token_by_token(machine: Machine, tokenizer: PreTrainedTokenizerBase) -> str:
    """Compare answers with those of a forward pass over the whole text for each token, in float32."""
    model = make_lm(small_llama(len(tokenizer)), machine.device, torch.float32).eval()
    requests = _requests(tokenizer, 3, 20, 2)
    answers = dict(decode(model, requests, RowLimit(2), PrefixCache(_prompt(20))))
    for index, request in enumerate(requests):
        answer = PartialAnswer(request.grammar)
        while not answer.ended and len(answer.ids) < request.max_tokens:
            with torch.inference_mode():
                text = torch.tensor([[*request.prompt, *answer.ids]], device=machine.device)
                logits = model(input_ids=text).logits[0, -1]
            allowed = answer.allowed()
            answer.write(allowed[int(logits[allowed].argmax())])
        # An answer that is cut has complete lines only.
        if answers[index].ids != (answer.ids if answer.ended else answer.complete_lines()):
            raise CheckFailed(f"answer {index} differs from token-by-token decoding")
    return f"{len(requests)} answers equal token by token"


@contextmanager
def _measured() -> Iterator[dict[str, float]]:
    """Count the passes, and the seconds in the grammar, while active."""
    figures = {"passes": 0.0, "grammar": 0.0}
    most_probable = constrained.most_probable

    def counted(*arguments: Any) -> torch.Tensor:
        figures["passes"] += 1
        return most_probable(*arguments)

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments)
            figures["grammar"] += time.perf_counter() - start
            return result

        return call

    with ExitStack() as stack:
        stack.enter_context(patch.object(constrained, "most_probable", counted))
        for name in ("allowed", "write", "write_forced"):
            stack.enter_context(patch.object(PartialAnswer, name, timed(getattr(PartialAnswer, name))))
        yield figures


def _decode_all(model: nn.Module, requests: Sequence[Request], rows: int) -> None:
    list(decode(model, requests, RowLimit(rows), PrefixCache([])))


def _time_of_passes(
    machine: Machine, name: str, model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Sequence[int]
) -> str:
    """Return the time of a pass for each number of rows, and the share of the grammar."""
    texts = []
    for count in rows:
        requests = _requests(tokenizer, count, 40 if machine.tiny else 300, 2 if machine.tiny else 5)
        run = partial(_decode_all, model, requests, count)
        with _measured() as figures:
            seconds = machine.seconds(run)
        share = figures["grammar"] / seconds
        texts.append(f"{count} rows {1000 * seconds / figures['passes']:.1f} ms ({100 * share:.0f} % grammar)")
    return f"a pass, {name}: {', '.join(texts)}"


def _kv_bytes(machine: Machine, model: PreTrainedModel) -> str:
    """Compare the bytes of cached keys and values with the estimate."""
    length = 64
    cache, pending = PrefixCache([]).lookup(model, _prompt(length))
    extend_caches(model, [cache], [pending])
    layers = [cache.get(layer) for layer in range(model.config.num_hidden_layers)]
    measured = sum(part.numel() * part.element_size() for layer in layers if layer for part in layer) // length
    shape = load_model_shape(str(machine.folder / "llama"), "causal")
    expected = kv_bytes_per_token(shape, DTYPES[machine.precision].itemsize)
    require(measured == expected, f"{measured} bytes of keys and values a token, {expected} estimated")
    return f"KV {measured} bytes a token, as estimated"


def _score_mode(machine: Machine, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Score all relations of many pairs."""
    pairs = 2 if machine.tiny else 20
    request = _requests(tokenizer, 1, 40 if machine.tiny else 1000, pairs)[0]
    scores: list[list[list[float]]] = []

    def score() -> None:
        with torch.inference_mode():
            scores.extend(relation_scores(model, [request.prompt], [request.grammar], PrefixCache([])))

    peak = machine.peak_bytes(score)
    require(len(scores[0]) == pairs, f"scores of {len(scores[0])} pairs, not of {pairs}")
    require(all(0 <= value <= 1.001 for pair in scores[0] for value in pair), "a score is no probability")
    return f"mode score, {pairs} pairs" + (f": peak {peak / GIB:.1f} GiB" if machine.has_gpu else "")


def _mode_free(machine: Machine, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Time free generation, on a GPU with cuDNN's attention too."""
    rows, tokens = (2, 4) if machine.tiny else (8, 32)
    queries = [
        Query(index, "t", ((0, 1),), " ".join(["Ada met Bob"] * (5 + index)), None, tokens) for index in range(rows)
    ]
    options = DecodeOptions(mode="free", batch_size=rows, max_new_tokens=tokens)

    def answer() -> None:
        list(generate(model, tokenizer, queries, options, lambda query: grammar(tokenizer, 1), PrefixCache([])))

    answer()
    text = f"mode free {rows * tokens / machine.seconds(answer):.0f} tokens/s"
    if not machine.has_gpu:
        return text
    # torch's own products take what cuDNN does not support.
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]):
        return f"{text}, {rows * tokens / machine.seconds(answer):.0f} with cuDNN"
