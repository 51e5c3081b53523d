"""Count what the host does per pass of constrained decoding on a GPU, without a GPU.

An LM of LLaMA2-13B's shape, with its adapter merged, decodes on the meta device. There tensors have no data, so any
other look at a value than the counted one raises an error. ATen calls are counted as a GPU would get them: views are
left out, and the attention of a layer is one call. The grammar is timed on the CPU: answers for 20 pairs and DocRED's
96 relations are written with random choices. Its time includes the tokenization of all possible lines.

    python benchmarks/decoding.py [--tokenizer embedded:smollm2]
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import mean, median
from unittest.mock import patch

import torch
from launches import CallCounter
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase

from lmrc.corpus.relations import DOCRED
from lmrc.corpus.types import Document, Mention
from lmrc.rc.decoding.constrained import Request, decode
from lmrc.rc.decoding.grammar import Grammar, PartialAnswer
from lmrc.rc.decoding.row_limit import RowLimit
from lmrc.rc.model.fused_norm import fuse_norms
from lmrc.rc.model.kv_cache import PrefixCache
from lmrc.rc.model.lora import load_tokenizer
from lmrc.rc.model.packed_attention import IMPLEMENTATION
from lmrc.rc.prompts.query_builder import Query

LLAMA2_13B = LlamaConfig(
    hidden_size=5120,
    intermediate_size=13824,
    num_hidden_layers=40,
    num_attention_heads=40,
    max_position_embeddings=4096,
)
_NAMES = ["New York City", "Bob (singer)", "University of Oxford", "U.S.", "1984", "Zoë Kravitz"]
_PREFIX = [1] * 300
_PAIRS = 20


def grammar(tokenizer: PreTrainedTokenizerBase, pairs: int) -> Grammar:
    """Return the grammar of a query about so many pairs and 96 relations."""
    document = Document("t", (("a",),), tuple((Mention(name, 0, 0, 1, "MISC"),) for name in _NAMES), None)
    everything = [(head, tail) for head in range(len(_NAMES)) for tail in range(len(_NAMES)) if head != tail]
    return Grammar(Query(0, "t", tuple(everything[:pairs]), "", None, 10_000), document, DOCRED, "rc", tokenizer)


def llama2_on_meta() -> PreTrainedModel:
    """Return an LM of LLaMA2-13B's shape in bf16, without data, as it is loaded for inference."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LLAMA2_13B, attn_implementation=IMPLEMENTATION, dtype=torch.bfloat16)
    assert isinstance(model, PreTrainedModel)
    fuse_norms(model)
    return model.eval()


def calls_per_pass(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: int) -> tuple[list[int], int]:
    """Decode on the meta device with random choices.

    Returns:
        Number of ATen calls of each pass but the first, which reads the prompts; number of syncs.
    """
    generator = random.Random(0)
    counts: list[int] = []
    requests = [Request(_PREFIX + [1] * (300 + 17 * row), grammar(tokenizer, 5), 200) for row in range(2 * rows)]

    def choose(chosen: Tensor) -> Sequence[tuple[float, float]]:
        counts.append(calls.total)
        return [(generator.randrange(2), 0.0) for _ in range(len(chosen))]

    with CallCounter() as calls, patch.object(Tensor, "tolist", choose):
        list(decode(model, requests, RowLimit(rows), PrefixCache(_PREFIX)))
    return [after - before for before, after in pairwise(counts)], len(counts)


def milliseconds_per_choice(tokenizer: PreTrainedTokenizerBase, answers: int = 20) -> float:
    """Return the time of the grammar per choice in ms: the least of several answers, each of a grammar of its own."""
    least = float("inf")
    for seed in range(answers):
        generator, choices = random.Random(seed), 0
        start = time.perf_counter()
        answer = PartialAnswer(grammar(tokenizer, _PAIRS))
        answer.write_forced(10_000)
        while not answer.ended:
            answer.write(generator.choice(answer.allowed()))
            answer.write_forced(10_000)
            choices += 1
        least = min(least, 1000 * (time.perf_counter() - start) / choices)
    return least


def report(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield the results, a line each."""
    yield f"grammar, {_PAIRS} pairs and {len(DOCRED)} relations: {milliseconds_per_choice(tokenizer):.3f} ms a choice"
    model = llama2_on_meta()
    for rows in (1, 8, 32):
        counts, syncs = calls_per_pass(model, tokenizer, rows)
        yield (
            f"decoding, {rows} rows: {median(counts):.0f} calls a pass ({mean(counts):.0f} on average, with rows that "
            f"begin and caches that move), {syncs / (len(counts) + 1):.0f} sync"
        )


def main() -> None:
    """Run the benchmark and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default="embedded:smollm2", help="folder, hub name or embedded: name")
    options = parser.parse_args()
    for line in report(load_tokenizer(options.tokenizer)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
