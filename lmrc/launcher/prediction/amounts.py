"""The amount of work of a stage: steps, model FLOPs, evaluations, passes; counted on a sample of its documents.

Word pieces and queries of up to `SAMPLE` documents are counted with the stage's own tokenizer and scaled to the corpus.
Candidates that do not exist yet are taken to be as many as the pairs with a relation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmrc.common.errors import UserError
from lmrc.config.schema import ClassifyConfig, ProposeConfig, RcConfig, RcpConfig
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.docred import relations_by_pair
from lmrc.corpus.types import Document
from lmrc.launcher.gpu_memory import RELATIONS, TYPES, classifier_parameters
from lmrc.launcher.model_shapes import ModelShape, load_model_shape
from lmrc.launcher.preflight.hub import find_model
from lmrc.rc.flops import RcFlops
from lmrc.rcp.flops import RcpFlops
from lmrc.usage.flops import MatrixWeights

# Documents that are tokenized, evenly spread over the corpus.
SAMPLE = 48
# Forward passes by which constrained decoding answers a pair: names are forced, so only the relation is chosen.
PASSES_PER_PAIR = 6
BF16, FP32 = 2, 4


class UnknownAmount(Exception):
    """The work cannot be counted: the corpus, the tokenizer or the model is not on this machine."""


@dataclass(frozen=True, kw_only=True)
class Amount:
    """The work of a stage over all processes.

    Attributes:
        flops: model FLOPs of all steps, or of reading the texts of an inference.
        passes: forward (and backward) passes of one process.
        layers: layers of the model, for the operations that the host starts in a pass.
        steps: optimizer steps; 0 for an inference.
        evaluations: evaluations; `evaluation_flops` and `evaluation_passes` are those of one.
        saved: bytes of the trained weights.
        loaded: bytes of the model.
        decode_passes: passes of one process that generate tokens, and read all weights for it.
    """

    flops: float
    passes: int
    layers: int
    loaded: float
    steps: int = 0
    evaluations: int = 0
    evaluation_flops: float = 0.0
    evaluation_passes: int = 0
    saved: float = 0.0
    decode_passes: int = 0


class Documents(Sequence[Document]):
    """Documents that are evenly spread over a corpus.

    Args:
        share: the share of the corpus, for a part of it that an earlier step writes.
    """

    def __init__(self, corpus: Corpus, share: float = 1.0) -> None:
        self.corpus, self.relations = corpus, corpus.relations
        self._count = max(1, round(share * len(corpus)))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self.corpus[index * len(self.corpus) // self._count]


@dataclass(frozen=True)
class StandIn:
    """A corpus that exists, and the share of it that a corpus of an earlier step will have."""

    corpus: Path
    share: float


def spread(corpus: Sequence[Document], count: int) -> list[Document]:
    """Return at most `count` documents, evenly spread over the corpus."""
    count = min(count, len(corpus))
    return [corpus[index * len(corpus) // count] for index in range(count)]


def evaluation_count(steps: int, per_epoch: int, eval_every: int, at_start: bool) -> int:
    """Return how often a training evaluates: after each epoch, every `eval_every` steps, and at the end."""
    due = {*range(per_epoch, steps + 1, per_epoch), steps}
    if eval_every:
        due |= {*range(eval_every, steps + 1, eval_every)}
    return len(due) + at_start


def amount_of(
    config: RcpConfig | RcConfig | ProposeConfig | ClassifyConfig,
    processes: int,
    corpora: Mapping[Path, StandIn] | None = None,
    trained: RcpConfig | RcConfig | None = None,
) -> Amount:
    """Count the work of a stage.

    Args:
        corpora: corpora that stand for those that an earlier step writes.
        trained: for an inference, the training of its model by an earlier step.

    Raises:
        UnknownAmount: a corpus, the tokenizer or the shape of the model is not on this machine.
    """
    known = corpora or {}

    def documents(path: Path) -> Documents:
        used = known.get(path, StandIn(path, 1.0))
        return Documents(Corpus.open(used.corpus), used.share)

    try:
        if isinstance(config, RcpConfig):
            return _rcp(config, processes, documents(config.data.train), documents(config.data.dev))
        if isinstance(config, RcConfig):
            return _rc(config, processes, documents(config.data.train), documents(config.data.dev))
        if isinstance(config, ProposeConfig):
            return _propose(config, processes, documents(config.corpus), trained)
        return _classify(config, processes, documents(config.corpus), trained)
    except UserError as error:
        raise UnknownAmount(str(error)) from error


def _shape(name: str, kind: str) -> ModelShape:
    from lmrc.launcher.model_shapes import UnknownShape

    try:
        return load_model_shape(name, "encoder" if kind == "encoder" else "causal")
    except UnknownShape as error:
        raise UnknownAmount(str(error)) from error


def _folder(name: str, option: str, config: RcpConfig | RcConfig | ProposeConfig | ClassifyConfig) -> Path:
    location = find_model(name, option, config.cluster, weights=False)
    if location.folder is None:
        raise UnknownAmount(f"the tokenizer of {name} is not on this machine")
    return location.folder


def _training_steps(config: RcpConfig | RcConfig, examples: int) -> tuple[int, int, float]:
    """Return all steps, the steps of an epoch, and how often each example is seen on average."""
    from lmrc.training.trainer import total_steps

    steps = total_steps(examples, config.train)
    per_epoch = -(-examples // config.train.examples_per_step)
    return steps, per_epoch, steps / per_epoch


def _passes(config: RcpConfig | RcConfig, steps: int, processes: int) -> int:
    from lmrc.training.sampler import MicroBatches

    options = config.train
    return steps * MicroBatches.plan(0, processes, options.examples_per_step, options.micro_batch_size).count


def _rcp_sizes(name: str, max_length: int, config: RcpConfig) -> tuple[RcpFlops, ModelShape]:
    import torch

    from lmrc.rcp.data.features import Features
    from lmrc.rcp.data.windows import Windows
    from lmrc.rcp.model.classifiers import CLASSIFIERS
    from lmrc.rcp.model.relation_head import RelationHead

    shape = _shape(name, "encoder")
    options = config.model
    with torch.device("meta"):
        features = Features(("",) * (TYPES if options.entity_types else 0), options.sentence_distance)
        classifier = CLASSIFIERS[options.classifier](shape.hidden, features)
        head = RelationHead(classifier.width, RELATIONS) if config.train.relation_weight else None
    return RcpFlops.of(shape.model, classifier, head, Windows.of(shape.model).size), shape


def _document_flops(corpus: Documents, folder: Path, max_length: int, sizes: RcpFlops) -> float:
    """Return the model FLOPs of all documents, forward and backward."""
    from transformers import AutoTokenizer

    from lmrc.rcp.data.tokenization import DocumentTokenizer

    tokenizer = DocumentTokenizer(AutoTokenizer.from_pretrained(folder, local_files_only=True), max_length)
    encoded = tokenizer.encode_batch(spread(corpus, SAMPLE))
    flops = [sizes.training(len(document.input_ids), document.num_pairs) for document in encoded]
    return sum(flops) / len(flops) * len(corpus)


def _rcp(config: RcpConfig, processes: int, train: Documents, dev: Documents) -> Amount:
    from lmrc.rcp.task import GPU_EVALUATION_FACTOR

    name = config.model.encoder
    folder = _folder(name, "model.encoder", config)
    sizes, shape = _rcp_sizes(str(folder), config.model.max_length, config)
    steps, per_epoch, seen = _training_steps(config, len(train))
    weights = FP32 * (shape.parameters + classifier_parameters(shape.hidden, config))
    batch = config.train.micro_batch_size * GPU_EVALUATION_FACTOR
    return Amount(
        flops=seen * _document_flops(train, folder, config.model.max_length, sizes),
        passes=_passes(config, steps, processes),
        layers=shape.layers,
        loaded=FP32 * shape.parameters,
        steps=steps,
        evaluations=evaluation_count(steps, per_epoch, config.train.eval_every, config.train.eval_at_start),
        # A forward pass is a third of a training pass.
        evaluation_flops=_document_flops(dev, folder, config.model.max_length, sizes) / 3,
        evaluation_passes=-(-len(dev) // (batch * processes)),
        saved=weights,
    )


def _propose(config: ProposeConfig, processes: int, corpus: Documents, training: RcpConfig | RcConfig | None) -> Amount:
    trained = training if isinstance(training, RcpConfig) else RcpConfig()
    folder = _folder(trained.model.encoder if training else str(config.rcp), "rcp", config)
    sizes, shape = _rcp_sizes(str(folder), trained.model.max_length, trained)
    return Amount(
        flops=_document_flops(corpus, folder, trained.model.max_length, sizes) / 3,
        passes=-(-len(corpus) // (config.batch_size * processes)),
        layers=shape.layers,
        loaded=FP32 * shape.parameters,
    )


@dataclass(frozen=True)
class _Queries:
    """Means per document of a sample."""

    queries: float
    flops: float
    prompt_flops: float
    pairs: float


def _queries(corpus: Documents, folder: Path, sizes: RcFlops, config: RcConfig) -> _Queries:
    """Count the queries of a sample, about the pairs that the prompt asks about in training."""
    from transformers import AutoTokenizer

    from lmrc.rc.prompts.query_builder import QueryBuilder, encode
    from lmrc.rc.prompts.questions import QuestionBuilder, encode_questions
    from lmrc.rc.prompts.templates import PROMPTS

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    options, kind = config.prompt, PROMPTS[config.prompt.kind]
    documents = spread(corpus, SAMPLE)
    count, flops, prompt_flops, pair_count = 0, 0.0, 0.0, 0
    for index, document in enumerate(documents):
        gold = relations_by_pair(document)
        if kind.asks_relations:
            asked = QuestionBuilder(tokenizer, corpus.relations, options).build(index, document, gold.items())
            examples = [encode_questions(query, tokenizer, options.template) for query in asked]
        else:
            pairs = kind.pairs(document)
            built = QueryBuilder(tokenizer, corpus.relations, options).build(index, document, pairs, gold)
            examples = [encode(query, tokenizer, options.template) for query in built]
        count += len(examples)
        pair_count += len(gold)
        for example in examples:
            tokens = len(example.input_ids)
            flops += sizes.training(tokens, tokens - example.prompt_tokens)
            prompt_flops += sizes.forward(tokens, tokens / 2)
    total = max(1, len(documents))
    return _Queries(count / total, flops / total, prompt_flops / total, pair_count / total)


def _rc_sizes(name: str, config: RcConfig) -> tuple[RcFlops, ModelShape]:
    shape = _shape(name, "causal")
    sizes = RcFlops.of(shape.model, shape.config)
    # The shape has neither frozen weights nor an adapter.
    frozen = sizes.weights.trained + sizes.weights.frozen
    adapter = shape.lora_shape(config.lora).parameters
    return RcFlops(MatrixWeights(adapter, frozen), sizes.output, sizes.layers, sizes.width), shape


def _rc(config: RcConfig, processes: int, train: Documents, dev: Documents) -> Amount:
    folder = _folder(config.model.base, "model.base", config)
    sizes, shape = _rc_sizes(str(folder), config)
    counted = _queries(train, folder, sizes, config)
    evaluated = _queries(dev, folder, sizes, config)
    examples = max(1, round(counted.queries * len(train)))
    steps, per_epoch, seen = _training_steps(config, examples)
    queries = max(1, round(evaluated.queries * len(dev)))
    return Amount(
        flops=seen * counted.flops * len(train),
        passes=_passes(config, steps, processes),
        layers=shape.layers,
        loaded=BF16 * shape.parameters,
        steps=steps,
        evaluations=evaluation_count(steps, per_epoch, config.train.eval_every, config.train.eval_at_start),
        evaluation_flops=evaluated.prompt_flops * len(dev),
        evaluation_passes=-(-queries // (config.train.micro_batch_size * processes)),
        saved=FP32 * sizes.weights.trained,
    )


def _classify(
    config: ClassifyConfig, processes: int, corpus: Documents, training: RcpConfig | RcConfig | None
) -> Amount:
    if not config.asks_lm:
        raise UnknownAmount(f"system {config.system} with these options asks no LM: seconds on a CPU")
    if config.decode.backend == "openai":
        raise UnknownAmount("the server has the GPUs")
    if isinstance(training, RcConfig):
        as_trained = training
    else:
        from lmrc.rc.model.adapter import adapter_base
        from lmrc.rc.model.adapter_metadata import AdapterMetadata

        base, prompt = config.base, config.prompt
        if config.rc is not None:
            base, prompt = adapter_base(config.rc), AdapterMetadata.read_for(config.rc, prompt).prompt
        as_trained = RcConfig.model_validate({"model": {"base": base}, "prompt": prompt.model_dump()})
    folder = _folder(as_trained.model.base, "base", config)
    sizes, shape = _rc_sizes(str(folder), as_trained)
    documents = min(len(corpus), config.documents or len(corpus))
    counted = _queries(corpus, folder, sizes, as_trained)
    batches = max(1.0, counted.queries * documents / config.decode.batch_size)
    per_query = counted.pairs / max(counted.queries, 1e-9)
    passes = 0.0 if config.decode.mode == "score" else batches * per_query * PASSES_PER_PAIR
    return Amount(
        flops=counted.prompt_flops * documents,
        passes=round(batches / processes),
        layers=shape.layers,
        loaded=BF16 * shape.parameters,
        decode_passes=round(passes / processes),
    )
