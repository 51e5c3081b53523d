from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

from lmrc.cli.main import main
from lmrc.common.errors import UserError
from lmrc.config.schema import ClassifyConfig, DecodeOptions, RunOptions
from lmrc.corpus.docred import to_json
from lmrc.corpus.predictions import Prediction, read_predictions, write_predictions
from lmrc.corpus.relations import DOCRED, RelationSet
from lmrc.evaluation.metrics.gold_table import Gold
from lmrc.evaluation.metrics.scores import score
from lmrc.evaluation.plots.read_curves import read_sweep
from lmrc.pretrained.packaged import resolve
from lmrc.rc.alignment import Alignment, Nearest, OutOfSet, SentenceEncoder, nearest_relations, read_alignment
from lmrc.rc.predict import ClassifyInference
from lmrc.rc.prompts.templates import NONE, AnswerSet, Prompt
from tests.rc import tiny
from tests.rc.conftest import Learnt

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    try:
        return SentenceEncoder("embedded:minilm")
    except UserError as error:
        pytest.skip(str(error))


def test_embedding_is_the_mean_over_tokens(encoder: SentenceEncoder) -> None:
    """The texts have different lengths, so that padding would show."""
    texts = ["spouse", *DOCRED.names[::5], "", "-", "a relation between a person and a place " * 60]
    tokenizer = AutoTokenizer.from_pretrained(resolve("embedded:minilm"))
    model = AutoModel.from_pretrained(resolve("embedded:minilm"), dtype=torch.float32).eval()
    embeddings = encoder.embed(texts)
    assert embeddings.shape == (len(texts), 384)
    for text, vector in zip(texts, embeddings, strict=True):
        ids = tokenizer(text)["input_ids"]
        ids = [*ids[:255], ids[-1]] if len(ids) > 256 else ids
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids])).last_hidden_state[0].double().numpy()
        mean = np.zeros(384)
        for state in states:
            mean += state / len(states)
        assert np.abs(vector - mean / np.sqrt(mean @ mean)).max() < 1e-5


def test_similarities_equal_the_published_ones(encoder: SentenceEncoder) -> None:
    """The quickstart of sbert.net prints them for all-MiniLM-L6-v2."""
    embeddings = encoder.embed(["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."])
    published = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    assert np.abs(embeddings @ embeddings.T - published).max() < 1e-4


def test_nearest_relations_of_docred(encoder: SentenceEncoder) -> None:
    expected = {
        "country of citizenship": "country of citizenship",
        "is capital of": "capital of",
        "was born in": "place of birth",
        "married to": "spouse",
        "plays for team": "member of sports team",
        "brother or sister": "sibling",
    }
    nearest = nearest_relations(list(expected), DOCRED, encoder)
    assert {text: DOCRED.name(near.relation) for text, near in nearest.items()} == expected
    assert nearest["country of citizenship"].similarity == 1.0
    assert 0.5 < nearest["was born in"].similarity < nearest["is capital of"].similarity < 1.0
    # The paper reports that the LM writes "-" instead of a relation.
    assert nearest_relations(["-"], DOCRED, encoder)["-"].similarity < 0.5
    assert nearest_relations([], DOCRED, encoder) == {}


def test_no_relation_is_more_similar_than_the_nearest(encoder: SentenceEncoder) -> None:
    texts = ["town", "was written by", "ends at"]
    nearest = nearest_relations(texts, DOCRED, encoder)
    for text in texts:
        vector = encoder.embed([text])[0].astype(float)
        similarities = dict(zip(DOCRED.ids, (encoder.embed(DOCRED.names) @ vector).tolist(), strict=True))
        assert nearest[text].similarity == pytest.approx(max(similarities.values()), abs=1e-5)
        assert similarities[nearest[text].relation] == max(similarities.values())


DOCUMENTS = [
    tiny.document(["a", "b", "c"], [(0, 1, "P17"), (1, 2, "P26"), (0, 2, "P361")], "one"),
    tiny.document(["a", "b"], [(1, 0, "P26")], "two"),
]
ALIGNMENT = Alignment(
    [Prediction("one", 0, 1, "P17", 0.9), Prediction("two", 0, 1, "P17")],
    [
        OutOfSet("one", 1, 2, "married"),
        OutOfSet("one", 1, 2, "wife"),
        OutOfSet("one", 0, 1, "state"),
        OutOfSet("two", 1, 0, "wife"),
        OutOfSet("one", 2, 0, "-"),
    ],
    {
        "married": Nearest("P26", 0.8),
        "wife": Nearest("P26", 0.5),
        "state": Nearest("P17", 0.7),
        "-": Nearest("P17", 0.2),
    },
)


def test_relations_are_aligned_at_theta_and_above() -> None:
    predictions = list(ALIGNMENT.predictions)
    married, wife = Prediction("one", 1, 2, "P26"), Prediction("two", 1, 0, "P26")
    assert ALIGNMENT.at(0.81) == predictions
    # "state" repeats a prediction, and the first "wife" repeats "married".
    assert ALIGNMENT.at(0.51) == [*predictions, married]
    assert ALIGNMENT.at(0.5) == [*predictions, married, wife]
    assert ALIGNMENT.at(0.0) == [*predictions, married, wife, Prediction("one", 2, 0, "P17")]


def test_sweep_gives_the_scores_at_each_theta() -> None:
    gold = Gold.of(DOCUMENTS, tiny.RELATIONS)
    points = ALIGNMENT.sweep(gold)
    assert [point.theta for point in points] == pytest.approx([0.05 * step for step in range(21)])
    for point in points:
        # One of two predictions is correct. "married" and "wife" add a correct one each, "-" a wrong one.
        correct = 1 + (point.theta <= 0.8) + (point.theta <= 0.5)
        predicted = 2 + (point.theta <= 0.8) + (point.theta <= 0.5) + (point.theta <= 0.2)
        p, r = correct / predicted, correct / 4
        assert (point.precision, point.recall) == pytest.approx((100 * p, 100 * r))
        assert point.f1 == pytest.approx(100 * 2 * p * r / (p + r))
        scored = score(DOCUMENTS, ALIGNMENT.at(point.theta), tiny.RELATIONS)
        assert (point.precision, point.recall, point.f1) == (scored.all.precision, scored.all.recall, scored.all.f1)


def written_run(folder: Path) -> Path:
    """Write a run with one triple of the set and the unknown relations "married to" and "-"."""
    folder.mkdir()
    write_predictions([Prediction("one", 0, 1, "P17")], folder / "predictions.json")
    rows = [
        {"title": "one", "unknown_relations": [[1, 2, "married to"], [2, 0, "-"]]},
        {"title": "two", "unknown_relations": [[1, 0, "married to"]]},
    ]
    (folder / "generations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def gold(tmp_path: Path) -> list[str]:
    """Return the options that give the gold documents."""
    documents, relations = tmp_path / "gold.json", tmp_path / "relations.json"
    documents.write_text(json.dumps([to_json(document) for document in DOCUMENTS]))
    relations.write_text(json.dumps(dict(zip(tiny.RELATIONS.ids, tiny.RELATIONS.names, strict=True))))
    return ["--gold", str(documents), "--relations", str(relations)]


def test_score_command_with_align(encoder: SentenceEncoder, gold: list[str], tmp_path: Path, capsys: Capture) -> None:
    run = written_run(tmp_path / "run")
    assert main(["score", *gold, "--pred", str(run)]) == 0
    # P 1/1, R 1/4.
    assert capsys.readouterr().out.splitlines()[-1] == "F1 40.00"
    assert main(["score", *gold, "--pred", str(run), "--align"]) == 0
    output = capsys.readouterr()
    assert "3 triples name 2 relations outside the set" in output.err
    assert "add 2 to 1 predictions" in output.err
    # P 3/3, R 3/4.
    assert output.out.splitlines()[-1] == "F1 85.71"
    aligned = read_predictions(run / "predictions-aligned.json")
    assert {(p.title, p.head, p.tail, p.relation) for p in aligned} == {
        ("one", 0, 1, "P17"),
        ("one", 1, 2, "P26"),
        ("two", 1, 0, "P26"),
    }
    assert len(read_predictions(run / "predictions.json")) == 1
    points = read_sweep(run / "alignment.json")
    assert len(points) == 21
    assert (points[10].theta, points[10].f1) == (0.5, pytest.approx(600 / 7))
    assert (points[20].theta, points[20].f1) == (1.0, pytest.approx(40.0))
    # At theta 0, the wrong "-" is aligned too.
    assert points[0].precision == 75.0

    assert main(["score", *gold, "--pred", str(run), "--align", "0.99"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "F1 40.00"


def test_score_command_refuses_wrong_options(gold: list[str], tmp_path: Path, capsys: Capture) -> None:
    run = written_run(tmp_path / "run")
    for options, message in (
        (["--pred", str(run), "--align", "--submission", "x.zip"], "give --gold"),
        ([*gold, "--pred", str(run / "predictions.json"), "--align"], "give the folder of a classify run"),
        ([*gold, "--pred", str(run), "--align", "1.5"], "1.5 is not in the range"),
        ([*gold, "--pred", str(run), "--align", "--align-encoder", str(tmp_path)], "no sentence encoder"),
    ):
        assert main(["score", *options]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert sorted(path.name for path in run.iterdir()) == ["generations.jsonl", "predictions.json"]


def test_message_for_damaged_generations(encoder: SentenceEncoder, tmp_path: Path) -> None:
    run = written_run(tmp_path / "run")
    with (run / "generations.jsonl").open("a") as file:
        file.write('{"title": "three"}\n')
    with pytest.raises(UserError, match=r"generations\.jsonl: line 3 is damaged"):
        read_alignment(run, tiny.RELATIONS, encoder)


def test_files_of_classify_are_read(
    encoder: SentenceEncoder, learnt: Learnt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The LM was trained on "spouse" and "country", and answers in mode free; the set has other names for them."""
    renamed = RelationSet(tiny.RELATIONS.ids, ("countries", "country of origin", "part of", "participant of", "wife"))
    monkeypatch.setattr(Prompt, "answer_set", lambda *_: AnswerSet(renamed, NONE, False))
    config = ClassifyConfig(
        run=RunOptions(name="run", folder=tmp_path),
        corpus=learnt.corpus.folder,
        rc=learnt.adapter,
        decode=DecodeOptions(mode="free"),
    )
    inference = ClassifyInference(config)
    counts = inference.finish(iter(inference.rows(range(3))))
    assert (counts["unknown_relation"], counts["predictions"]) == (3, 1)
    alignment = read_alignment(tmp_path / "run", renamed, encoder)
    assert {(p.title, p.head, p.tail, p.relation) for p in alignment.at(0.6)} == {
        (document.title, label.head, label.tail, label.relation)
        for document in tiny.DOCUMENTS
        for label in document.labels or ()
    }


def test_encoder_with_other_weight_names_is_refused(tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(resolve("embedded:tiny-encoder"))
    AutoTokenizer.from_pretrained(resolve("embedded:tiny-encoder")).save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    weights = {f"inner.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"sentence encoder .*the weights do not fit BertModel.*37 are missing"):
        SentenceEncoder(str(tmp_path))
