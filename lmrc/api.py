"""Python API: load trained models, extract triples from documents in memory, score predictions, train.

`lmrc` exports these names. torch is imported when a model is loaded or trained, not before.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lmrc.common.errors import ConfigError
from lmrc.common.input_checks import check_model
from lmrc.config.loader import build, options_of, read_yaml
from lmrc.config.schema import ExtractConfig, IgnVariant, ProposeConfig, RcConfig, RcpConfig, Truncation
from lmrc.config.unused import refuse_unused
from lmrc.corpus.candidates import Candidate
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.docred import parse_document
from lmrc.corpus.predictions import Prediction, Predictions
from lmrc.corpus.relations import DOCRED, RelationSet, read_relations
from lmrc.corpus.types import Document
from lmrc.evaluation.inputs import read_systems
from lmrc.evaluation.metrics.coverage import Missing, System, select
from lmrc.evaluation.metrics.gold_table import Gold, read_gold
from lmrc.evaluation.metrics.scores import Scores, scores_of
from lmrc.evaluation.metrics.train_facts import read_facts
from lmrc.evaluation.metrics.triple_table import Triples
from lmrc.export.result import ExtractedDocument, extracted
from lmrc.pretrained.trained import find_trained
from lmrc.text.backends import load_finder
from lmrc.text.entity_types import TypeMap
from lmrc.text.inputs import DocumentReader, RawDocument
from lmrc.text.layout import Span, TextDocument, with_single_spaces
from lmrc.text.mentions import MentionFinder

if TYPE_CHECKING:
    from lmrc.extract import ExtractionStats, TripleExtractor
    from lmrc.rcp.predict import Proposer

logger = logging.getLogger(__name__)

DocumentLike = Document | Mapping[str, Any]
TextLike = DocumentLike | str
PathLike = str | Path


class RelationExtractor:
    """Both trained models: RCP proposes pairs of entities, the LM names their relations."""

    def __init__(self, extractor: TripleExtractor, finder: MentionFinder) -> None:
        self._extractor = extractor
        self._reader = DocumentReader(finder, TypeMap(extractor.known_types))

    @classmethod
    def load(
        cls,
        rcp: PathLike,
        rc: PathLike,
        threshold: float | str = 0.5,
        device: str | None = None,
        *,
        relations: PathLike | None = None,
        top_k: int | None = None,
        mode: Literal["constrained", "score"] | None = None,
        relation_threshold: float | None = None,
        batch_size: int = 8,
        gpus: int | None = None,
        truncate: Truncation | None = None,
        fusion: PathLike | None = None,
        precision: float | None = None,
        ask: Literal["band", "all"] | None = None,
        mentions: Literal["rules", "spacy", "gliner", "spans"] = "rules",
        mentions_model: str | None = None,
    ) -> RelationExtractor:
        """Load RCP. The LM is loaded when the first document has a candidate.

        >>> extractor = RelationExtractor.load("runs/rcp/best", "runs/rc/best", threshold=0.1)
        >>> extractor.relations.name("P19")
        'place of birth'

        Args:
            rcp: folder with the trained classifier, such as runs/rcp/best, or its name on the hub.
            rc: folder with the trained adapter, such as runs/rc/best, or its name on the hub.
            threshold: least P(pair has a relation): a number, "f1" (best F1 on dev) or "recall=0.9".
            device: device of both models, such as "cpu" or "cuda:1"; by default the GPUs if there are any.
            relations: relation set as JSON {id: name}; by default the adapter's own.
            top_k: most pairs per document, the most probable ones; by default no limit.
            mode: "constrained" (the default) decodes the most probable answer; "score" computes P(relation) of every
                relation. With a fusion, the LM always scores.
            relation_threshold: least P(relation of the pair) in mode "score"; 0.5 by default.
            batch_size: documents, and then queries, per forward pass.
            gpus: GPUs that hold the LM if it does not fit one.
            truncate: "sentences" drops sentences that mention neither entity if the prompt is too long; by default as
                in the training of the adapter.
            fusion: file of `lmrc fusion fit`. The score of a triple is then its calibrated probability.
            precision: keep triples with the threshold of the fusion that holds this precision; by default the one with
                the best F1.
            ask: "band" asks the LM about the candidates that it could change (the default), "all" about all.
            mentions: what finds mentions in texts that bring none: "rules" (no model), "spacy" or "gliner" (optional
                packages); "spans": all texts bring theirs.
            mentions_model: model of spacy or gliner; by default a small English one.

        Raises:
            UserError: a model is missing or damaged, an option is out of range, or the models do not fit.
        """
        options = {
            "rcp": rcp,
            "rc": rc,
            "threshold": str(threshold),
            "relations": None if relations is None else Path(relations),
            "top_k": top_k,
            "mode": mode,
            "relation_threshold": relation_threshold,
            "batch_size": batch_size,
            "gpus": gpus,
            "truncate": truncate,
            "fusion": None if fusion is None else Path(fusion),
            "precision": precision,
            "ask": ask,
            "mentions": mentions,
            "mentions_model": mentions_model,
        }
        given = {name: value for name, value in options.items() if value is not None}
        # The options of `lmrc extract` and their checks. Documents and triples stay in memory here.
        config = build(ExtractConfig, {"documents": Path(), **given})
        refuse_unused(config)
        config = config.model_copy(update={"rcp": find_trained(config.rcp), "rc": find_trained(config.rc)})
        check_model(config.rcp, "rcp")
        check_model(config.rc, "rc")
        finder = load_finder(mentions, mentions_model)
        from lmrc.extract import TripleExtractor

        return cls(TripleExtractor(config, device), finder)

    @property
    def relations(self) -> RelationSet:
        """Return the relation set of the LM.

        >>> extractor = RelationExtractor.load("runs/rcp/best", "runs/rc/best")
        >>> "P19" in extractor.relations
        True
        """
        return self._extractor.relations

    @property
    def stats(self) -> ExtractionStats:
        """Return counts over all documents that were extracted so far.

        >>> extractor = RelationExtractor.load("runs/rcp/best", "runs/rc/best")
        >>> extractor.stats.documents
        0
        """
        return self._extractor.stats

    def extract(self, documents: TextLike | Iterable[TextLike]) -> Iterator[ExtractedDocument]:
        """Yield the triples of each text or document, in order. Labels of the documents are ignored.

        Documents are read in batches of 2 x `batch_size`, so that an endless stream is fine. A document that is longer
        than the models can hold is read in windows of sentences; `stats` counts them.

        >>> extractor = RelationExtractor.load("runs/rcp/best", "runs/rc/best", threshold=0.0, top_k=1)
        >>> result = next(extractor.extract("Ada Lum was born in Port Bly. Lum left the town in 1951."))
        >>> [(entity.name, entity.type, len(entity.spans)) for entity in result.entities]
        [('Ada Lum', 'PER', 2), ('Port Bly', 'LOC', 1), ('1951', 'TIME', 1)]
        >>> document = {
        ...     "title": "Ada",
        ...     "sents": [["Ada", "was", "born", "in", "Port", "Bly", "."]],
        ...     "vertexSet": [
        ...         [{"name": "Ada", "sent_id": 0, "pos": [0, 1], "type": "PER"}],
        ...         [{"name": "Port Bly", "sent_id": 0, "pos": [4, 6], "type": "LOC"}],
        ...     ],
        ... }
        >>> extractor = RelationExtractor.load("runs/rcp/best", "runs/rc/best", threshold=0.0, top_k=1)
        >>> for result in extractor.extract([document]):
        ...     names = {triple.head_name for triple in result.triples}
        ...     spans = {span for triple in result.triples for span in triple.head_spans + triple.tail_spans}
        >>> names <= {"Ada", "Port Bly"}
        True
        >>> [result.text[start:end] for start, end in sorted(spans)]
        ['Ada', 'Port Bly']

        Args:
            documents: texts, dicts with a text (title, text, mentions), DocRED dicts (title, sents, vertexSet) or
                `Document` objects, or a single one.

        Raises:
            DocumentError: a dict breaks the DocRED format.
            SpanError: a text's mentions break the form. The message lists all breaches.
        """
        for text, predictions in self._extractor.extract_long(self._texts(documents)):
            yield extracted(text, predictions, self.relations)

    def _texts(self, documents: TextLike | Iterable[TextLike]) -> Iterator[TextDocument]:
        """Yield the checked documents with their texts."""
        if isinstance(documents, str | Document | Mapping):
            documents = [documents]
        for index, document in enumerate(documents):
            if isinstance(document, Document):
                yield with_single_spaces(document)
            else:
                content = {"text": document} if isinstance(document, str) else document
                yield self._reader.read(RawDocument("documents", index, content))


def joined_text(document: Document) -> tuple[str, list[tuple[Span, ...]]]:
    """Return the tokens of all sentences joined with single spaces, and the spans of each entity's mentions in it.

    >>> from lmrc.corpus.types import Document, Mention
    >>> bly = Mention("Port Bly", sentence=1, start=1, end=3, type="LOC")
    >>> joined_text(Document("Ada", (("Hello", "."), ("In", "Port", "Bly", ".")), ((bly,),), None))
    ('Hello . In Port Bly .', [((11, 19),)])
    """
    text = with_single_spaces(document)
    return text.text.text, list(text.entity_spans())


class CandidateModel:
    """A trained RCP classifier: the pairs of entities that probably have a relation."""

    def __init__(self, proposer: Proposer, batch_size: int) -> None:
        self._proposer, self._batch_size = proposer, batch_size

    @classmethod
    def load(
        cls,
        folder: PathLike,
        threshold: float | str = 0.5,
        device: str | None = None,
        *,
        top_k: int | None = None,
        batch_size: int = 8,
    ) -> CandidateModel:
        """Load the classifier.

        >>> model = CandidateModel.load("runs/rcp/best", threshold=0.3)

        Args:
            folder: folder with the trained classifier, such as runs/rcp/best.
            threshold: least P(pair has a relation): a number, "f1" (best F1 on dev) or "recall=0.9".
            device: such as "cpu" or "cuda:1"; by default the GPU if there is one.
            top_k: most pairs per document, the most probable ones; by default no limit.
            batch_size: documents per forward pass.

        Raises:
            UserError: the model is missing or damaged, or an option is out of range.
        """
        options = {"rcp": folder, "threshold": str(threshold), "top_k": top_k, "batch_size": batch_size}
        config = build(ProposeConfig, options)
        config = config.model_copy(update={"rcp": find_trained(config.rcp)})
        check_model(config.rcp, "rcp")
        from lmrc.rcp.predict import Proposer
        from lmrc.rcp.thresholds import find_threshold

        least = find_threshold(config.rcp, config.threshold)
        return cls(Proposer(config.rcp, least, config.top_k, config.batch_size, device), config.batch_size)

    def propose(self, documents: DocumentLike | Iterable[DocumentLike]) -> Iterator[tuple[Candidate, ...]]:
        """Yield the candidates of each document (head, tail, probability), in order, sorted by (head, tail).

        >>> from lmrc import Corpus
        >>> model = CandidateModel.load("runs/rcp/best", threshold=0.0, top_k=3)
        >>> [len(candidates) for candidates in model.propose(Corpus.open("data/dev"))]
        [3, 3, 3, 3]

        Args:
            documents: DocRED dicts (title, sents, vertexSet) or `Document` objects, or a single one. Labels are
                ignored.

        Raises:
            DocumentError: a dict breaks the DocRED format.
        """
        source = _documents(documents, None)
        while batch := list(islice(source, self._batch_size)):
            for proposal in self._proposer.propose(batch):
                yield tuple(proposal.candidates)


def _documents(documents: DocumentLike | Iterable[DocumentLike], relations: RelationSet | None) -> Iterator[Document]:
    """Yield checked documents. Labels of dicts are read only if `relations` are given."""
    if isinstance(documents, Document | Mapping):
        documents = [documents]
    for index, document in enumerate(documents):
        if isinstance(document, Document):
            yield document
        else:
            yield parse_document(document, "documents", index, relations)


def score(
    gold: PathLike | Corpus | Iterable[DocumentLike],
    predictions: PathLike | Iterable[Prediction | ExtractedDocument | Mapping[str, Any]],
    *,
    relations: RelationSet | PathLike | None = None,
    train_facts: PathLike | None = None,
    ign_variant: IgnVariant | None = None,
    missing: Missing | None = None,
) -> Scores:
    """Score predicted triples against labeled documents, as `lmrc score` does.

    >>> from lmrc import Corpus
    >>> from lmrc.corpus.predictions import Prediction
    >>> dev = Corpus.open("data/dev")
    >>> gold = [Prediction(d.title, label.head, label.tail, label.relation) for d in dev for label in d.labels]
    >>> score(dev, gold).all.f1
    100.0

    Args:
        gold: labeled documents: a corpus or its folder, a DocRED JSON file, DocRED dicts or `Document` objects.
        predictions: a run folder of classify, a file in the submission format, its elements as dicts
            {title, h_idx, t_idx, r}, `Prediction` objects, or what `RelationExtractor.extract` yields.
        relations: relation set of gold documents that are no corpus; by default DocRED's.
        train_facts: training documents, corpus or facts, for Ign F1.
        ign_variant: formula of Ign F1; by default that of the gold documents' data set.
        missing: gold documents without predictions: "empty" (nothing was found there) or "skip" (not scored). By
            default "empty" for predictions in memory. For a path, the documents that the run classified are scored,
            and a file that covers less than half of the documents is refused.

    Returns:
        Scores in percent: `.all`, `.intra` and `.inter` with precision, recall and f1, `.ign_f1`, `.as_json()`.

    Raises:
        UserError: an input is missing or malformed, or gold documents have no labels.
    """
    known = read_relations(relations) if isinstance(relations, str | Path) else relations
    if isinstance(gold, Corpus):
        table = Gold.of_corpus(gold)
    elif isinstance(gold, str | Path):
        table = read_gold(gold, known)
    else:
        table = Gold.of(_documents(gold, known or DOCRED), known or DOCRED)
    if isinstance(predictions, str | Path):
        (system,) = read_systems([Path(predictions)])
    else:
        system = System("predictions", _predictions(predictions))
        missing = missing or "empty"
    selection = select(table, [system], missing)
    for line in selection.lines:
        logger.info(line)
    facts = None if train_facts is None else read_facts(train_facts, table.relations)
    return scores_of(Triples.of(selection.gold, selection.predictions), facts, ign_variant)[0]


def _predictions(predictions: Iterable[Prediction | ExtractedDocument | Mapping[str, Any]]) -> Predictions:
    elements: list[Any] = list(predictions)
    if elements and isinstance(elements[0], Mapping):
        return Predictions.of_json([elements], "predictions")
    return Predictions.of(chain.from_iterable(map(_predictions_of, elements)))


def _predictions_of(element: Prediction | ExtractedDocument) -> list[Prediction]:
    if isinstance(element, Prediction):
        return [element]
    return [Prediction(element.title, t.head, t.tail, t.relation, t.score) for t in element.triples]


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A finished training run.

    Attributes:
        folder: the run folder.
        best: folder of the best weights, which `RelationExtractor.load` and `CandidateModel.load` take.
        result: content of DONE: steps, seconds, and the dev metrics of the best weights.
    """

    folder: Path
    best: Path
    result: dict[str, Any]


def train(config: RcpConfig | RcConfig | PathLike, **overrides: Any) -> TrainedRun:
    """Train RCP or RC in this process, as launch/rcp.py or launch/rc.py does with `--where here`.

    A finished run is not trained again; an interrupted one is resumed.

    >>> run = train("configs/rcp/tiny.yaml", run="first", train__max_steps=1)  # doctest: +ELLIPSIS
    2 examples per optimizer step...
    >>> run.best
    PosixPath('runs/first/best')

    Args:
        config: options, or a YAML file of them, such as configs/rcp/docred.yaml. Its options tell the stage.
        overrides: options that replace those of `config`, with two underscores for a dot (`train__epochs=3`). `run`
            is short for `run__name`.

    Raises:
        UserError: an option or an input is wrong, or the run folder holds another run.
    """
    from lmrc.launcher.launch import launch, read_config, with_run_name
    from lmrc.launcher.stages import STAGES
    from lmrc.runs.run_folder import RunFolder

    given = {name.replace("__", "."): value for name, value in overrides.items()}
    if "run" in given:
        given["run.name"] = given.pop("run")
    given["cluster.where"] = "here"
    if isinstance(config, str | Path):
        stage = STAGES[_stage_of(Path(config), given)]
        options = read_config(
            stage, ["--config", str(config), *(f"--{name}={_as_text(value)}" for name, value in given.items())]
        )
    else:
        stage = STAGES["rcp" if isinstance(config, RcpConfig) else "rc"]
        values = {name: attrgetter(name)(config) for name, _ in options_of(type(config))}
        options = build(type(config), values | given)
        options = options.model_copy(update={"run": with_run_name(options.run, stage.name, None)})
    launch(stage, options)
    run = RunFolder.of(options.run)
    return TrainedRun(run.path, run.best, run.result() or {})


def _stage_of(path: Path, overrides: Mapping[str, Any]) -> str:
    """Return the stage, rcp or rc, that knows more of the options in a YAML file and the overrides.

    Raises:
        ConfigError: both know equally many, or the file cannot be read.
    """
    unknown = {}
    for name, tree in (("rcp", RcpConfig), ("rc", RcConfig)):
        fields = dict(options_of(tree))
        unknown[name] = sum(option not in fields for option in (*read_yaml(path, fields), *overrides))
    if unknown["rcp"] == unknown["rc"]:
        raise ConfigError(
            f"{path} may be a config of RCP or of RC: set model.encoder (RCP) or model.base (RC) in it, or give an "
            "RcpConfig or RcConfig"
        )
    return min(unknown, key=unknown.__getitem__)


def _as_text(value: object) -> str:
    """Return a value as it is typed on the command line."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={text}" for key, text in value.items())
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
