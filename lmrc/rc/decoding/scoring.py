"""The probability of every relation for every pair, without writing an answer.

The possible lines of all pairs of a query are one tree behind its prompt, which goes through the LM in one pass.
Probabilities are those of the LM among the tokens with which a possible line may go on. A second pass asks which
relation follows the most probable one of each pair, and so on, until nothing is likely to follow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lmrc.rc.decoding.grammar import Grammar
from lmrc.rc.model.kv_cache import KVCache, PrefixCache, TreeLayout, extend_caches
from lmrc.rc.model.packed_attention import packed_forward

FOLLOWS = 0.5
"""A further relation of a pair is looked for behind those that this much of the probability has follow one another."""
_BRANCHINGS = 512
"""Logits that a pass computes at most, but for a single text: each is as wide as the vocabulary."""

Line = tuple[int, ...]
"""Token ids."""


@dataclass
class _Chain:
    """The most probable relations of a pair so far, and the probability of each relation to be among its answers."""

    pair: int
    scores: list[float]
    relations: list[int]
    written: Line = ()
    probability: float = 1.0
    """That an answer begins with these relations."""


def relation_scores(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    grammars: Sequence[Grammar],
    prefix_cache: PrefixCache,
) -> list[list[list[float]]]:
    """For each query and each of its pairs the probability of each relation of the set to be among the pair's answers.

    Pairs are asked one by one: each as if it were the first to be answered. A `None` has no score of its own. The
    probability of a relation that is not the first of its pair counts where it follows the most probable ones, so that
    it is a lower bound.
    """
    caches = _read_prompts(model, prompts, prefix_cache)
    chains = [[_Chain(pair, [0.0] * grammar.relations, []) for pair in range(grammar.pairs)] for grammar in grammars]
    active = [list(of_query) for of_query in chains]
    while any(active):
        asked = [
            [grammar.next_lines(chain.pair, chain.relations) for chain in of_query]
            for grammar, of_query in zip(grammars, active, strict=True)
        ]
        groups = [
            [[chain.written + line for _, line in lines] for chain, lines in zip(of_query, of_asked, strict=True)]
            for of_query, of_asked in zip(active, asked, strict=True)
        ]
        found = _probabilities(model, caches, [prompt[-1] for prompt in prompts], groups)
        for query, of_query in enumerate(active):
            active[query] = [
                chain
                for chain, lines, logs in zip(of_query, asked[query], found[query], strict=True)
                if _extend(chain, lines, logs)
            ]
    return [[chain.scores for chain in of_query] for of_query in chains]


def _extend(chain: _Chain, lines: Sequence[tuple[int | None, Line]], logs: Sequence[float]) -> bool:
    """Add what follows the chain. Returns whether to look for more behind its most probable relation."""
    following: dict[int, tuple[float, Line]] = {}
    for (relation, line), log in zip(lines, logs, strict=True):
        if relation is not None and relation < len(chain.scores):
            probability = math.exp(log)
            chain.scores[relation] += chain.probability * probability
            following[relation] = (probability, line)
    if not following or sum(probability for probability, _ in following.values()) < FOLLOWS:
        return False
    best = max(following, key=lambda relation: following[relation][0])
    probability, line = following[best]
    chain.relations.append(best)
    chain.written += line
    chain.probability *= probability
    return True


def _read_prompts(model: nn.Module, prompts: Sequence[Sequence[int]], prefix_cache: PrefixCache) -> list[KVCache]:
    """All but the last token of each: behind it begins the tree."""
    caches, rests = [], []
    for prompt in prompts:
        memory, rest = prefix_cache.lookup(model, prompt)
        caches.append(memory)
        rests.append(rest[:-1])
    going = [index for index, rest in enumerate(rests) if rest]
    if going:
        extend_caches(model, [caches[index] for index in going], [rests[index] for index in going])
    return caches


class _Tree:
    """The lines of all groups of a text, behind the last token of its prompt; what begins alike is there once."""

    def __init__(self, root: int, groups: Sequence[Sequence[Line]]) -> None:
        tokens, parents, children = [root], [-1], [dict[int, int]()]
        # Of each group: where its lines part, and the tokens they go on with.
        self.branchings: list[dict[int, list[int]]] = []
        for lines in groups:
            following: dict[int, dict[int, None]] = {}
            for line in lines:
                node = 0
                for token in line:
                    following.setdefault(node, {})[token] = None
                    if token not in children[node]:
                        children[node][token] = len(tokens)
                        tokens.append(token)
                        parents.append(node)
                        children.append({})
                    node = children[node][token]
            self.branchings.append({node: list(ways) for node, ways in following.items() if len(ways) > 1})
        self._children = children
        needed: set[int] = set()
        for node in {node for group in self.branchings for node in group}:
            while node >= 0 and node not in needed:
                needed.add(node)
                node = parents[node]
        kept = sorted(needed)
        self.place = {node: place for place, node in enumerate(kept)}
        self.tokens = [tokens[node] for node in kept]
        self.parents = [self.place.get(parents[node], -1) for node in kept]

    def path(self, group: int, line: Line) -> list[tuple[int, int]]:
        """The branchings of a line in its group: (node, token it goes on with)."""
        node, steps = 0, []
        for token in line:
            if node in self.branchings[group]:
                steps.append((node, token))
            node = self._children[node][token]
        return steps


@torch.inference_mode()
def _probabilities(
    model: nn.Module, caches: Sequence[KVCache], roots: Sequence[int], groups: Sequence[Sequence[Sequence[Line]]]
) -> list[list[list[float]]]:
    """For each text and group the logarithm of the probability of each line among those of its group."""
    trees = [_Tree(root, of_text) for root, of_text in zip(roots, groups, strict=True)]
    logs: list[list[dict[tuple[int, int], float]]] = [[{} for _ in of_text] for of_text in groups]
    batch: list[int] = []
    count = 0
    for text, tree in enumerate(trees):
        size = len({node for group in tree.branchings for node in group})
        if batch and count + size > _BRANCHINGS:
            _pass(model, caches, trees, batch, logs)
            batch, count = [], 0
        if size:
            batch.append(text)
            count += size
    if batch:
        _pass(model, caches, trees, batch, logs)
    return [
        [
            [sum(logs[text][number][step] for step in trees[text].path(number, line)) for line in lines]
            for number, lines in enumerate(of_text)
        ]
        for text, of_text in enumerate(groups)
    ]


def _pass(
    model: nn.Module,
    caches: Sequence[KVCache],
    trees: Sequence[_Tree],
    batch: Sequence[int],
    logs: list[list[dict[tuple[int, int], float]]],
) -> None:
    """One pass over the trees of a batch of texts; fills in the logarithms of all ways at all branchings."""
    device = next(model.parameters()).device
    layout = TreeLayout([caches[text] for text in batch], [trees[text].parents for text in batch])
    rows: list[tuple[int, int, int, list[int]]] = []
    logit_positions: dict[int, int] = {}  # place in the pass → row of the logits
    logits_of: list[int] = []
    start = 0
    for text in batch:
        tree = trees[text]
        for number, branchings in enumerate(tree.branchings):
            for node, ways in branchings.items():
                rows.append((text, number, node, ways))
                logits_of.append(logit_positions.setdefault(start + tree.place[node], len(logit_positions)))
        start += len(tree.tokens)
    ids = torch.tensor([token for text in batch for token in trees[text].tokens], device=device)
    selected = torch.tensor(list(logit_positions), device=device)
    logits = packed_forward(model, ids, layout.positions().to(device), layout, selected)
    width = max(len(ways) for *_, ways in rows)
    index = torch.tensor([[*ways, *[ways[0]] * (width - len(ways))] for *_, ways in rows], device=device)
    real = torch.tensor([[True] * len(ways) + [False] * (width - len(ways)) for *_, ways in rows], device=device)
    chosen = logits.float()[torch.tensor(logits_of, device=device)[:, None], index].masked_fill(~real, float("-inf"))
    for (text, number, node, ways), found in zip(rows, chosen.log_softmax(1).tolist(), strict=True):
        logs[text][number].update({(node, token): log for token, log in zip(ways, found, strict=False)})
