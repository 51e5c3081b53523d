from __future__ import annotations

import re

import pytest
from transformers import PreTrainedTokenizerFast

from lmrc.config.schema import PromptKind
from lmrc.corpus.relation_schema import RelationSchema
from lmrc.rc.decoding.grammar import Grammar
from lmrc.rc.decoding.structured_output import ROOT, Rules, ebnf_grammar, grammar_rules
from lmrc.rc.prompts.query_builder import Query
from lmrc.rc.prompts.templates import Pair
from tests.rc import tiny

TYPED = tiny.typed(tiny.document(["Ada", "Bob (singer)", "U.S."], []), ["PER", "PER", "LOC"])
RULES = {"P26": {"types": [["PER", "PER"]]}, "P17": {"types": [["PER", "LOC"]]}, "P495": {"types": [["PER", "LOC"]]}}
SCHEMA = RelationSchema.of_json(RULES, tiny.RELATIONS, "schema.json")


def grammar_of(
    pairs: list[Pair], kind: PromptKind, lm_tokenizer: PreTrainedTokenizerFast, schema: RelationSchema | None = None
) -> Grammar:
    query = Query(0, "", tuple(pairs), "", None, 0)
    return Grammar(query, TYPED, tiny.RELATIONS, kind, lm_tokenizer, schema)


def answers(rules: Rules, symbols: list[int | str]) -> set[tuple[int, ...]]:
    """Return all token sequences that a sequence of symbols stands for."""
    found = {()}
    for symbol in symbols:
        ends = {(symbol,)} if isinstance(symbol, int) else set.union(*(answers(rules, each) for each in rules[symbol]))
        found = {start + end for start in found for end in ends}
    return found


@pytest.mark.parametrize("schema", [None, SCHEMA])
@pytest.mark.parametrize("merges_newlines", [False, True])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_answers_are_those_of_training(kind: PromptKind, merges_newlines: bool, schema: RelationSchema | None) -> None:
    lm_tokenizer = tiny.newline_tokenizer() if merges_newlines else tiny.merging_tokenizer()
    pairs = [(0, 1), (1, 2)]
    expected = tiny.whole_answers(lm_tokenizer, kind, TYPED, pairs, schema)
    rules = grammar_rules(grammar_of(pairs, kind, lm_tokenizer, schema))
    assert answers(rules, [ROOT]) == {ids[:-1] for ids in expected}  # without the end of sequence


def test_size_grows_with_pairs_times_relations() -> None:
    """Names stand once per pair and relations once, so that an answer to 30 pairs and 96 relations is compiled fast."""
    lm_tokenizer = tiny.merging_tokenizer()
    sizes = [
        sum(len(symbols) for each in grammar_rules(grammar_of(pairs, "rc", lm_tokenizer)).values() for symbols in each)
        for pairs in ([(0, 1)] * 2, [(0, 1)] * 4)
    ]
    assert sizes[1] < 2 * sizes[0]


def test_text_names_every_rule() -> None:
    text = ebnf_grammar(grammar_of([(0, 1), (1, 2)], "direct", tiny.merging_tokenizer()))
    defined = [line.split(" ::= ")[0] for line in text.splitlines()]
    assert len(set(defined)) == len(defined) and ROOT in defined
    assert set(re.findall(r"\b[a-z]\w*", text)) == set(defined)
