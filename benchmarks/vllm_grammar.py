"""The grammar of answers in xgrammar and in llguidance: seconds to compile it, and per token, by the number of pairs.

    .venv-vllm/bin/python benchmarks/vllm_grammar.py --corpus data/dev-20

The pairs are the first ones of the document with the most entities. An answer is drawn at random along our own grammar.
At each token, the tokens that a library allows are compared with ours. Seconds are those of the processor.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoTokenizer

from lmrc.corpus.corpus import Corpus
from lmrc.corpus.docred import candidate_pairs
from lmrc.pretrained.packaged import resolve
from lmrc.rc.decoding.grammar import Grammar, PartialAnswer
from lmrc.rc.decoding.structured_output import ROOT, ebnf_grammar, grammar_rules
from lmrc.rc.prompts.query_builder import Query

LIBRARIES = ("xgrammar", "llguidance")


class Matcher(NamedTuple):
    """A grammar that a library has compiled.

    Attributes:
        fill: writes the allowed tokens into the mask [1, words of 32 tokens].
        accept: takes the next token.
    """

    mask: torch.Tensor
    fill: Callable[[], object]
    accept: Callable[[int], object]


def lark_grammar(grammar: Grammar) -> str:
    """Return a grammar in the Lark syntax of llguidance."""

    def symbol(part: int | str) -> str:
        return part if isinstance(part, str) else f"<[{part}]>"

    return "".join(
        f"{'start' if name == ROOT else name}: {' | '.join(' '.join(map(symbol, parts)) for parts in alternatives)}\n"
        for name, alternatives in grammar_rules(grammar).items()
    )


def compiler(library: str, tokenizer: Any) -> Callable[[Grammar], Matcher]:
    """Return a function that compiles a grammar. Preparing the tokenizer is not part of it."""
    size = len(tokenizer)
    if library == "xgrammar":
        import xgrammar

        compiled = xgrammar.GrammarCompiler(
            xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=size), max_threads=1, cache_enabled=False
        )

        def compile_ebnf(grammar: Grammar) -> Matcher:
            matcher = xgrammar.GrammarMatcher(compiled.compile_grammar(ebnf_grammar(grammar)))
            mask = xgrammar.allocate_token_bitmask(1, size)
            return Matcher(mask, lambda: matcher.fill_next_token_bitmask(mask, 0), matcher.accept_token)

        return compile_ebnf
    import llguidance
    import llguidance.hf
    import llguidance.torch

    tokens = llguidance.hf.from_tokenizer(tokenizer, size)

    def compile_lark(grammar: Grammar) -> Matcher:
        matcher = llguidance.LLMatcher(tokens, llguidance.grammar_from("grammar", lark_grammar(grammar)))
        if matcher.get_error():
            raise SystemExit(matcher.get_error())
        mask = llguidance.torch.allocate_token_bitmask(1, tokens.vocab_size)
        return Matcher(
            mask,
            lambda: llguidance.torch.fill_next_token_bitmask(matcher, mask, 0),
            lambda token: matcher.consume_tokens([token]),
        )

    return compile_lark


def allowed_tokens(mask: torch.Tensor) -> list[int]:
    """Return the tokens of a mask."""
    bits = np.unpackbits(mask.numpy().view(np.uint8), bitorder="little")
    found: list[int] = np.flatnonzero(bits).tolist()
    return found


def measure(library: str, corpus: Path, lm: str, pairs: int, tokens: int, seed: int) -> dict[str, Any]:
    """Return the figures of a library for a number of pairs."""
    documents = Corpus.open(corpus)
    tokenizer: Any = AutoTokenizer.from_pretrained(resolve(lm))
    index = max(range(len(documents)), key=lambda each: len(documents[each].entities))
    document = documents[index]
    asked = tuple(candidate_pairs(len(document.entities))[:pairs])
    assert len(asked) == pairs, f"the document has {len(asked)} pairs"
    grammar = Grammar(
        Query(index, document.title, asked, "", None, 0), document, documents.relations, "rc", tokenizer, None
    )
    rules = grammar_rules(grammar)
    compile_grammar = compiler(library, tokenizer)
    begun = time.process_time()
    matcher = compile_grammar(grammar)
    figures: dict[str, Any] = {
        "library": library,
        "pairs": pairs,
        "rules": len(rules),
        "compile_seconds": round(time.process_time() - begun, 3),
    }
    chance, answer, seconds, differ, choices = random.Random(seed), PartialAnswer(grammar), list[float](), 0, 0
    while len(seconds) < tokens:
        allowed = sorted(answer.allowed())
        begun = time.process_time()
        matcher.fill()
        filled = time.process_time() - begun
        differ += allowed_tokens(matcher.mask) != allowed
        choices += len(allowed) > 1
        token = chance.choice(allowed)
        answer.write(token)
        if answer.ended:
            break
        begun = time.process_time()
        matcher.accept(token)
        seconds.append(filled + time.process_time() - begun)
    return figures | {
        "tokens": len(seconds),
        "choices": choices,
        "masks_that_differ": differ,
        "milliseconds_per_token": round(1000 * float(np.mean(seconds)), 3),
        "longest_milliseconds": round(1000 * max(seconds), 3),
    }


def main() -> None:
    """Measure each library and number of pairs in a process of its own, with a time limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="a corpus")
    parser.add_argument("--lm", default="embedded:smollm2", help="LM of the tokenizer")
    parser.add_argument("--pairs", type=int, nargs="+", default=[5, 19, 30, 60], help="numbers of pairs")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=LIBRARIES)
    parser.add_argument("--tokens", type=int, default=600, help="most tokens of an answer")
    parser.add_argument("--seed", type=int, default=66, help="seed of the answer")
    parser.add_argument("--limit", type=float, default=300, help="most seconds per library and number of pairs")
    parser.add_argument("--only", action="store_true", help="measure in this process: one library and number of pairs")
    given = parser.parse_args()
    if given.only:
        (library,), (pairs,) = given.libraries, given.pairs
        print(json.dumps(measure(library, given.corpus, given.lm, pairs, given.tokens, given.seed)))
        return
    for pairs in given.pairs:
        for library in given.libraries:
            command = [sys.executable, __file__, "--corpus", str(given.corpus), "--lm", given.lm, "--only"]
            command += ["--pairs", str(pairs), "--libraries", library, "--tokens", str(given.tokens)]
            failed = {"library": library, "pairs": pairs}
            try:
                status = subprocess.run([*command, "--seed", str(given.seed)], timeout=given.limit).returncode
                if status:
                    # llguidance needs more than the usual stack for many rules, and dies by SIGSEGV (-11).
                    print(json.dumps({**failed, "status": status}), flush=True)
            except subprocess.TimeoutExpired:
                print(json.dumps({**failed, "seconds": f"more than {given.limit:g}"}), flush=True)


if __name__ == "__main__":
    main()
