from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import astuple, replace
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from lmrc import extract
from lmrc.cli.main import main
from lmrc.common.errors import UserError
from lmrc.config.schema import ClassifyConfig, DecodeOptions, ExtractConfig, RunOptions
from lmrc.corpus.candidates import Candidate, write_candidates
from lmrc.corpus.docred import candidate_pairs, to_json
from lmrc.corpus.predictions import read_predictions
from lmrc.corpus.relation_schema import RelationSchema
from lmrc.corpus.types import Document, Mention
from lmrc.extract import Extraction, ExtractionStats
from lmrc.fusion.model import EncoderWeights, LmWeights, Thresholds
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.predict import ClassifyInference
from lmrc.rcp.data.tokenization import DocumentTokenizer
from lmrc.rcp.model.model import RelationCandidateModel
from lmrc.rcp.predict import Proposal, Proposer, score_pairs
from lmrc.rcp.thresholds import calibrate, save
from lmrc.text.layout import with_single_spaces
from lmrc.text.windows import split
from tests.rc import tiny as rc_tiny
from tests.rc.conftest import Learnt, base, learnt, learnt_likelihood  # noqa: F401 (fixtures)
from tests.rc.test_fused import fusion
from tests.rcp import tiny as rcp_tiny

Capture = pytest.CaptureFixture[str]
Triple = tuple[str, int, int, str]


def placed(document: Document, title: str | None = None, words: str = "Ada met Bob .") -> Document:
    """Return the document with entity i at word i. In `tests.rc.tiny` all entities are at word 0."""
    entities = tuple((replace(entity[0], start=i, end=i + 1),) for i, entity in enumerate(document.entities))
    return replace(document, title=title or document.title, sentences=(tuple(words.split()),), entities=entities)


DOCUMENTS = [
    placed(rc_tiny.DOCUMENTS[0]),
    placed(rc_tiny.DOCUMENTS[1], words="the end"),
    placed(rc_tiny.DOCUMENTS[2], words="Zoe lives there ."),
    replace(placed(rc_tiny.document(["Ada"], [], "lonely")), labels=None),
    placed(rc_tiny.DOCUMENTS[2], "again", "we see her"),
]


@pytest.fixture(scope="module")
def rcp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a classifier with random weights and well separated probabilities."""
    folder = tmp_path_factory.mktemp("rcp")
    model = RelationCandidateModel(rcp_tiny.encoder("bert"), 40)
    torch.manual_seed(1)
    torch.nn.init.normal_(model.classifier.bilinear.weight, std=0.5)
    model.save(folder, rcp_tiny.tokenizer("bert"))
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Write documents; labels are malformed because they must be ignored."""
    path = tmp_path / "new.json"
    raw = [to_json(document) for document in DOCUMENTS]
    raw[0]["labels"] = [{"h": 0, "t": 99, "r": "of another set"}]
    path.write_text(json.dumps(raw))
    return path


@pytest.fixture
def config(rcp: Path, learnt: Learnt, file: Path, tmp_path: Path) -> ExtractConfig:  # noqa: F811
    return ExtractConfig(documents=file, rcp=rcp, rc=learnt.adapter, out=tmp_path / "out.json", threshold="0")


def pair_probabilities(rcp: Path, documents: Sequence[Document]) -> dict[tuple[str, int, int], float]:
    """Return P(pair has a relation) of all pairs."""
    model, tokenizer = RelationCandidateModel.load(rcp)
    encoder = DocumentTokenizer(tokenizer, model.max_length)
    return {
        (document.title, *pair): float(score)
        for document in documents
        for pair, score in zip(
            candidate_pairs(len(document.entities)),
            score_pairs(model, [encoder.encode(document)])[0].probabilities,
            strict=True,
        )
    }


def expected(config: ExtractConfig, folder: Path, least: float, **decode: Any) -> dict[Triple, float]:
    """Return the triples that the classify stage finds on a corpus with candidates, with their scores."""
    pair_probability = pair_probabilities(config.rcp, DOCUMENTS)
    unlabelled = [replace(document, labels=None) for document in DOCUMENTS]
    corpus = rc_tiny.corpus(folder / "corpus", unlabelled)
    rows = [
        (
            d.title,
            [Candidate(h, t, p) for (title, h, t), p in pair_probability.items() if title == d.title and p >= least],
        )
        for d in DOCUMENTS
    ]
    write_candidates(rows, folder / "candidates", corpus.fingerprint, least)
    run = RunOptions(name="classify", folder=folder)
    inference = ClassifyInference(
        ClassifyConfig(
            run=run,
            corpus=corpus.folder,
            candidates=folder / "candidates",
            rc=config.rc,
            decode=DecodeOptions(**decode),
        )
    )
    inference.finish(iter(inference.rows(range(len(DOCUMENTS)))))
    predictions = read_predictions(folder / "classify" / "predictions.json")
    return {
        (p.title, p.head, p.tail, p.relation): pair_probability[p.title, p.head, p.tail] * p.score
        for p in predictions
        if p.score is not None
    }


def extracted(path: Path) -> dict[Triple, float]:
    raw = json.loads(path.read_text())
    assert all(list(row) == ["title", "h_idx", "t_idx", "r", "score"] for row in raw)
    triples = {(row["title"], row["h_idx"], row["t_idx"], row["r"]): row["score"] for row in raw}
    assert len(triples) == len(raw)
    return triples


@pytest.mark.parametrize("batch_size", [1, 8])
def test_triples_and_scores_equal_those_of_propose_and_classify(
    config: ExtractConfig, tmp_path: Path, batch_size: int
) -> None:
    pair_probability = pair_probabilities(config.rcp, DOCUMENTS)
    # Between two probabilities, because their last bits depend on the batch.
    threshold = sum(sorted(pair_probability.values())[4:6]) / 2
    given = config.model_copy(update={"threshold": repr(threshold), "batch_size": batch_size})
    counts = Extraction(given).run()
    wanted = expected(config, tmp_path, threshold)
    found = extracted(config.out)
    assert found == pytest.approx(wanted, rel=1e-4)
    assert len({title for title, *_ in found}) >= 3
    kept = sum(p >= threshold for p in pair_probability.values())
    with_pairs = {title for (title, *_), p in pair_probability.items() if p >= threshold}
    assert 0 < kept < len(pair_probability)
    assert (counts.documents, counts.pairs, counts.kept, counts.triples) == (
        5,
        len(pair_probability),
        kept,
        len(wanted),
    )
    assert counts.documents_without_pairs == 5 - len(with_pairs)
    assert counts.unfinished == 0


@pytest.fixture(scope="module")
def naming_rcp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a classifier with a relation head of random weights."""
    folder = tmp_path_factory.mktemp("naming")
    torch.manual_seed(2)
    model = RelationCandidateModel(rcp_tiny.encoder("bert"), 40, relations=rc_tiny.RELATIONS.ids)
    torch.nn.init.normal_(model.classifier.bilinear.weight, std=0.5)
    assert model.relation_head is not None
    torch.nn.init.normal_(model.relation_head.relation.weight, std=8.0)
    torch.nn.init.constant_(model.relation_head.relation.bias, -3.0)
    model.save(folder, rcp_tiny.tokenizer("bert"))
    return folder


@pytest.mark.parametrize("kind", ["rc", "likelihood"])
@pytest.mark.parametrize("ask", ["band", "all"])
def test_fusion_equals_that_of_propose_and_classify(
    config: ExtractConfig,
    naming_rcp: Path,
    learnt_likelihood: Learnt,  # noqa: F811
    tmp_path: Path,
    kind: str,
    ask: Literal["band", "all"],
) -> None:
    rc = config.rc if kind == "rc" else learnt_likelihood.adapter
    # A name of many tokens has a small probability.
    least = 1e-4 if kind == "likelihood" and ask == "all" else 0.811
    corpus = rc_tiny.corpus(tmp_path / "corpus", [replace(document, labels=None) for document in DOCUMENTS])
    proposals = Proposer(naming_rcp, 0.0, None, 8).propose(DOCUMENTS)
    rows = [(document.title, proposal.candidates) for document, proposal in zip(DOCUMENTS, proposals, strict=True)]
    write_candidates(rows, tmp_path / "candidates", corpus.fingerprint, 0.0)
    fusion(
        with_lm=LmWeights(bias=0.5, pair=0.3, relation=0.5, lm=0.5),
        without_lm=EncoderWeights(bias=1.0, pair=0.1, relation=0.5),
        band=(0.715, 0.735),
        thresholds={name: Thresholds(f1=least, precision=()) for name in ("band", "all", "none")},
    ).save(tmp_path / "fusion.json")
    options = {"fusion": tmp_path / "fusion.json", "ask": ask}
    run = RunOptions(name="classify", folder=tmp_path)
    classify = ClassifyConfig(
        run=run,
        corpus=corpus.folder,
        candidates=tmp_path / "candidates",
        rc=rc,
        system="fused",
        decode=DecodeOptions(mode="score"),
        **options,
    )
    inference = ClassifyInference(classify)
    done = inference.finish(iter(inference.rows(range(len(DOCUMENTS)))))
    wanted = {
        (p.title, p.head, p.tail, p.relation): p.score
        for p in read_predictions(tmp_path / "classify" / "predictions.json")
    }
    extraction = Extraction(config.model_copy(update={**options, "rc": rc, "rcp": naming_rcp}))
    counts = extraction.run()
    assert extracted(config.out) == pytest.approx(wanted, rel=1e-4)
    assert 0 < len(wanted) < done["questions"]
    assert 0 < counts.asked < counts.kept if ask == "band" else 0 < counts.asked <= counts.kept
    assert ("the LM was asked about" in str(counts)) == (counts.asked < counts.kept)


def test_fusion_needs_a_relation_head(config: ExtractConfig, tmp_path: Path) -> None:
    fusion().save(tmp_path / "fusion.json")
    with pytest.raises(UserError, match=r"has no relation head.* --train.relation-weight 1"):
        Extraction(config.model_copy(update={"fusion": tmp_path / "fusion.json"}))


def test_questions_need_mode_score(
    config: ExtractConfig,
    naming_rcp: Path,
    learnt_likelihood: Learnt,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The score of a triple is P(pair) x P(tail). The names of relations need not be readable in an answer."""
    monkeypatch.setattr("lmrc.extract.QueryBuilder", None)
    likely = config.model_copy(update={"rc": learnt_likelihood.adapter, "rcp": naming_rcp})
    with pytest.raises(UserError, match="give --mode score"):
        Extraction(likely)
    Extraction(likely.model_copy(update={"mode": "score", "relation_threshold": 0.0})).run()
    found = extracted(config.out)
    proposals = Proposer(naming_rcp, 0.0, None, 8).propose(DOCUMENTS)
    pairs = {
        (document.title, candidate.head, candidate.tail): candidate.probability
        for document, proposal in zip(DOCUMENTS, proposals, strict=True)
        for candidate in proposal.candidates
    }
    assert found and all(score <= pairs[triple[:3]] + 1e-6 for triple, score in found.items())


def test_mode_score(config: ExtractConfig, tmp_path: Path) -> None:
    Extraction(config.model_copy(update={"mode": "score", "relation_threshold": 0.2})).run()
    found = extracted(config.out)
    assert found == pytest.approx(expected(config, tmp_path, 0.0, mode="score", threshold=0.2), rel=1e-4)
    Extraction(config.model_copy(update={"mode": "score", "relation_threshold": 0.9})).run()
    assert 0 < len(extracted(config.out)) < len(found)


def test_top_k(config: ExtractConfig) -> None:
    pair_probability = pair_probabilities(config.rcp, DOCUMENTS)
    counts = Extraction(config.model_copy(update={"top_k": 1})).run()
    titles = {title for title, *_ in pair_probability}
    best = {max((p, pair) for pair, p in pair_probability.items() if pair[0] == title)[1] for title in titles}
    assert counts.kept == len(best) == 4
    assert {pair[:3] for pair in extracted(config.out)} <= best


def test_threshold_chosen_on_dev(config: ExtractConfig) -> None:
    pair_probability = pair_probabilities(config.rcp, DOCUMENTS)
    scores = torch.tensor(sorted(pair_probability.values()), dtype=torch.float64).numpy()
    # The three most probable pairs are gold, so the best F1 keeps exactly these.
    save(config.rcp, calibrate(scores, scores >= scores[-3]))
    assert Extraction(config.model_copy(update={"threshold": "f1"})).run().kept == 3
    with pytest.raises(UserError, match="threshold"):
        save(config.rcp, {"f1": []})
        Extraction(config.model_copy(update={"threshold": "f1"}))


def test_documents_are_extracted_in_batches(config: ExtractConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    propose = Proposer.propose

    def recorded(self: Proposer, documents: Sequence[Document]) -> list[Proposal]:
        sizes.append(len(documents))
        return propose(self, documents)

    monkeypatch.setattr(Proposer, "propose", recorded)
    Extraction(config.model_copy(update={"batch_size": 1})).run()
    assert sizes == [2, 2, 1]


def test_progress_is_shown_before_a_batch_is_done(config: ExtractConfig) -> None:
    extraction, events = Extraction(config), list[str]()
    extraction.on_document = lambda: events.append("counted")
    for document, _ in extraction.extract(DOCUMENTS):
        events.append(document.title)
    assert events == ["counted"] * 5 + [document.title for document in DOCUMENTS]


def test_a_summary_has_no_counts_of_nothing() -> None:
    assert str(ExtractionStats(documents=1)) == "0 triples of 1 document"
    assert str(ExtractionStats(documents=2, pairs=6, kept=1, asked=1, triples=1)) == (
        "1 triple of 2 documents\n1 of 6 pairs kept (16.7 %)"
    )


def test_lm_is_not_loaded_without_candidates(config: ExtractConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "load_lm", None)
    counts = Extraction(config.model_copy(update={"threshold": "1"})).run()
    assert json.loads(config.out.read_text()) == []
    assert (counts.documents_without_pairs, counts.kept, counts.triples) == (5, 0, 0)


def test_names_that_are_not_the_tokens_are_told_once(
    config: ExtractConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(extract, "load_lm", None)
    Extraction(config.model_copy(update={"threshold": "1"})).run()
    (message,) = (message for message in caplog.messages if "mentions have a name" in message)
    names = [(x.name, document.sentences[0][x.start]) for document in DOCUMENTS for (x,) in document.entities]
    different = sum(name.casefold() != token.casefold() for name, token in names)
    assert message.startswith(f"{config.documents}: {different} of {len(names)} mentions have a name that is not the")


def test_cut_mentions_are_counted(config: ExtractConfig) -> None:
    # RCP reads 40 word pieces here.
    long = rc_tiny.document(["Ada", "Bob"], [], "long", text=" ".join(["Ada"] * 60))
    far = replace(long.entities[1][0], start=59, end=60)
    config.documents.write_text(json.dumps([to_json(replace(long, entities=(long.entities[0], (far,))))]))
    assert Extraction(config).run().cut_mentions == 1


def test_long_documents_are_read_in_windows(config: ExtractConfig) -> None:
    """RCP reads 40 word pieces here. Sentence i names entities i and i + 1."""
    names = ["Ada", "Bob", "Zoe", "we", "her", "there", "the", "lives"]
    sentences = [(name, "met", other, *["end"] * 5) for name, other in pairwise(names)]
    places: dict[str, list[Mention]] = {}
    for number, sentence in enumerate(sentences):
        for at in (0, 2):
            places.setdefault(sentence[at], []).append(Mention(sentence[at], number, at, at + 1, "PER"))
    long = Document("long", tuple(sentences), tuple(map(tuple, places.values())), None)
    short = DOCUMENTS[0]
    extraction = Extraction(config)
    counted: list[None] = []
    extraction.on_document = lambda: counted.append(None)
    assert extraction.fits(short) and not extraction.fits(long)
    (_, first), (text, triples), (_, none) = extraction.extract_long(
        [with_single_spaces(document) for document in (short, long, replace(long, title="none", entities=()))]
    )
    stats = extraction.stats
    assert counted == [None] * 3  # once for each document, not for each window
    assert (text.document, none) == (long, [])
    alone = next(iter(Extraction(config).extract([short])))[1]
    assert [p[:4] for p in map(astuple, first)] == [p[:4] for p in map(astuple, alone)]
    assert (stats.documents, stats.documents_without_pairs) == (3, 1)
    assert (stats.long_documents, stats.cut_mentions, stats.divided) == (1, 0, 0)
    assert stats.triples == len(first) + len(triples) > len(first)
    # Every pair that is asked about is in one window at least, and has one relation or none.
    pairs = {(p.head, p.tail) for p in triples}
    assert stats.apart == 56 - len(
        {pair for pair in permutations(range(8), 2) if extraction_shares(extraction, long, pair)}
    )
    assert all(extraction_shares(extraction, long, pair) for pair in pairs)
    assert f"1 document longer than the models can hold, read in {stats.windows} windows of sentences" in str(stats)
    assert max(p.tail for p in triples) > 4  # the last sentences too


def extraction_shares(extraction: Extraction, document: Document, pair: tuple[int, int]) -> bool:
    windows = split(document, extraction.fits, extraction.explain).windows
    return any({*pair} <= {*window.entities} for window in windows)


def test_a_word_longer_than_the_window_is_an_error(config: ExtractConfig) -> None:
    extraction = Extraction(config)
    mention = Mention("long", 0, 0, 60, "PER")
    document = Document("wide", (("Ada",) * 61,), ((mention,), (replace(mention, start=60, end=61),)), None)
    with pytest.raises(UserError, match="'wide': a single mention or word is longer than RCP reads"):
        list(extraction.extract_long([with_single_spaces(document)]))


def with_relations(path: Path, relations: dict[str, str]) -> Path:
    path.write_text(json.dumps(relations))
    return path


def test_relation_set_must_equal_that_of_the_adapter(config: ExtractConfig, tmp_path: Path) -> None:
    own = dict(zip(rc_tiny.RELATIONS.ids, rc_tiny.RELATIONS.names, strict=True))
    Extraction(config.model_copy(update={"relations": with_relations(tmp_path / "own.json", own)}))
    other = with_relations(tmp_path / "other.json", {**own, "P26": "married to"})
    with pytest.raises(UserError, match=r"trained with another relation set than .*other\.json"):
        Extraction(config.model_copy(update={"relations": other}))


def copied(adapter: Path, folder: Path, **settings: Any) -> Path:
    folder.mkdir()
    for path in adapter.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    content = json.loads((folder / "lmrc.json").read_text()) | settings
    (folder / "lmrc.json").write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    return folder


def test_adapter_without_its_relation_set(config: ExtractConfig, tmp_path: Path) -> None:
    old = config.model_copy(update={"rc": copied(config.rc, tmp_path / "old", relations=None)})
    with pytest.raises(UserError, match="give its file as --relations"):
        Extraction(old)
    own = dict(zip(rc_tiny.RELATIONS.ids, rc_tiny.RELATIONS.names, strict=True))
    given = old.model_copy(update={"relations": with_relations(tmp_path / "own.json", own)})
    assert Extraction(given).relations == rc_tiny.RELATIONS


def test_adapter_of_kind_rcp_llm_is_refused(config: ExtractConfig, tmp_path: Path) -> None:
    prompt = json.loads((config.rc / "lmrc.json").read_text())["prompt"] | {"kind": "rcp-llm"}
    with pytest.raises(UserError, match="names no relations"):
        Extraction(config.model_copy(update={"rc": copied(config.rc, tmp_path / "yes", prompt=prompt)}))


def test_all_documents_are_checked_before_extraction(
    config: ExtractConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Proposer, "propose", None)
    config.out.write_text("before")
    raw = json.loads(config.documents.read_text())
    config.documents.write_text(json.dumps([*raw, {**raw[1], "title": "last", "sents": [[1]]}]))
    with pytest.raises(UserError, match=r"new\.json: 2 breaches .*(\n.*)*document 5 \('last'\)"):
        Extraction(config).run()
    endless = {**raw[1], "title": "endless", "sents": [["w"] * 5000]}
    config.documents.write_text(json.dumps([*raw, endless]))
    with pytest.raises(UserError, match=r"new\.json: document 'endless' needs \d+ tokens.*nothing was extracted"):
        Extraction(config).run()
    assert config.out.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.json", "out.json"]


def test_long_text_is_shortened_as_in_the_training_of_the_adapter(
    config: ExtractConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(config.rc, adapter)
    settings = AdapterMetadata.read(adapter)
    replace(settings, prompt=settings.prompt.model_copy(update={"truncate": "sentences"})).write(adapter)
    raw = json.loads(config.documents.read_text())
    endless = {**raw[2], "title": "endless", "sents": [raw[2]["sents"][0], ["w"] * 5000]}
    config.documents.write_text(json.dumps([*raw, endless]))
    stats = Extraction(config.model_copy(update={"rc": adapter})).run()
    assert stats.shortened == 2
    assert "2 prompts left out some sentences of the text, to fit" in str(stats)
    # The entities with the longest names are in the first sentence; "it" is in the long one, which must stay.
    other = [{"name": "it", "sent_id": 1, "pos": [0, 1], "type": "PER"}]
    config.documents.write_text(json.dumps([*raw, {**endless, "vertexSet": [*endless["vertexSet"], other]}]))
    monkeypatch.setattr(Proposer, "propose", None)
    with pytest.raises(UserError, match=r"'endless' needs \d+ tokens.*nothing was extracted"):
        Extraction(config.model_copy(update={"rc": adapter})).run()


def test_gpus_are_passed_to_the_lm(config: ExtractConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus: list[int] = []

    def load(*arguments: Any) -> None:
        gpus.append(arguments[3])
        raise UserError("no such GPUs here")

    monkeypatch.setattr(extract, "load_lm", load)
    # RCP stays on the CPU, because torch.cuda.is_available() is still False.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert main(arguments(config, "--gpus", "2", "--threshold", "0")) == 2
    assert gpus == [2]


@pytest.mark.parametrize(("available", "message"), [(0, "this machine has none"), (3, "this machine has 3")])
def test_too_many_gpus_are_refused(
    config: ExtractConfig, monkeypatch: pytest.MonkeyPatch, capsys: Capture, available: int, message: str
) -> None:
    monkeypatch.setattr(Proposer, "__init__", None)  # nothing is loaded
    monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
    assert main(arguments(config, "--gpus", "4")) == 2
    assert f"--gpus is 4, but {message}" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--top_k", "1"], ["--top-k", "1"]])
def test_option_names_with_dashes_and_underscores(config: ExtractConfig, more: list[str]) -> None:
    assert main(arguments(config, "--threshold", "0", *more)) == 0
    pairs = {triple[:3] for triple in extracted(config.out)}
    assert len(pairs) == len({title for title, *_ in pairs}) > 0


def test_wrong_paths_are_reported_before_torch_is_imported(config: ExtractConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(config.rc, run / "best")
    shutil.copytree(config.rcp, tmp_path / "rcp-run" / "best")
    (tmp_path / "file").write_text("")
    for changes, message in (
        ({"out": tmp_path}, f"{tmp_path} is a folder: give a file to write"),
        ({"out": tmp_path / "file" / "out.json"}, f"{tmp_path / 'file'} is a file, not a folder"),
        ({"rc": run}, f"{run} holds no adapter (adapter_config.json is missing): did you mean {run / 'best'}?"),
        ({"rcp": tmp_path / "rcp-run"}, f"did you mean {tmp_path / 'rcp-run' / 'best'}?"),
        ({"rcp": config.rc}, "it holds what launch/rc.py trained; give --rcp the best/ folder"),
    ):
        given = arguments(config.model_copy(update=changes))
        code = f"import sys; from lmrc.cli.main import main; main({given!r}); print('torch' in sys.modules)"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert message in ended.stderr
        assert ended.stdout == "False\n"


def test_long_text_is_shortened_with_the_option(config: ExtractConfig, capsys: Capture) -> None:
    raw = json.loads(config.documents.read_text())
    endless = {**raw[2], "title": "endless", "sents": [raw[2]["sents"][0], ["w"] * 5000]}
    config.documents.write_text(json.dumps([*raw, endless]))
    assert main(arguments(config, "--threshold", "0")) == 2
    assert "lmrc extract: --truncate sentences" in capsys.readouterr().err
    assert main(arguments(config, "--threshold", "0", "--truncate", "sentences")) == 0
    assert "2 prompts left out some sentences of the text, to fit" in capsys.readouterr().out


def arguments(config: ExtractConfig, *more: str) -> list[str]:
    folders = ["--rcp", str(config.rcp), "--rc", str(config.rc), "--out", str(config.out)]
    return ["extract", str(config.documents), *folders, *more]


def test_printed_summary(config: ExtractConfig, capsys: Capture) -> None:
    assert main(arguments(config, "--threshold", "0", "--top-k", "2", "--mode", "score")) == 0
    lines = capsys.readouterr().out.splitlines()
    triples = extracted(config.out)
    (title, head, tail, relation), score = max(triples.items(), key=lambda item: item[1])
    names = [entity[0].name for entity in next(d for d in DOCUMENTS if d.title == title).entities]
    if len(triples) > 8:
        assert lines.pop(0) == f"The 8 of {len(triples)} triples with the best scores:"
    assert lines[0].split() == ["document", "head", "relation", "tail", "score"]
    row = [title, names[head], rc_tiny.RELATIONS.name(relation), names[tail], f"{score:.3f}"]
    assert [cell.strip() for cell in lines[2].split("  ") if cell.strip()] == row
    scores = [float(line.split()[-1]) for line in lines[2 : 2 + min(8, len(triples))]]
    assert scores == sorted(scores, reverse=True)
    assert f"{len(triples)} triples of 5 documents" in lines
    assert not [line for line in lines[2 + len(scores) :] if line.startswith("0 ")]
    assert lines[-1] == str(config.out)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--threshold", "often"], "neither a probability"),
        (["--top-k", "0"], "top_k"),
        (["--relation-threshold", "2"], "relation_threshold"),
        (["--relation-threshold", "0.3"], "--relation-threshold has no effect: it is read only with mode score"),
        (["--rc", "nowhere"], "nowhere"),
        (["--rcp", "nowhere"], "nowhere"),
    ],
)
def test_user_errors(config: ExtractConfig, capsys: Capture, more: list[str], message: str) -> None:
    assert main(arguments(config, *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not config.out.exists()


def test_interruption_writes_nothing(config: ExtractConfig, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Proposer, "propose", interrupted)
    assert main(arguments(config)) == 1
    assert "out.json was not written" in capsys.readouterr().err
    assert not config.out.exists()


def test_schema_of_the_adapter_or_of_the_user(config: ExtractConfig, tmp_path: Path, capsys: Capture) -> None:
    """All entities are of type PER. Pairs without an admissible relation are offered all, and counted."""
    schema = RelationSchema.of_json({"P26": {"types": [["PER", "PER"]]}, "P17": {"types": []}}, rc_tiny.RELATIONS, "s")
    adapter = tmp_path / "adapter"
    shutil.copytree(config.rc, adapter)
    replace(AdapterMetadata.read(config.rc), schema=schema).write(adapter)
    plain = Extraction(config).run()
    assert {relation for *_, relation in extracted(config.out)} >= {"P17", "P26"}
    trained = config.model_copy(update={"rc": adapter})
    assert Extraction(trained).run().unrestricted == plain.unrestricted == 0
    assert "P17" not in {relation for *_, relation in extracted(config.out)}
    rules = {id_: {"types": []} for id_ in rc_tiny.RELATIONS.ids} | {"P26": {"types": [["PER", "LOC"]]}}
    (tmp_path / "own.json").write_text(json.dumps(rules))
    assert main(arguments(trained, "--threshold", "0", "--schema", str(tmp_path / "own.json"))) == 0
    assert f"{plain.kept:,} pairs with all relations offered, because the schema admits none" in capsys.readouterr().out
    assert {relation for *_, relation in extracted(config.out)} >= {"P17", "P26"}
