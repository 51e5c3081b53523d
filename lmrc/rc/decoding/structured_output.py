"""The grammar of the answers to a query as text, for the structured outputs of a vLLM server.

The grammar is one of token ids, not of characters. So an answer has the token ids of training, and each token is chosen
among the same ones as in `lmrc.rc.decoding.constrained`.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmrc.rc.decoding.grammar import Grammar
from lmrc.rc.decoding.line_tokens import Line, PairLines
from lmrc.rc.prompts.query_builder import shared_length

# Alternatives by the name of the rule. Each is a sequence of token ids and names of rules.
Rules = dict[str, list[list[int | str]]]
# Name of the rule of a whole answer.
ROOT = "root"


def ebnf_grammar(grammar: Grammar) -> str:
    """Return a grammar in the EBNF of xgrammar."""
    return "".join(
        f"{name} ::= {' | '.join(' '.join(map(_ebnf_symbol, symbols)) for symbols in alternatives)}\n"
        for name, alternatives in grammar_rules(grammar).items()
    )


def _ebnf_symbol(symbol: int | str) -> str:
    return symbol if isinstance(symbol, str) else f"Token({symbol})"


def grammar_rules(grammar: Grammar) -> Rules:
    """Return the rules of the possible answers, without the end of sequence. The first rule is the whole answer.

    Rule `pP` is a line of pair P and all that follows it. `pP_R` is the rest of a line of relation R or a later one and
    all that follows it. `mP_R` is what follows a line: a further line of the pair, of relation R or a later one, or the
    next pair. The rules of the first line of an answer have an `s` in place of the `p`.
    """
    return _Compiler(grammar).rules


class _Compiler:
    """Collects the rules of a grammar."""

    def __init__(self, grammar: Grammar) -> None:
        self.rules: Rules = {ROOT: [["s0"]]}
        self._grammar = grammar
        # Names of the rules of token sequences that occur several times.
        self._shared: dict[Line, str] = {}
        self._add_pair(0, is_first=True)
        for pair in range(grammar.pair_count):
            self._add_pair(pair)

    def _add_pair(self, pair: int, is_first: bool = False) -> None:
        lines, offered = self._grammar.lines(pair, is_first), self._grammar.offered(pair)
        if pair == 0 and not is_first and len(offered) == 1:
            return  # no second line of the first pair
        none = self._grammar.none
        head, middles, tail = _split(lines, [*offered, *([] if none is None else [none])])
        name = f"{'s' if is_first else 'p'}{pair}"
        if is_first or pair > 0:
            first: list[list[int | str]] = [[*self._share(head), f"{name}_{offered[0]}"]]
            if none is not None:
                first += self._lines(pair, lines, none, [*self._share(head), *self._share(middles[none])], tail, None)
            self.rules[name] = first
        for relation, later in zip(offered, [*offered[1:], None], strict=True):
            choice = self._lines(pair, lines, relation, self._share(middles[relation]), tail, later)
            if later is not None:
                choice.append([f"{name}_{later}"])
                if not is_first:
                    self.rules[f"m{pair}_{later}"] = [[*self._share(head), f"{name}_{later}"], *self._next_pair(pair)]
            self.rules[f"{name}_{relation}"] = choice

    def _next_pair(self, pair: int) -> list[list[int | str]]:
        return [[f"p{pair + 1}"]] if pair + 1 < self._grammar.pair_count else []

    def _lines(
        self, pair: int, lines: PairLines, relation: int, start: list[int | str], tail: Line, later: int | None
    ) -> list[list[int | str]]:
        """Return a line from `start` on, and what follows it.

        Args:
            tail: the last tokens of the line.
            later: the next relation that the pair may have, if any.
        """
        end, is_last = lines.ends[relation], pair + 1 == self._grammar.pair_count
        alternatives = []
        if later is not None or not is_last:
            follows = f"p{pair + 1}" if later is None else f"m{pair}_{later}"
            alternatives.append([*start, *self._share(tail + end.before_line), follows])
        if is_last:
            alternatives.append([*start, *self._share(tail + end.before_end)])
        return alternatives

    def _share(self, tokens: Line) -> list[int | str]:
        """Return the name of a rule for these tokens; nothing for no tokens."""
        if not tokens:
            return []
        if tokens not in self._shared:
            name = f"r{len(self._shared)}"
            self._shared[tokens] = name
            self.rules[name] = [[*tokens]]
        return [self._shared[tokens]]


def _split(lines: PairLines, relations: Sequence[int]) -> tuple[Line, dict[int, Line], Line]:
    """Split lines into the tokens that all start with, those of each relation, and those that all end with."""
    ids = [lines.ids[relation] for relation in relations]
    start = shared_length(ids)
    if len(ids) == 1:
        return ids[0], {relations[0]: ()}, ()
    rests = [line[start:] for line in ids]
    stop = min(shared_length([line[::-1] for line in rests]), min(map(len, rests)))
    middles = {relation: rest[: len(rest) - stop] for relation, rest in zip(relations, rests, strict=True)}
    return ids[0][:start], middles, rests[0][len(rests[0]) - stop :]
