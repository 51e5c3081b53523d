"""`lmrc score`, `lmrc compare` and `lmrc report`."""

from __future__ import annotations

import json
import random
import statistics
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmrc.cli.main import main
from lmrc.corpus.candidates import Candidate, write_candidates
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.docred import read_documents, to_json
from lmrc.corpus.predictions import Prediction, write_predictions
from lmrc.corpus.relation_schema import RelationSchema
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.synthetic import generator as synthetic
from tests.evaluation.strategies import as_predictions

TWO = ["--pred", "p.json", "--pred", "p.json"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    """Return a corpus of twelve documents."""
    write_corpus(synthetic.generate(12, 3), tmp_path / "gold", synthetic.RELATIONS, "made up", "0" * 64)
    return tmp_path / "gold"


def write_guesses(gold: Path, name: str, share: float, seed: int, documents: int | None = None) -> Path:
    """Write predictions with this share of the gold triples, some of them with a wrong relation."""
    rng = random.Random(seed)
    right = as_predictions(list(Corpus.open(gold))[:documents])
    ids = synthetic.RELATIONS.ids
    given = [
        Prediction(p.title, p.head, p.tail, p.relation if rng.random() < 0.8 else rng.choice(ids), None, p.evidence)
        for p in right
        if rng.random() < share
    ]
    write_predictions(given, gold.parent / name)
    return gold.parent / name


def make_run(gold: Path, name: str, share: float, documents: int | None = None) -> Path:
    """Write a run folder of classify."""
    folder = gold.parent / name
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({"corpus": str(gold), "documents": documents}))
    write_guesses(gold, f"{name}/predictions.json", share, 5, documents)
    return folder


def lines(capture: Capture, *arguments: object) -> list[str]:
    assert main([str(argument) for argument in arguments]) == 0
    return capture.readouterr().out.splitlines()


def test_score_prints_intervals_errors_and_f1_last(gold: Path, capsys: Capture) -> None:
    out = gold.parent / "scores.json"
    shown = lines(capsys, "score", "--gold", gold, "--pred", write_guesses(gold, "p.json", 0.7, 1), "--json", out)
    found = json.loads(out.read_text())
    rows = {row[:10].strip(): row[10:].split() for row in shown[2:5]}
    metrics = ("precision", "recall", "f1", "ign_f1", "intra_f1", "inter_f1")
    assert rows["p.json"] == ["-" if found[m] is None else f"{found[m]:.2f}" for m in metrics]
    for end, word in enumerate(("95 % from", "95 % to")):
        assert rows[word] == [f"{found['intervals'][m][end]:.2f}" if m != "ign_f1" else "-" for m in metrics]
    assert any(line.startswith("Evidence ") for line in shown)
    for part in ("intra", "inter"):
        row = next(line.split() for line in shown if line.startswith(f"{part.capitalize()}-sentence"))
        assert row[1:4] == [f"{found[f'{part}_{m}']:.2f}" for m in ("precision", "recall", "f1")]
    assert f"If RCP were perfect: F1 {found['analysis']['ceilings']['perfect_rcp_f1']:.2f}" in "\n".join(shown)
    assert shown[-1] == f"F1 {found['f1']:.2f}"
    assert not any(line.startswith("sentences between") for line in shown)


def test_encoder_alone_is_named(gold: Path, capsys: Capture) -> None:
    runs = [make_run(gold, name, share) for name, share in (("propose", 0.4), ("classify", 0.7))]
    config = {"corpus": str(gold), "threshold": "0.5"}
    (runs[0] / "config.yaml").write_text(yaml.safe_dump(config))
    out = gold.parent / "scores.json"
    shown = lines(capsys, "score", *runs, "--json", out)
    assert any(line.startswith("propose (encoder alone)  ") for line in shown)
    assert any(line.startswith("classify  ") for line in shown)
    assert "propose (encoder alone)" in out.read_text()
    shown = lines(capsys, "compare", *runs)
    assert any(line.startswith(f"First: {runs[0]} (encoder alone). Second: {runs[1]}.") for line in shown)


def test_details_print_every_split(gold: Path, capsys: Capture) -> None:
    shown = lines(capsys, "score", "--gold", gold, "--pred", write_guesses(gold, "p.json", 0.7, 1), "--details")
    heads = [line for line in shown if line.endswith("Gold  Predicted")]
    assert [head.split("  ")[0] for head in heads] == [
        "",  # evidence
        "relations: the 10 most frequent of the gold triples, and the others",
        "sentences between the nearest mentions of head and tail",
        "mentions of head and tail together",
        "words of the document",
        "Relation",
    ]


def test_candidates_show_the_errors_of_rcp(gold: Path, capsys: Capture) -> None:
    corpus = Corpus.open(gold)
    pairs = [sorted({(x.head, x.tail) for x in d.labels or ()})[::2] for d in corpus]
    rows = [(d.title, [Candidate(h, t, 0.9) for h, t in found]) for d, found in zip(corpus, pairs, strict=True)]
    write_candidates(rows, gold.parent / "candidates", corpus.fingerprint, 0.5)
    out = gold.parent / "scores.json"
    predictions = gold.parent / "p.json"
    kept = [
        p
        for d, found in zip(corpus, pairs, strict=True)
        for p in as_predictions([d])
        if (p.head, p.tail) in found
    ]  # fmt: skip
    write_predictions(kept, predictions)
    arguments = ("score", "--gold", gold, "--pred", predictions, "--candidates", gold.parent / "candidates")
    shown = lines(capsys, *arguments, "--json", out)
    found = json.loads(out.read_text())["analysis"]
    gold_pairs = sum(len({(x.head, x.tail) for x in d.labels or ()}) for d in corpus)
    proposed = sum(map(len, pairs))
    assert found["rcp"]["proposed"] == found["rcp"]["correct"] == proposed
    assert found["rcp"]["recall"] == pytest.approx(100 * proposed / gold_pairs)
    assert found["losses"]["not_proposed"]["f1_if_mended"] == 100.0
    assert found["ceilings"]["perfect_rcp_f1"] == 100.0
    assert any(line.startswith("RCP (pairs)") for line in shown)
    write_corpus(synthetic.generate(11, 3), gold.parent / "other", synthetic.RELATIONS, "made up", "0" * 64)
    assert main(["score", "--gold", str(gold.parent / "other"), *map(str, arguments[3:])]) == 2
    assert "made from another corpus" in capsys.readouterr().err
    names = dict(zip(synthetic.RELATIONS.ids, synthetic.RELATIONS.names, strict=True))
    (gold.parent / "relations.json").write_text(json.dumps(names))
    more = [to_json(d) for d in synthetic.generate(len(corpus) + 2, 3)]
    (gold.parent / "docs.json").write_text(json.dumps(more[: len(corpus)]))
    relations = ("--relations", gold.parent / "relations.json")
    assert lines(capsys, "score", "--gold", gold.parent / "docs.json", *arguments[3:], *relations) == shown
    (gold.parent / "docs.json").write_text(json.dumps(more))
    assert main([*map(str, ("score", "--gold", gold.parent / "docs.json", *arguments[3:], *relations))]) == 2
    assert f"lacks 2 of the {len(corpus) + 2} documents" in capsys.readouterr().err


def test_several_seeds_give_mean_and_standard_deviation(gold: Path, capsys: Capture) -> None:
    files = [write_guesses(gold, f"seed{seed}.json", 0.6, seed) for seed in (1, 2, 3)]
    single = []
    for file in files:
        lines(capsys, "score", "--gold", gold, "--pred", file, "--json", gold.parent / "one.json")
        single.append(json.loads((gold.parent / "one.json").read_text()))
    out = gold.parent / "all.json"
    given = [word for file in files for word in ("--pred", file)]
    shown = lines(capsys, "score", "--gold", gold, *given, "--json", out)
    found = json.loads(out.read_text())
    assert [{**run, "name": None} for run in found["runs"]] == [{**run, "name": None} for run in single]
    for name in ("precision", "f1", "intra_f1"):
        values = [run[name] for run in single]
        assert found["mean"][name] == pytest.approx(statistics.mean(values))
        assert found["standard_deviation"][name] == pytest.approx(statistics.stdev(values))
    assert sum("No Ign F1" in line for line in shown) == 1  # common remarks are printed once
    f1 = [run["f1"] for run in single]
    assert shown[-1] == (f"F1 {statistics.mean(f1):.2f} ± {statistics.stdev(f1):.2f}, mean and standard deviation of 3")


def test_json_is_printed_or_written(gold: Path, capsys: Capture) -> None:
    one, other, out = make_run(gold, "one", 0.4), make_run(gold, "other", 0.9), gold.parent / "scores.json"
    for words in (["score", one], ["score", one, other], ["compare", one, other]):
        table = lines(capsys, *words, "--json", out)
        written = json.loads(out.read_text())
        assert table[-1].startswith("F1 ")
        # Nothing but JSON is printed.
        assert json.loads("\n".join(lines(capsys, *words, "--json"))) == written
        assert json.loads("\n".join(lines(capsys, words[0], "--json", "-", *words[1:]))) == written
    submission = ["--submission", gold.parent / "result.zip", "--json"]
    assert json.loads("\n".join(lines(capsys, "score", one, "--gold", gold, *submission)))["f1"] > 0
    assert main(["score", str(one), *map(str, submission)]) == 2
    assert "--json needs scores" in capsys.readouterr().err
    assert main(["score", "--json", str(one)]) == 2
    assert f"--json {one} is a folder: to print JSON give --json last, or --json -" in capsys.readouterr().err


def test_remarks_on_one_of_several_name_it(gold: Path, capsys: Capture) -> None:
    one, other = write_guesses(gold, "one.json", 0.6, 1), write_guesses(gold, "other.json", 0.6, 2)
    rows = json.loads(other.read_text())
    rows[0] |= {"title": "Nobody"}
    rows[1] |= {"evidence": [999]}
    other.write_text(json.dumps(rows))
    for arguments in (
        ("score", "--gold", gold, "--pred", one, "--pred", other),
        ("compare", one, other, "--gold", gold),
    ):
        shown = "\n".join(lines(capsys, *arguments, "--gold", gold))
        assert "other.json: 1 prediction for a title that is not in the gold documents" in shown
        assert "other.json: Evidence names 1 sentence that the document does not have: wrong." in shown
        assert "one.json: " not in shown.replace("First: ", "")


def test_names_of_relations_are_scored_as_their_ids(gold: Path, capsys: Capture) -> None:
    ids = write_guesses(gold, "ids.json", 0.6, 1)
    rows = json.loads(ids.read_text())
    named = [{**row, "r": synthetic.RELATIONS.name(row["r"])} for row in rows]
    names = gold.parent / "names.json"
    names.write_text("".join(json.dumps(row) + "\n" for row in named))
    expected, shown = (lines(capsys, "score", path, "--gold", gold) for path in (ids, names))
    assert shown[-1] == expected[-1]
    assert shown[0].startswith(f"{names}: {len(rows):,} of {len(rows):,} predictions have the name of a relation")
    assert f"{names}: {len(rows):,} of" in "\n".join(lines(capsys, "compare", ids, names, "--gold", gold))
    # Nothing but JSON is printed.
    assert main(["score", str(names), "--gold", str(gold), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["f1"] > 0 and printed.err.startswith(f"{names}: ")
    # The file for the competition has ids, and is scored as it is.
    out = gold.parent / "result.zip"
    lines(capsys, "score", names, "--gold", gold, "--submission", out)
    assert lines(capsys, "score", out, "--gold", gold)[-1] == expected[-1]


def test_a_prediction_of_no_relation_is_explained(gold: Path, capsys: Capture) -> None:
    path = write_guesses(gold, "p.json", 0.9, 1)
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows, {**rows[0], "r": "Na"}]))
    shown = "\n".join(lines(capsys, "score", path, "--gold", gold))
    assert "'Na'): wrong; leave pairs without a relation out." in shown


def test_a_submission_needs_no_gold(gold: Path, capsys: Capture) -> None:
    file, out = write_guesses(gold, "p.json", 0.5, 1), gold.parent / "result.zip"
    shown = lines(capsys, "score", "--pred", file, "--submission", out)
    with zipfile.ZipFile(out) as archive:
        rows = json.loads(archive.read("result.json"))
    assert shown == [f"{out}: {len(rows)} triples for the competition"]
    assert len(rows) == len(json.loads(file.read_text())) > 10


@pytest.mark.parametrize("as_file", [False, True])
def test_a_schema_leaves_out_inadmissible_triples(gold: Path, capsys: Capture, as_file: bool) -> None:
    """Entities have types of their own, and corpus and file of documents give the same."""
    right = as_predictions(list(Corpus.open(gold)))
    types = {(d.title, index): e[0].type for d in Corpus.open(gold) for index, e in enumerate(d.entities)}
    first = right[0].relation
    pairs = {(types[p.title, p.head], types[p.title, p.tail]) for p in right if p.relation != first}
    pairs -= {(types[p.title, p.head], types[p.title, p.tail]) for p in right if p.relation == first}
    # Wrong triples between types that the relation never holds between, and one more file without any.
    wrong = {
        Prediction(p.title, p.head, p.tail, first)
        for p in right
        if (types[p.title, p.head], types[p.title, p.tail]) in pairs
    }
    assert len(wrong) > 3
    folder = gold.parent
    write_predictions([*right, *wrong], folder / "p.json")
    write_predictions(right, folder / "q.json")
    schema, submission, scores = folder / "schema.json", folder / "result.zip", folder / "scores.json"
    RelationSchema.of_corpus(Corpus.open(gold), 1).write(schema)
    documents = gold
    if as_file:
        documents = folder / "docs.json"
        documents.write_text(json.dumps([to_json(document) for document in Corpus.open(gold)]))
        names = dict(zip(synthetic.RELATIONS.ids, synthetic.RELATIONS.names, strict=True))
        (folder / "relations.json").write_text(json.dumps(names))
    relations = ["--relations", folder / "relations.json"] if as_file else []
    command = ["score", folder / "p.json", "--gold", documents, *relations]
    assert lines(capsys, *command)[-1] != "F1 100.00"
    shown = lines(capsys, *command, "--schema", schema, "--submission", submission, "--json", scores)
    count = len(right) + len(wrong)
    assert f"p.json: {len(wrong)} of {count} triples are not admissible and left out" in shown
    assert shown[0] == f"{submission}: {len(right)} triples for the competition"
    assert shown[-1] == "F1 100.00"
    (effect,) = json.loads(scores.read_text())["schema"]
    assert (effect["predictions"], effect["inadmissible"]) == (count, len(wrong))
    shown = lines(capsys, *command, folder / "q.json", "--schema", schema)
    assert f"q.json: 0 of {len(right)} triples are not admissible and left out" in shown


def test_documents_without_admissible_triples_count_as_classified(gold: Path, capsys: Capture) -> None:
    file, schema = write_guesses(gold, "p.json", 1.0, 1), gold.parent / "schema.json"
    kinds = sorted({entity[0].type for document in Corpus.open(gold) for entity in document.entities})
    entry = {"allowed_head": kinds, "allowed_tail": []}
    schema.write_text(json.dumps({relation: entry for relation in synthetic.RELATIONS.ids[1:]}))
    shown = lines(capsys, "score", file, "--gold", gold, "--schema", schema)
    assert shown[-1].startswith("F1 ") and shown[-1] != "F1 0.00"


def test_unsuitable_facts_are_reported(gold: Path, capsys: Capture) -> None:
    shown = lines(capsys, "score", "--gold", gold, "--pred", make_run(gold, "run", 0.5), "--train-facts", gold)
    warning = next(line for line in shown if line.startswith("Warning: "))
    assert "12 of the 12 gold documents are among the training documents" in warning


def test_compare_reads_the_documents_of_the_runs(gold: Path, capsys: Capture) -> None:
    one, other = make_run(gold, "one", 0.4), make_run(gold, "other", 0.9)
    out, listed = gold.parent / "c.json", gold.parent / "list.tsv"
    shown = lines(capsys, "compare", one, other, "--json", out, "--list", listed)
    found = json.loads(out.read_text())
    f1 = found["differences"]["f1"]
    assert f1["second"] - f1["first"] == pytest.approx(f1["difference"])
    assert shown[-1] == (
        f"F1 {f1['difference']:+.2f}: significant (paired bootstrap over documents, p = {f1['p']:.3f})"
    )
    with_gold = lines(capsys, "compare", one / "predictions.json", other, "--gold", gold)
    assert with_gold[-1] == shown[-1]
    header, *rows = [line.split("\t") for line in listed.read_text().splitlines()]
    assert header == ["change", "title", "head", "head_name", "relation", "relation_name", "tail", "tail_name"]
    assert {kind: sum(row[0] == kind for row in rows) for kind in found["changes"]} == found["changes"]
    document = next(d for d in Corpus.open(gold) if d.title == rows[0][1])
    assert rows[0][3] == document.entities[int(rows[0][2])][0].name
    assert rows[0][5] == synthetic.RELATIONS.name(rows[0][4])
    example = f"{rows[0][3]} | {rows[0][5]} | {rows[0][7]} ({rows[0][1]})."
    assert f"Correct, in the second only, such as: {example}" in shown


def test_runs_on_the_first_documents_are_compared_on_these(gold: Path, capsys: Capture) -> None:
    one, other = make_run(gold, "one", 0.5, 4), make_run(gold, "other", 1.0, 4)
    out = gold.parent / "c.json"
    lines(capsys, "compare", one, other, "--json", out)
    assert json.loads(out.read_text())["second"]["documents"] == 4


def test_runs_are_compared_on_their_common_documents(gold: Path, capsys: Capture) -> None:
    one, other = make_run(gold, "one", 1.0, 4), make_run(gold, "other", 1.0)
    shown = lines(capsys, "compare", one, other, "--json", gold.parent / "c.json")
    assert shown[:3] == [
        f"{one} classified 4 of the 12 gold documents.",
        f"{other} classified 12 of the 12 gold documents.",
        "Scores are over 4 of 12 gold documents; 8 are left out.",
    ]
    found = json.loads((gold.parent / "c.json").read_text())
    assert (found["documents_left_out"], found["second"]["documents"]) == (8, 4)
    assert found["second"]["problems"]["unknown_title"] == 0
    lines(capsys, "compare", one, other, "--missing", "empty", "--json", gold.parent / "c.json")
    found = json.loads((gold.parent / "c.json").read_text())
    assert (found["documents_left_out"], found["first"]["documents"]) == (0, 12)
    assert found["first"]["documents_with_predictions"] == 4


def test_runs_can_be_given_without_an_option(gold: Path, capsys: Capture) -> None:
    run, file = make_run(gold, "run", 0.7), write_guesses(gold, "p.json", 0.9, 1)
    whole = lines(capsys, "score", "--gold", gold, "--pred", run)
    assert lines(capsys, "score", run) == lines(capsys, "score", "--pred", run) == whole
    assert lines(capsys, "score", run, "--gold", gold) == lines(capsys, "score", "--gold", gold, run) == whole
    assert lines(capsys, "score", run / "predictions.json")[-1] == whole[-1]
    both = lines(capsys, "score", run, file)
    assert both[-1].endswith("mean and standard deviation of 2")
    assert lines(capsys, "score", run, "--pred", file) == both


def test_a_run_on_the_first_documents_is_scored_on_these(gold: Path, capsys: Capture) -> None:
    run, out = make_run(gold, "run", 1.0, 4), gold.parent / "s.json"
    pairs = [(d.title, [Candidate(0, 1, 0.9)]) for d in Corpus.open(gold)]
    write_candidates(pairs, gold.parent / "candidates", Corpus.open(gold).fingerprint, 0.5)
    candidates = ("--candidates", gold.parent / "candidates")
    shown = lines(capsys, "score", "--gold", gold, "--pred", run, *candidates, "--json", out)
    assert shown[:2] == [
        f"{run} classified 4 of the 12 gold documents.",
        "Scores are over 4 of 12 gold documents; 8 are left out.",
    ]
    found = json.loads(out.read_text())
    assert (found["documents"], found["documents_left_out"], found["documents_with_predictions"]) == (4, 8, 4)
    assert found["analysis"]["rcp"]["proposed"] == 4
    shown = lines(capsys, "score", run, "--missing", "empty", "--json", out)
    assert (
        shown[0] == "Predictions for 4 of 12 gold documents: the other 8 count as documents in which nothing was found."
    )
    assert json.loads(out.read_text())["f1"] < found["f1"]


def test_predictions_for_a_part_of_real_documents(shared_data: Path, tmp_path: Path, capsys: Capture) -> None:
    gold = shared_data / "redocred_dev.json"
    documents = list(read_documents(gold, DOCRED))
    part, most = tmp_path / "part.json", tmp_path / "most.json"
    write_predictions(as_predictions(documents[:20]), part)
    write_predictions(as_predictions(documents[:490]), most)
    for command in (("score", str(part)), ("compare", str(most), str(part))):
        assert main([*command, "--gold", str(gold)]) == 2
        error = capsys.readouterr().err
        assert f"{part} has predictions for 20 of the 500 gold documents: give --missing empty" in error
        assert error.count("\n") == 1
    shown = lines(capsys, "score", part, "--gold", gold, "--missing", "skip")
    assert shown[1] == "Scores are over 20 of 500 gold documents; 480 are left out."
    assert shown[-1] == "F1 100.00"
    shown = lines(capsys, "score", most, "--gold", gold)
    assert shown[0].startswith("Predictions for 490 of 500 gold documents: the other 10 count")


def test_a_relation_set_for_gold_documents(gold: Path, capsys: Capture) -> None:
    ids = {f"Q{i}": name for i, name in enumerate(synthetic.RELATIONS.names)}
    (gold.parent / "relations.json").write_text(json.dumps(ids))
    raw = [to_json(d) for d in Corpus.open(gold)]
    own = dict(zip(synthetic.RELATIONS.ids, ids, strict=True))
    for document in raw:
        for label in document["labels"]:
            label["r"] = own[label["r"]]
    (gold.parent / "docs.json").write_text(json.dumps(raw))
    predictions = [
        {"title": d["title"], "h_idx": x["h"], "t_idx": x["t"], "r": x["r"]} for d in raw for x in d["labels"]
    ]
    (gold.parent / "p.json").write_text(json.dumps(predictions))
    arguments = ("score", "--gold", gold.parent / "docs.json", "--pred", gold.parent / "p.json")
    assert lines(capsys, *arguments, "--relations", gold.parent / "relations.json")[-1] == "F1 100.00"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["score", "--pred", "p.json"], "give --gold"),
        (["score", "--gold", "gold"], "nothing to score: give a run of classify or a file of predictions"),
        (["score", "training"], "training is a training of RCP and holds no predictions.json"),
        (["compare", "one", "training"], "training is a training of RCP and holds no predictions.json"),
        (["report", "training"], "training has neither predictions nor metrics yet (it is a training of RCP)"),
        (["score", "."], ". holds no predictions.json itself: give one of the runs inside it, elsewhere, one, some"),
        (["report", "."], ". holds no predictions.json itself: give one of the runs inside it, "),
        (["score", "--gold", "gold", "--pred", "gold"], "holds no predictions.json"),
        (["score", "--gold", "gold", "--pred", "bad.json"], 'bad.json: prediction 0: lacks "title"'),
        (
            ["score", "--gold", "gold", "--pred", "p.json", "--pred", "p.json", "--candidates", "x"],
            "--candidates belongs",
        ),
        (
            ["score", "--gold", "gold", "--pred", "p.json", "--pred", "p.json", "--submission", "x"],
            "--submission belongs",
        ),
        (["score", "p.json", "--submission", "x", "--schema", "s.json"], "--schema needs the types of the entities"),
        (["score", "p.json", "--gold", "gold", "--schema", "none.json"], "none.json: no such file"),
        (
            ["score", "p.json", "--gold", "gold", "--schema", "s.json"],
            "s.json: unknown relation 'P177'; did you mean P17",
        ),
        (["compare", "p.json", "p.json"], "which documents are gold? files of predictions do not say: give --gold"),
        (["compare", "one", "elsewhere"], "which documents are gold? one classified "),
        (["compare", "p.json", "gold", "--gold", "gold"], "holds no predictions.json"),
    ],
)
def test_user_errors(
    gold: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: Any
) -> None:
    monkeypatch.chdir(gold.parent)
    write_guesses(gold, "p.json", 0.5, 1)
    (gold.parent / "bad.json").write_text("[{}]")
    (gold.parent / "s.json").write_text('{"P177": {}}')
    make_run(gold, "one", 0.5)
    make_run(gold, "some", 0.5, 3)
    make_run(gold, "elsewhere", 0.5)
    (gold.parent / "elsewhere" / "config.yaml").write_text(yaml.safe_dump({"corpus": "other"}))
    (gold.parent / "training").mkdir()
    (gold.parent / "training" / "config.yaml").write_text(yaml.safe_dump({"train": {}, "data": {}}))
    before = sorted(path.name for path in gold.parent.iterdir())
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in gold.parent.iterdir()) == before
