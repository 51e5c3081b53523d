"""Ablation of ideas for RC: short trainings of SmolLM2, and the scores of LMRC with them on dev documents.

Ideas exist only here. All trainings of a seed start from the same weights; those that ask about the gold pairs use the
same documents in the same order.

    python benchmarks/rc_ideas.py IDEA --train CORPUS --dev CORPUS --candidates FOLDER [--train-candidates FOLDER]
        [--steps 100] [--seed 66] [--base embedded:smollm2]

The corpora are those of `lmrc data build`; dev is a sample of some dozen documents. `--candidates` are the pairs of dev
that RCP proposes at 0.5. `--train-candidates`, which top-k and negatives need, are those of the training documents, by
an encoder that has not learnt from them. Both encoders have a relation head. `dev_loss` is the mean loss of a token of
the answers about gold pairs. Ideas:
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch
import yaml

from lmrc.config.schema import ClassifyConfig, DecodeOptions, PromptKind, RcConfig, RunOptions
from lmrc.corpus.candidates import Candidate, Candidates
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.predictions import Prediction
from lmrc.corpus.relation_schema import entity_types
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document
from lmrc.evaluation.metrics.scores import score
from lmrc.fusion.inputs import check_relations
from lmrc.rc.predict import ClassifyInference
from lmrc.rc.prompts.templates import PROMPTS, Pair, Prompt, entity_name, gold_pairs, line
from lmrc.rc.task import RcTask
from lmrc.training.backends.base import make_optimizer, scale_rates
from lmrc.training.distributed import ALONE
from lmrc.training.precision import autocast, resolve_precision
from lmrc.training.sampler import DeterministicSampler, step_seed
from lmrc.training.trainer import rate_scale, seed_everything

RECIPE = Path(__file__).with_name("study") / "rc.yaml"
# Relations that the prompt of top-k names for a pair.
TOP_K = 5
# Least P(relation) of the pairs that the LM is asked about, and of a hard negative.
THRESHOLD = 0.5

# Candidates by title and pair.
Proposed = Mapping[str, Mapping[Pair, Candidate]]


@dataclass(frozen=True, slots=True)
class Idea(Prompt):
    """The paper's prompt."""

    base: ClassVar[PromptKind] = "rc"
    needs_candidates: ClassVar[bool] = False

    proposed: Proposed = field(default_factory=dict)

    @classmethod
    def of(cls, proposed: Proposed) -> Idea:
        """Return the prompt of this idea."""
        paper = PROMPTS[cls.base]
        return cls(**{each.name: getattr(paper, each.name) for each in fields(Prompt)}, proposed=proposed)


@dataclass(frozen=True, slots=True)
class Types(Idea):
    """Entity types in the prompt: "(Skai TV, ORG| -| Greece, LOC)"."""

    def render(
        self, document: Document, pairs: Iterable[Pair], relations: RelationSet, left_out: Collection[int] = ()
    ) -> str:
        """Return the paper's prompt with the type of the first mention behind each name."""
        types = entity_types(document)
        names = [f"{entity_name(document, entity)}, {type_}" for entity, type_ in enumerate(types)]
        lines = [line(names[head], "-", names[tail]) for head, tail in sorted(pairs)]
        return _with_lines(Prompt.render(self, document, pairs, relations, left_out), lines)


@dataclass(frozen=True, slots=True)
class TopK(Idea):
    """The five most probable relations of each pair, by the relation head, in place of the list of all."""

    needs_candidates: ClassVar[bool] = True

    def render(
        self, document: Document, pairs: Iterable[Pair], relations: RelationSet, left_out: Collection[int] = ()
    ) -> str:
        """Return the paper's prompt with relations behind each pair, and without the relation set."""
        proposed = self.proposed.get(document.title, {})
        lines = []
        for pair in sorted(pairs):
            found = proposed[pair].relations if pair in proposed else ()
            best = sorted(found, key=lambda relation: -relation.logit)[:TOP_K]
            names = ", ".join(relations.name(relation.relation) for relation in best)
            lines.append(f"{line(entity_name(document, pair[0]), '-', entity_name(document, pair[1]))}: {names}")
        prompt = _with_lines(Prompt.render(self, document, pairs, relations, left_out), lines)
        start, end = prompt.index("### Relation set:"), prompt.index("### Text:")
        return prompt[:start] + prompt[end:]


@dataclass(frozen=True, slots=True)
class Negatives(Idea):
    """Hard negatives: pairs without a relation that RCP proposes are asked about in training too, with None."""

    base: ClassVar[PromptKind] = "direct"
    needs_candidates: ClassVar[bool] = True

    def pairs(self, document: Document) -> list[Pair]:
        """Return the gold pairs and those that RCP proposes."""
        likely = self.proposed.get(document.title, {}).values()
        false = {(pair.head, pair.tail) for pair in likely if pair.probability >= THRESHOLD}
        return sorted({*gold_pairs(document), *false})


IDEAS: dict[str, type[Idea]] = {"none": Idea, "types": Types, "top-k": TopK, "negatives": Negatives}


def _with_lines(prompt: str, lines: list[str]) -> str:
    """Return a prompt with other lines of its pairs."""
    start, end = prompt.rindex("Entity pairs:\n") + len("Entity pairs:\n"), prompt.rindex("\n\n### Response:")
    return prompt[:start] + "\n".join(lines) + prompt[end:]


def read_candidates(folder: Path, corpus: Corpus) -> Candidates:
    """Return the candidates of a corpus.

    Raises:
        UserError: they are those of another corpus, or name no relations.
    """
    candidates = Candidates.open(folder)
    candidates.check(corpus)
    check_relations(candidates)
    return candidates


def by_pair(candidates: Candidates, corpus: Corpus) -> Proposed:
    """Return candidates by title and pair."""
    return {
        document.title: {(each.head, each.tail): each for each in row}
        for document, row in zip(corpus, candidates, strict=True)
    }


def train(task: RcTask, steps: int, config: RcConfig) -> None:
    """Train for a number of optimizer steps, or less if the data are fewer."""
    options, model = config.train, task.model.train()
    order = DeterministicSampler(len(task), options.batch_size, config.run.seed, task.fingerprint())
    total = min(steps, order.steps_per_epoch)
    optimizer = make_optimizer(task, options)
    for step in range(total):
        scale_rates(optimizer, rate_scale(step, total, round(options.warmup)))
        queries = order.batch(step)
        torch.manual_seed(step_seed(config.run.seed, step, 0, 0))
        with autocast(resolve_precision(options.precision), "cpu"):
            loss = task.loss(model, task.collate(queries)) / sum(map(task.weight, queries))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            print(f"step {step} of {total}: loss {loss.item():.4f}", flush=True)
    model.eval()


def answer(config: ClassifyConfig) -> dict[str, float]:
    """Return precision, recall and F1 of the triples, and the number of pairs that were asked about."""
    inference = ClassifyInference(config)
    inference.load()
    rows = inference.rows(range(inference.documents))
    found = [Prediction(row["title"], **triple) for row in rows for triple in row["triples"]]
    corpus = Corpus.open(config.corpus)
    scores = score(corpus, found, corpus.relations).all
    pairs = sum(len(generation["pairs"]) for row in rows for generation in row["generations"])
    return {"pairs": pairs, "precision": scores.precision, "recall": scores.recall, "f1": scores.f1}


def main() -> None:
    """Train, answer and print the scores."""
    ideas = "\n".join(f"  {name:10}{(idea.__doc__ or '').splitlines()[0]}" for name, idea in IDEAS.items())
    parser = argparse.ArgumentParser(
        description=(__doc__ or "") + ideas, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("idea", choices=IDEAS, metavar="IDEA")
    parser.add_argument("--train", type=Path, required=True, help="training corpus")
    parser.add_argument("--train-candidates", type=Path, help="its candidates, cross-fitted: RUN/candidates")
    parser.add_argument("--dev", type=Path, required=True, help="dev corpus")
    parser.add_argument("--candidates", type=Path, required=True, help="its candidates: RUN/candidates of propose")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps, at most an epoch")
    parser.add_argument("--seed", type=int, default=66)
    parser.add_argument("--base", default="embedded:smollm2")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    idea = IDEAS[arguments.idea]
    if idea.needs_candidates and arguments.train_candidates is None:
        parser.error(f"{arguments.idea} learns from candidates of the training corpus: give --train-candidates")
    if not idea.needs_candidates and arguments.train_candidates is not None:
        parser.error(f"{arguments.idea} learns from no candidates: leave --train-candidates out")
    torch.set_num_threads(arguments.threads)
    seed_everything(arguments.seed)
    corpora = Corpus.open(arguments.train), Corpus.open(arguments.dev)
    asked = read_candidates(arguments.candidates, corpora[1])
    if asked.threshold != THRESHOLD:
        parser.error(
            f"--candidates: {arguments.candidates} was proposed at {asked.threshold:g}, expected {THRESHOLD}: "
            f"run launch/propose.py with --threshold {THRESHOLD}"
        )
    proposed = dict(by_pair(asked, corpora[1]))
    if arguments.train_candidates is not None:
        proposed |= by_pair(read_candidates(arguments.train_candidates, corpora[0]), corpora[0])
    recipe: dict[str, Any] = yaml.safe_load(RECIPE.read_text())
    recipe["model"], recipe["run"] = {"base": arguments.base}, {"seed": arguments.seed}
    recipe["prompt"]["kind"] = idea.base
    config = RcConfig.model_validate(recipe)
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(PROMPTS, {idea.base: idea.of(proposed)}))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # The cache of queries does not know of ideas.
        stack.enter_context(mock.patch.dict("os.environ", {"LMRC_CACHE": str(folder / "cache")}))
        task = RcTask(config, *corpora)
        begun = time.process_time()
        train(task, arguments.steps, config)
        trained = time.process_time()
        adapter = folder / "adapter"
        state = {name: weight for name, weight in task.model.state_dict().items() if "lora_" in name}
        task.export(adapter, state)
        with torch.no_grad(), autocast(resolve_precision(config.train.precision), "cpu"):
            # negatives has other answers, whose loss says nothing beside these.
            loss = None if PROMPTS[idea.base].asks_all_pairs else task.evaluate(task.model, ALONE)["loss"]
        evaluated = time.process_time()
        scores = answer(
            ClassifyConfig(
                run=RunOptions(name="run", folder=folder),
                corpus=arguments.dev,
                rc=adapter,
                candidates=arguments.candidates,
                decode=DecodeOptions(batch_size=32),
            )
        )
    minutes = {"training": (trained - begun) / 60, "answering": (time.process_time() - evaluated) / 60}
    print(json.dumps({"idea": arguments.idea, "dev_loss": loss, **scores, "minutes": minutes}))


if __name__ == "__main__":
    main()
