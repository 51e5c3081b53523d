"""Probability of every relation for every pair, without generating an answer (mode score).

The possible lines of all pairs of a query form a token tree after its prompt. One forward pass scores the whole tree,
or an engine that only knows sequences follows its probable branches, step by step.
Probabilities are those of the LM, normalized over the tokens that continue a possible line. A further pass scores the
relations that may follow the most probable one of each pair, and so on until no pair is likely to have another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from lmrc.rc.decoding.grammar import Grammar
from lmrc.rc.model.kv_cache import KVCache, PrefixCache, TreeLayout, extend_caches
from lmrc.rc.model.packed_attention import packed_forward

# Look for another relation of a pair only if the probability that one follows is at least this.
MIN_FOLLOW_PROBABILITY = 0.5
# An engine that follows branches step by step leaves those out that are less probable than this.
MIN_BRANCH_PROBABILITY = 0.001
# Rows of logits, each as wide as the vocabulary, that one pass computes. A single query may exceed it.
_MAX_LOGIT_ROWS = 512

# Token ids.
Line = tuple[int, ...]
# Log probability of each next token, by (node, token).
_BranchLogs = dict[tuple[int, int], float]


@dataclass
class _Chain:
    """The most probable relations of a pair so far.

    Attributes:
        scores: probability of each relation to be among the answers of the pair, so far.
        relations: the most probable relation, the most probable one after it, and so on.
        written: token ids of their lines.
        probability: probability that an answer starts with these relations.
    """

    pair: int
    scores: list[float]
    relations: list[int]
    written: Line = ()
    probability: float = 1.0


def relation_scores(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    grammars: Sequence[Grammar],
    prefix_cache: PrefixCache,
) -> list[list[list[float]]]:
    """Compute the probability that each relation is among the answers for each pair.

    Each pair is scored as if it were the first in the answer. None gets no score. A relation that is not the first of
    its pair is scored only after the most probable ones, so its score is a lower bound.

    Args:
        prompts: token ids of each query's prompt.
        grammars: grammar of each query.
        prefix_cache: KV cache of the prefix that prompts share.

    Returns:
        Probabilities [queries][pairs][relations].
    """
    caches, roots = _prefill(model, prompts, prefix_cache), [prompt[-1] for prompt in prompts]
    return scores_of_relations(grammars, lambda groups: _line_log_probabilities(model, caches, roots, groups))


def scores_of_relations(
    grammars: Sequence[Grammar],
    line_logs: Callable[[Sequence[Sequence[Sequence[Line]]]], Sequence[Sequence[Sequence[float]]]],
) -> list[list[list[float]]]:
    """Compute what `relation_scores` does with the log probabilities of lines from any source.

    Args:
        line_logs: returns the log probability of each line after the prompt of its query, among the lines of its group
            [queries][groups][lines].
    """
    chains = [
        [_Chain(pair, [0.0] * grammar.relation_count, []) for pair in range(grammar.pair_count)] for grammar in grammars
    ]
    active = [list(query_chains) for query_chains in chains]
    while any(active):
        # [queries][chains][lines]
        next_lines = [
            [grammar.next_lines(chain.pair, chain.relations) for chain in query_chains]
            for grammar, query_chains in zip(grammars, active, strict=True)
        ]
        groups = [
            [
                [chain.written + line for _, line in lines]
                for chain, lines in zip(query_chains, query_lines, strict=True)
            ]
            for query_chains, query_lines in zip(active, next_lines, strict=True)
        ]
        logs = line_logs(groups)
        for query, query_chains in enumerate(active):
            active[query] = [
                chain
                for chain, lines, line_logs in zip(query_chains, next_lines[query], logs[query], strict=True)
                if _extend(chain, lines, line_logs)
            ]
    return [[chain.scores for chain in query_chains] for query_chains in chains]


class _Branch(NamedTuple):
    """Lines of a group that start with the same tokens.

    Attributes:
        depth: number of these tokens.
        log: their log probability.
        lines: indices of the lines in the group.
    """

    query: int
    group: int
    depth: int
    log: float
    lines: list[int]


def line_logs_by_steps(
    next_logs: Callable[[Sequence[tuple[Sequence[int], Sequence[int]]]], Sequence[Sequence[float]]],
    prompts: Sequence[Sequence[int]],
    groups: Sequence[Sequence[Sequence[Line]]],
) -> list[list[list[float]]]:
    """Compute the log probability of each line token by token, without lines that are improbable from their start.

    Args:
        next_logs: returns the log probability of each of the tokens after each prompt, normalized over these tokens.
        prompts: token ids of each query's prompt.
        groups: token ids of each line [queries][groups][lines].

    Returns:
        Log probabilities [queries][groups][lines]; minus infinity if a line begins with a less probable sequence than
        `MIN_BRANCH_PROBABILITY`.
    """
    logs = [[[-math.inf] * len(lines) for lines in query_groups] for query_groups in groups]
    branches = [
        _Branch(query, group, 0, 0.0, list(range(len(lines))))
        for query, query_groups in enumerate(groups)
        for group, lines in enumerate(query_groups)
    ]
    while branches:
        # Branches before a choice, and the lines after each token of the choice.
        choices: list[tuple[_Branch, dict[int, list[int]]]] = []
        for branch in branches:
            tokens, lines, depth = groups[branch.query][branch.group], branch.lines, branch.depth
            while lines:
                following: dict[int, list[int]] = {}
                for line in lines:
                    if len(tokens[line]) == depth:
                        logs[branch.query][branch.group][line] = branch.log
                    else:
                        following.setdefault(tokens[line][depth], []).append(line)
                if len(following) > 1:
                    choices.append((branch._replace(depth=depth), following))
                    break
                lines, depth = next(iter(following.values()), []), depth + 1
        asked = []
        for branch, following in choices:
            any_line = groups[branch.query][branch.group][next(iter(following.values()))[0]]
            asked.append(([*prompts[branch.query], *any_line[: branch.depth]], [*following]))
        branches = [
            branch._replace(depth=branch.depth + 1, log=branch.log + log, lines=lines)
            for (branch, following), found in zip(choices, next_logs(asked), strict=True)
            for lines, log in zip(following.values(), found, strict=True)
            if branch.log + log >= math.log(MIN_BRANCH_PROBABILITY)
        ]
    return logs


def _extend(chain: _Chain, lines: Sequence[tuple[int | None, Line]], logs: Sequence[float]) -> bool:
    """Add the scores of the next lines and extend the chain by the most probable relation.

    Returns:
        True if another relation is likely to follow the chain.
    """
    following: dict[int, tuple[float, Line]] = {}
    for (relation, line), log in zip(lines, logs, strict=True):
        if relation is not None and relation < len(chain.scores):
            probability = math.exp(log)
            # The sum of rounded probabilities may be slightly above 1.
            chain.scores[relation] = min(1.0, chain.scores[relation] + chain.probability * probability)
            following[relation] = (probability, line)
    if not following or sum(probability for probability, _ in following.values()) < MIN_FOLLOW_PROBABILITY:
        return False
    best = max(following, key=lambda relation: following[relation][0])
    probability, line = following[best]
    chain.relations.append(best)
    chain.written += line
    chain.probability *= probability
    return True


def _prefill(model: nn.Module, prompts: Sequence[Sequence[int]], prefix_cache: PrefixCache) -> list[KVCache]:
    """Return a KV cache of each prompt without its last token, which becomes the root of the tree."""
    caches, suffixes = [], []
    for prompt in prompts:
        kv_cache, suffix = prefix_cache.lookup(model, prompt)
        caches.append(kv_cache)
        suffixes.append(suffix[:-1])
    nonempty = [index for index, suffix in enumerate(suffixes) if suffix]
    if nonempty:
        extend_caches(model, [caches[index] for index in nonempty], [suffixes[index] for index in nonempty])
    return caches


class _TokenTree:
    """The lines of a query as a prefix tree, whose root is the last token of the prompt.

    Only nodes with a branching below them, or at them, go through the model.

    Attributes:
        branchings: for each group of lines, the next tokens at each node with more than one.
        row: row of each kept node in the pass.
        tokens: token id of each kept node.
        parents: row of the parent of each kept node, or -1.
    """

    def __init__(self, root: int, groups: Sequence[Sequence[Line]]) -> None:
        tokens, parents, children = [root], [-1], [dict[int, int]()]
        self.branchings: list[dict[int, list[int]]] = []
        for lines in groups:
            next_tokens: dict[int, dict[int, None]] = {}  # An ordered set for each node.
            for line in lines:
                node = 0
                for token in line:
                    next_tokens.setdefault(node, {})[token] = None
                    if token not in children[node]:
                        children[node][token] = len(tokens)
                        tokens.append(token)
                        parents.append(node)
                        children.append({})
                    node = children[node][token]
            self.branchings.append({node: list(nexts) for node, nexts in next_tokens.items() if len(nexts) > 1})
        self._children = children
        needed: set[int] = set()
        for node in {node for group in self.branchings for node in group}:
            while node >= 0 and node not in needed:
                needed.add(node)
                node = parents[node]
        kept = sorted(needed)
        self.row = {node: row for row, node in enumerate(kept)}
        self.tokens = [tokens[node] for node in kept]
        self.parents = [self.row.get(parents[node], -1) for node in kept]

    def path(self, group: int, line: Line) -> list[tuple[int, int]]:
        """Return the branchings of a line within its group: (node, next token)."""
        node, steps = 0, []
        for token in line:
            if node in self.branchings[group]:
                steps.append((node, token))
            node = self._children[node][token]
        return steps


@torch.inference_mode()
def _line_log_probabilities(
    model: nn.Module, caches: Sequence[KVCache], roots: Sequence[int], groups: Sequence[Sequence[Sequence[Line]]]
) -> list[list[list[float]]]:
    """Compute the log probability of each line among the lines of its group.

    Args:
        caches: KV cache of each query's prompt without its last token.
        roots: last token of each prompt.
        groups: lines [queries][groups][lines].

    Returns:
        Log probabilities [queries][groups][lines].
    """
    trees = [_TokenTree(root, query_groups) for root, query_groups in zip(roots, groups, strict=True)]
    logs: list[list[_BranchLogs]] = [[{} for _ in query_groups] for query_groups in groups]
    batch: list[int] = []
    batch_rows = 0
    for query, tree in enumerate(trees):
        rows = len({node for group in tree.branchings for node in group})
        if batch and batch_rows + rows > _MAX_LOGIT_ROWS:
            _score_trees(model, caches, trees, batch, logs)
            batch, batch_rows = [], 0
        if rows:
            batch.append(query)
            batch_rows += rows
    if batch:
        _score_trees(model, caches, trees, batch, logs)
    return [
        [
            [sum(logs[query][group][step] for step in trees[query].path(group, line)) for line in lines]
            for group, lines in enumerate(query_groups)
        ]
        for query, query_groups in enumerate(groups)
    ]


def _score_trees(
    model: nn.Module,
    caches: Sequence[KVCache],
    trees: Sequence[_TokenTree],
    batch: Sequence[int],
    logs: list[list[_BranchLogs]],
) -> None:
    """Run the model once over the trees of a batch of queries, and write the result to `logs` [queries][groups]."""
    device = next(model.parameters()).device
    layout = TreeLayout([caches[query] for query in batch], [trees[query].parents for query in batch])
    branchings: list[tuple[int, int, int, list[int]]] = []  # (query, group, node, next tokens)
    logit_rows: dict[int, int] = {}  # position in the pass → row of the logits
    row_of_branching: list[int] = []
    start = 0
    for query in batch:
        tree = trees[query]
        for group, group_branchings in enumerate(tree.branchings):
            for node, nexts in group_branchings.items():
                branchings.append((query, group, node, nexts))
                row_of_branching.append(logit_rows.setdefault(start + tree.row[node], len(logit_rows)))
        start += len(tree.tokens)
    ids = torch.tensor([token for query in batch for token in trees[query].tokens], device=device)
    logits = packed_forward(
        model, ids, layout.positions().to(device), layout, torch.tensor(list(logit_rows), device=device)
    )
    width = max(len(nexts) for *_, nexts in branchings)
    # [branchings, width], padded with the first token.
    index = torch.tensor([[*nexts, *[nexts[0]] * (width - len(nexts))] for *_, nexts in branchings], device=device)
    is_padding = torch.tensor(
        [[False] * len(nexts) + [True] * (width - len(nexts)) for *_, nexts in branchings], device=device
    )
    rows = torch.tensor(row_of_branching, device=device)
    next_logits = logits.float()[rows[:, None], index].masked_fill(is_padding, float("-inf"))
    for (query, group, node, nexts), next_logs in zip(branchings, next_logits.log_softmax(1).tolist(), strict=True):
        # next_logs is padded to `width`.
        logs[query][group].update({(node, token): log for token, log in zip(nexts, next_logs, strict=False)})
