"""Measure what the grammar of constrained decoding costs per choice, on the CPU, without an LM.

An answer for 20 pairs and DocRED's 96 relations is written with random choices among the allowed tokens. The time
includes the tokenization of all possible lines. The least of several answers is printed.

    python benchmarks/grammar.py [--tokenizer embedded:smollm2]
"""

from __future__ import annotations

import argparse
import random
import time

from transformers import PreTrainedTokenizerBase

from lmrc.corpus.relations import DOCRED
from lmrc.corpus.types import Document, Mention
from lmrc.rc.decoding.grammar import Grammar, PartialAnswer
from lmrc.rc.model.lora import load_tokenizer
from lmrc.rc.prompts.query_builder import Query

_NAMES = ["New York City", "Bob (singer)", "University of Oxford", "U.S.", "1984", "Zoë Kravitz"]
_PAIRS = 20


def milliseconds_per_choice(tokenizer: PreTrainedTokenizerBase, answers: int = 20) -> float:
    """Return the time per choice in ms: the least of several answers, each of a grammar of its own."""
    document = Document("t", (("a",),), tuple((Mention(name, 0, 0, 1, "MISC"),) for name in _NAMES), None)
    everything = [(head, tail) for head in range(len(_NAMES)) for tail in range(len(_NAMES)) if head != tail]
    query = Query(0, "t", tuple(everything[:_PAIRS]), "", None, 10_000)
    least = float("inf")
    for seed in range(answers):
        generator, choices = random.Random(seed), 0
        start = time.perf_counter()
        answer = PartialAnswer(Grammar(query, document, DOCRED, "rc", tokenizer))
        answer.write_forced(query.answer_room)
        while not answer.ended:
            answer.write(generator.choice(answer.allowed()))
            answer.write_forced(query.answer_room)
            choices += 1
        least = min(least, 1000 * (time.perf_counter() - start) / choices)
    return least


def main() -> None:
    """Run the benchmark and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default="embedded:smollm2", help="folder, hub name or embedded: name")
    options = parser.parse_args()
    tokenizer = load_tokenizer(options.tokenizer)
    print(f"grammar, {_PAIRS} pairs and {len(DOCRED)} relations: {milliseconds_per_choice(tokenizer):.3f} ms a choice")


if __name__ == "__main__":
    main()
