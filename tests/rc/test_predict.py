from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pytest
from safetensors.torch import load_file, save_file

from lmrc.common.errors import ConfigError, UserError
from lmrc.config.schema import ClassifyConfig, DecodeOptions, FewShotOptions, PromptOptions, RunOptions, ServerOptions
from lmrc.corpus.candidates import Candidate, Candidates, write_candidates
from lmrc.corpus.docred import candidate_pairs, relations_by_pair
from lmrc.corpus.predictions import Prediction, read_predictions
from lmrc.corpus.relation_schema import RelationSchema
from lmrc.corpus.relations import RelationSet
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.model.lora import load_tokenizer
from lmrc.rc.predict import ClassifyInference
from lmrc.rc.prompts.query_builder import QueryBuilder, prompt_ids
from lmrc.rc.prompts.templates import PROMPTS
from tests.rc import tiny
from tests.rc.conftest import Learnt, by_heart
from tests.rc.decoding.openai.scripted import Act, serve

GOLD = {
    Prediction("one", 0, 1, "P26"),
    Prediction("one", 1, 2, "P17"),
    Prediction("one", 1, 2, "P495"),
    Prediction("three", 0, 1, "P17"),
}


def config(learnt: Learnt, runs: Path, **options: object) -> ClassifyConfig:
    run = RunOptions(name="classify", folder=runs)
    return ClassifyConfig(run=run, corpus=learnt.corpus.folder, rc=learnt.adapter, **options)


def units(documents: int, size: int) -> list[range]:
    return [range(start, min(start + size, documents)) for start in range(0, documents, size)]


def run(config: ClassifyConfig, unit: int = 2) -> dict[str, int]:
    """Process all units in one process."""
    inference = ClassifyInference(config)
    return inference.finish(row for part in units(inference.documents, unit) for row in inference.rows(part))


def predicted(folder: Path) -> set[Prediction]:
    """Return the predictions without their scores, after checking that these are probabilities."""
    predictions = read_predictions(folder / "classify" / "predictions.json")
    assert all(p.score is not None and 0 < p.score <= 1 for p in predictions)
    return {replace(p, score=None) for p in predictions}


def test_gold_pairs(learnt: Learnt, tmp_path: Path) -> None:
    """The memorized relations are predicted, from the files of corpus and adapter."""
    counts = run(config(learnt, tmp_path))
    assert counts == {
        "documents": 3,
        "documents_without_pairs": 1,
        "queries": 2,
        "pairs": 3,
        "predictions": 4,
        "unfinished": 0,
        "none": 0,
        "shortened": 0,
        "sentences_left_out": 0,
    }
    folder = tmp_path / "classify"
    assert predicted(tmp_path) == GOLD
    rows = [json.loads(row) for row in (folder / "generations.jsonl").read_text().splitlines()]
    assert rows[1] == {
        "document": 2,
        "title": "three",
        "pairs": [[0, 1]],
        "answer": "(Zoë| country| France)",
        "finished": True,
        "failures": {},
        "unknown_relations": [],
        "left_out": [],
    }
    assert sorted(path.name for path in folder.iterdir()) == ["generations.jsonl", "predictions.json"]


def test_direct_asks_about_all_pairs(learnt_direct: Learnt, tmp_path: Path) -> None:
    counts = run(config(learnt_direct, tmp_path))
    assert predicted(tmp_path) == {Prediction("three", 0, 1, "P17")}
    assert (counts["pairs"], counts["none"], counts["documents_without_pairs"]) == (4, 3, 0)


def test_mode_score(learnt: Learnt, tmp_path: Path) -> None:
    """Predictions have at least the threshold; all scores are in a separate file."""
    counts = run(config(learnt, tmp_path, decode=DecodeOptions(mode="score", threshold=0.4)))
    assert predicted(tmp_path) >= GOLD
    kept = read_predictions(tmp_path / "classify" / "predictions.json")
    everything = read_predictions(tmp_path / "classify" / "scores-of-all.json")
    assert kept == [p for p in everything if (p.score or 0) >= 0.4]
    assert all(0.01 <= (p.score or 0) <= 1 for p in everything)
    assert (counts["predictions"], counts["unfinished"], counts["none"]) == (len(kept), 0, 0)
    run(config(learnt, tmp_path, decode=DecodeOptions(mode="score", threshold=1.0)))
    assert predicted(tmp_path) == set()
    assert read_predictions(tmp_path / "classify" / "scores-of-all.json") == everything


def test_likelihood_scores_the_relations_of_candidates(learnt_likelihood: Learnt, tmp_path: Path) -> None:
    """All questions are in a separate file, also the improbable ones."""
    asked = tiny.candidates(tmp_path / "candidates", learnt_likelihood.corpus)
    score = DecodeOptions(mode="score", threshold=0.1)
    counts = run(config(learnt_likelihood, tmp_path, candidates=asked.folder, decode=score))
    scores = read_predictions(tmp_path / "classify" / "scores-of-all.json")
    assert len(scores) == 8
    # The tails of gold triples were learnt by heart.
    assert (
        predicted(tmp_path) == {replace(found, score=None) for found in scores if (found.score or 0.0) >= 0.1} >= GOLD
    )
    assert (counts["queries"], counts["pairs"], counts["predictions"]) == (3, 5, len(predicted(tmp_path)))
    with pytest.raises(ConfigError, match=r"scores relations of candidates .*: give --candidates"):
        ClassifyInference(config(learnt_likelihood, tmp_path, decode=score))
    with pytest.raises(ConfigError, match=r"scores triples and writes no answers .*: give --decode.mode score"):
        ClassifyInference(config(learnt_likelihood, tmp_path, candidates=asked.folder))


def test_rcp_llm_writes_candidates(base: Path, tmp_path: Path) -> None:
    """The LM answers Yes or No for all pairs, and its candidates are the input of the next classify run."""
    yes_no = by_heart(base, tmp_path, "rcp-llm", tiny.DOCUMENTS, 120)
    counts = run(config(yes_no, tmp_path))
    folder = tmp_path / "classify" / "candidates"
    candidates = Candidates.open(folder)
    candidates.check(yes_no.corpus)
    pairs = [[(candidate.head, candidate.tail) for candidate in candidates[index]] for index in range(3)]
    assert pairs == [[(0, 1), (1, 2)], [], [(0, 1)]]
    assert (counts["pairs"], counts["predictions"], counts["none"]) == (6 + 2 + 2, 3, 7)
    assert not (tmp_path / "classify" / "predictions.json").exists()
    with pytest.raises(ConfigError, match="candidates must cover the whole corpus: leave out documents"):
        ClassifyInference(config(yes_no, tmp_path, documents=2))


def test_the_chat_template_of_training_is_used(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chat_base = tmp_path / "base"
    shutil.copytree(base, chat_base)
    tokenizer = load_tokenizer(str(base))
    tokenizer.chat_template = "{% for turn in messages %}[{{ turn.role }}]{{ turn.content }}{% endfor %}[answer]"
    tokenizer.save_pretrained(chat_base)
    documents = tiny.DOCUMENTS[2:]
    learnt = by_heart(chat_base, tmp_path, "rc", documents, 60, "chat")
    prompts: list[str] = []
    monkeypatch.setattr(
        "lmrc.rc.decoding.generate.prompt_ids",
        lambda *arguments: [ids := prompt_ids(*arguments), prompts.append(str(tokenizer.decode(ids)))][0],
    )
    run(config(learnt, tmp_path))
    assert predicted(tmp_path) == {Prediction("three", 0, 1, "P17")}
    (prompt,) = prompts
    assert prompt.startswith("[user]Below is an instruction") and prompt.endswith("### Response:\n[answer]")
    trained = str(tokenizer.decode(learnt.task.collate([0])["input_ids"]))
    assert trained == prompt + "(Zoë| country| France)</s>"


def answers_of_gold(body: dict[str, Any], times: int) -> Act:
    """Return the gold answer to the last message of a conversation, as a server would."""
    prompt = body["messages"][-1]["content"]
    document = next(d for d in tiny.DOCUMENTS if " ".join(d.sentences[0]) in prompt and d.title != "two")
    if "(X| -| Y)" in prompt:
        document = tiny.DOCUMENTS[1]
    gold = relations_by_pair(document)
    pairs = {pair: gold.get(pair, ()) for pair in candidate_pairs(len(document.entities))}
    text = PROMPTS["direct"].answer(document, pairs, tiny.RELATIONS)
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return Act(body=json.dumps({"id": "x", "choices": [choice], "usage": usage}).encode())


def test_few_shot_with_a_server(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """There is no adapter, and all pairs are asked about in mode free. A second run sends no request."""
    corpus = tiny.corpus(tmp_path / "corpus", tiny.DOCUMENTS)
    shown = tiny.corpus(tmp_path / "shown", tiny.DOCUMENTS[:1])
    with serve(answers_of_gold) as server:
        options = ClassifyConfig(
            run=RunOptions(name="classify", folder=tmp_path),
            corpus=corpus.folder,
            rc=None,
            base=str(base),
            prompt=PromptOptions(kind="direct"),
            few_shot=FewShotOptions(examples=1, corpus=shown.folder),
            decode=DecodeOptions(backend="openai", mode="free"),
            server=ServerOptions(url=server.url, model="known", key_variable=None),
        )
        counts = run(options)
        assert set(read_predictions(tmp_path / "classify" / "predictions.json")) == GOLD
        assert counts["none"] == 10 - 3
        for body in server.asked:
            turns = [message["role"] for message in body["messages"]]
            assert turns == ["user", "assistant", "user"]
        sent = len(server.asked)
        assert sent == 3
        run(options)
        assert len(server.asked) == sent
    assert "server: " in caplog.text
    # Demonstrations count towards max_length.
    cramped = options.model_copy(update={"prompt": PromptOptions(kind="direct", max_length=400)})
    with pytest.raises(UserError, match="of them for demonstrations"):
        ClassifyInference(cramped).rows(range(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decode": {"backend": "openai", "mode": "score"}}, "for which a server is too far away"),
        ({"decode": {"backend": "openai"}}, "the token ids of the prompt: give --server.endpoint completions"),
        ({"few_shot": {"examples": 3}}, "turns of a conversation with a server"),
        ({"rc": None}, "name it in base"),
        ({"decode": {"backend": "openai", "mode": "free", "gpus_per_worker": 2}}, "a server, which has its own GPUs"),
        (
            {"decode": {"backend": "openai", "mode": "free"}, "few_shot": {"examples": 1, "corpus": "CORPUS"}},
            "the corpus to classify: give the training corpus",
        ),
        (
            {
                "decode": {"backend": "openai", "mode": "free"},
                "few_shot": {"examples": 1},
                "server": {"endpoint": "completions"},
            },
            "give --server.endpoint chat",
        ),
        (
            {
                "rc": None,
                "base": "x",
                "prompt": {"template": "llama2"},
                "decode": {"backend": "openai", "mode": "free"},
            },
            "its own chat template",
        ),
    ],
)
def test_conflicting_options_are_refused(learnt: Learnt, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    text = json.dumps(changes).replace("CORPUS", str(learnt.corpus.folder))
    values = config(learnt, tmp_path).model_dump(mode="json") | json.loads(text)
    with pytest.raises(ConfigError, match=message):
        ClassifyInference(ClassifyConfig.model_validate(values))


def test_candidates(learnt: Learnt, tmp_path: Path) -> None:
    rows = [("one", [Candidate(0, 1, 0.9), Candidate(1, 2, 0.6)]), ("two", []), ("three", [])]
    write_candidates(rows, tmp_path / "candidates", learnt.corpus.fingerprint, 0.5)
    counts = run(config(learnt, tmp_path, candidates=tmp_path / "candidates"))
    assert counts["documents_without_pairs"] == 2
    assert predicted(tmp_path) == {prediction for prediction in GOLD if prediction.title == "one"}


def test_first_documents_only(learnt: Learnt, tmp_path: Path) -> None:
    counts = run(config(learnt, tmp_path, documents=2))
    assert (counts["documents"], counts["queries"]) == (2, 1)


def test_text_that_does_not_fit_is_shortened(learnt: Learnt, tmp_path: Path) -> None:
    """The second sentence of document "one" has no mention and is dropped. With one token more the text would fit."""
    asked = tmp_path / "adapter"
    shutil.copytree(learnt.adapter, asked)
    metadata = AdapterMetadata.read(asked)
    document = tiny.DOCUMENTS[0]

    def fits(max_length: int) -> bool:
        options = metadata.prompt.model_copy(update={"max_length": max_length})
        try:
            list(QueryBuilder(learnt.task.tokenizer, tiny.RELATIONS, options).build(0, document, [(1, 2)]))
        except UserError:
            return False
        return True

    enough = next(length for length in range(64, 4096) if fits(length))
    prompt = metadata.prompt.model_copy(update={"max_length": enough - 1})
    replace(metadata, prompt=prompt).write(asked)
    given = config(learnt, tmp_path, documents=1).model_copy(update={"rc": asked})
    with pytest.raises(UserError, match="'one' needs"):
        run(given)
    replace(metadata, prompt=prompt.model_copy(update={"truncate": "sentences"})).write(asked)
    counts = run(given)
    rows = [json.loads(row) for row in (tmp_path / "classify" / "generations.jsonl").read_text().splitlines()]
    assert {tuple(row["pairs"][0]): row["left_out"] for row in rows}[1, 2] == [1]
    assert counts["shortened"] == counts["sentences_left_out"] == sum(row["left_out"] == [1] for row in rows) >= 1
    (shown,) = QueryBuilder(
        learnt.task.tokenizer, tiny.RELATIONS, prompt.model_copy(update={"truncate": "sentences"})
    ).build(0, document, [(1, 2)])
    assert "### Text:\nAda met Bob .\n" in shown.prompt
    # The option may be given at inference, and changes the fingerprint.
    replace(metadata, prompt=prompt).write(asked)
    shortened = given.model_copy(update={"prompt": PromptOptions(truncate="sentences")})
    assert ClassifyInference(shortened).identity != ClassifyInference(given).identity
    assert run(shortened) == counts


def with_schema(learnt: Learnt, folder: Path, rules: dict[str, Any]) -> Path:
    """Copy the adapter, with a schema in its metadata."""
    shutil.copytree(learnt.adapter, folder)
    schema = RelationSchema.of_json(rules, tiny.RELATIONS, "schema.json")
    replace(AdapterMetadata.read(learnt.adapter), schema=schema).write(folder)
    return folder


# All entities are of type PER, so that P26 and P361 are offered.
PERSONS = {id_: {"types": []} for id_ in tiny.RELATIONS} | {
    "P26": {"types": [["PER", "PER"]]},
    "P361": {"allowed_head": ["PER"]},
}


@pytest.mark.parametrize("mode", ["constrained", "score"])
def test_answers_name_admissible_relations_only(
    learnt: Learnt, tmp_path: Path, mode: Literal["constrained", "score"]
) -> None:
    """By the schema of the adapter, which a schema of the user replaces."""
    decode = DecodeOptions(mode=mode)
    plain = config(learnt, tmp_path, decode=decode)
    trained = plain.model_copy(update={"rc": with_schema(learnt, tmp_path / "adapter", PERSONS)})
    assert "no_admissible_relation" not in run(plain)
    assert predicted(tmp_path) >= GOLD
    counts = run(trained)
    assert counts["no_admissible_relation"] == 0
    found = predicted(tmp_path)
    assert {p.relation for p in found} <= {"P26", "P361"}
    assert Prediction("one", 0, 1, "P26") in found
    file = tmp_path / "schema.json"
    file.write_text(json.dumps({"P26": {"types": [["PER", "LOC"]]}, "P495": {"allowed_tail": ["LOC"]}}))
    replaced = trained.model_copy(update={"decode": DecodeOptions(mode=mode, schema=file)})
    assert run(replaced)["no_admissible_relation"] == 0
    assert predicted(tmp_path) >= {Prediction("one", 1, 2, "P17"), Prediction("three", 0, 1, "P17")}
    assert not {"P26", "P495"} & {p.relation for p in predicted(tmp_path)}
    # The fingerprint covers the content of the schema, and not its path.
    identities = [ClassifyInference(given).identity for given in (plain, trained, replaced)]
    assert len(set(identities)) == 3
    moved = file.rename(tmp_path / "moved.json")
    again = replaced.model_copy(update={"decode": DecodeOptions(mode=mode, schema=moved)})
    assert ClassifyInference(again).identity == identities[2]
    moved.write_text("{}")
    assert ClassifyInference(again).identity not in identities


def test_pairs_without_an_admissible_relation_are_offered_all(learnt: Learnt, tmp_path: Path) -> None:
    rules = {id_: {"types": []} for id_ in tiny.RELATIONS} | {"P26": {"types": [["PER", "LOC"]]}}
    counts = run(config(learnt, tmp_path).model_copy(update={"rc": with_schema(learnt, tmp_path / "adapter", rules)}))
    assert predicted(tmp_path) == GOLD
    assert (counts["no_admissible_relation"], counts["pairs"]) == (3, 3)


def test_mode_free_does_not_use_the_schema_and_says_so(
    learnt: Learnt, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = with_schema(learnt, tmp_path / "adapter", PERSONS)
    free = config(learnt, tmp_path, decode=DecodeOptions(mode="free")).model_copy(update={"rc": adapter})
    counts = run(free)
    assert "no_admissible_relation" not in counts
    assert f"mode free answers with any relation: the relation schema of {adapter} is not used" in caplog.messages


def test_schema_for_answers_without_relations_is_refused(learnt: Learnt, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(learnt.adapter, adapter)
    replace(AdapterMetadata.read(adapter), prompt=PromptOptions(kind="rcp-llm")).write(adapter)
    (tmp_path / "schema.json").write_text("{}")
    given = config(learnt, tmp_path, decode=DecodeOptions(schema=tmp_path / "schema.json"))
    with pytest.raises(ConfigError, match=r"decode\.schema .* answers of prompt\.kind rcp-llm name none: leave it out"):
        ClassifyInference(given.model_copy(update={"rc": adapter}))
    (tmp_path / "schema.json").write_text('{"P99": {}}')
    with pytest.raises(UserError, match=r"unknown relation 'P99'"):
        ClassifyInference(given)


def test_prompt_options_that_differ_from_training_are_refused(learnt: Learnt, tmp_path: Path) -> None:
    trained = AdapterMetadata.read(learnt.adapter).prompt
    ClassifyInference(config(learnt, tmp_path, prompt=PromptOptions(max_length=trained.max_length)))
    with pytest.raises(ConfigError, match=r"prompt\.max_length \(trained with \d+, given 128\).*only prompt\.truncate"):
        ClassifyInference(config(learnt, tmp_path, prompt=PromptOptions(max_length=128)))


def test_unfinished_answers_are_counted(learnt: Learnt, tmp_path: Path) -> None:
    """An LM that was not trained does not end its answers."""
    untrained = learnt.corpus.folder.parent / "untrained"
    untrained.mkdir()
    for path in learnt.adapter.iterdir():
        (untrained / path.name).write_bytes(path.read_bytes())
    weights = load_file(untrained / "adapter_model.safetensors")
    save_file({name: 0 * tensor for name, tensor in weights.items()}, untrained / "adapter_model.safetensors")
    free = config(learnt, tmp_path, decode=DecodeOptions(mode="free"))
    counts = run(free.model_copy(update={"rc": untrained}))
    assert counts["unfinished"] == 2
    assert counts["unanswered_pair"] == 3
    assert read_predictions(tmp_path / "classify" / "predictions.json") == []


def test_candidates_of_another_corpus_are_refused(learnt: Learnt, tmp_path: Path) -> None:
    write_candidates([("one", [])], tmp_path / "candidates", "0" * 64, 0.5)
    with pytest.raises(UserError, match="made from another corpus"):
        ClassifyInference(config(learnt, tmp_path, candidates=tmp_path / "candidates"))
    assert not (tmp_path / "classify").exists()


def test_corpus_with_different_relations_is_refused(learnt: Learnt, tmp_path: Path) -> None:
    fewer = RelationSet((*tiny.RELATIONS.ids, "P1"), (*tiny.RELATIONS.names, "new one"))
    other = tiny.corpus(tmp_path / "other", tiny.DOCUMENTS, fewer)
    with pytest.raises(UserError, match="trained with another relation set"):
        ClassifyInference(config(learnt, tmp_path).model_copy(update={"corpus": other.folder}))


def test_documents_without_labels_need_candidates(learnt: Learnt, tmp_path: Path) -> None:
    documents = [replace(document, labels=None if n else document.labels) for n, document in enumerate(tiny.DOCUMENTS)]
    unlabeled = config(learnt, tmp_path).model_copy(
        update={"corpus": tiny.corpus(tmp_path / "unlabeled", documents).folder}
    )
    with pytest.raises(UserError, match="'two' has no labels"):
        ClassifyInference(unlabeled)
    assert ClassifyInference(unlabeled.model_copy(update={"documents": 1})).documents == 1


def test_answer_limit_below_a_single_pair_is_refused(learnt: Learnt, tmp_path: Path) -> None:
    """Only the unit with the document fails, before the LM is loaded; the message names the document."""
    inference = ClassifyInference(config(learnt, tmp_path, decode=DecodeOptions(max_new_tokens=5)))
    with pytest.raises(UserError, match=r"'three'.* raise decode\.max_new_tokens"):
        inference.rows(range(1, 3))
    assert "_model" not in vars(inference)
    assert inference.rows(range(1, 2)) == [{"title": "two", "generations": [], "triples": []}]


def test_folder_without_an_adapter_is_refused(learnt: Learnt, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no adapter"):
        ClassifyInference(config(learnt, tmp_path).model_copy(update={"rc": tmp_path}))


@pytest.fixture
def many(learnt: Learnt, tmp_path: Path) -> ClassifyConfig:
    """Return a config with twelve documents in mode free. Every fourth was not in training, so its answers fail."""
    lengthened = [
        replace(document, title=f"{document.title} {n}", sentences=document.sentences * (1 + n % 4 // 3))
        for n, document in enumerate(tiny.DOCUMENTS * 4)
    ]
    corpus = tiny.corpus(tmp_path / "many", lengthened)
    decode = DecodeOptions(mode="free", max_new_tokens=150, batch_size=3)
    return config(learnt, tmp_path, decode=decode).model_copy(update={"corpus": corpus.folder})


def written(config: ClassifyConfig) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (config.run.folder / "classify").iterdir()}


def test_files_do_not_depend_on_the_workers(many: ClassifyConfig) -> None:
    """Units are processed in reverse order by separate instances, and `finish` is called twice."""
    result = run(many, unit=6)
    assert result["documents"] == 12
    assert result["predictions"] > 0
    assert result.get("unanswered_pair", 0) > 0
    expected = written(many)
    assert expected.keys() == {"generations.jsonl", "predictions.json"}

    parts = {}
    for unit in reversed(units(12, 6)):
        worker = ClassifyInference(many)
        parts[unit.start] = pa.Table.from_pylist(worker.rows(unit), schema=worker.schema)
    merged = pa.concat_tables(parts[start] for start in sorted(parts))
    for _ in range(2):
        finisher = ClassifyInference(many)
        assert finisher.finish(iter(merged.to_pylist())) == result
        assert "_model" not in vars(finisher)
        assert written(many) == expected
        # A file of an attempt that was killed is replaced.
        (many.run.folder / "classify" / "generations.jsonl").write_text("torn")


def test_too_few_rows_leave_the_files_unchanged(learnt: Learnt, tmp_path: Path) -> None:
    options = config(learnt, tmp_path)
    run(options)
    before = written(options)
    inference = ClassifyInference(options)
    with pytest.raises(ValueError, match="shorter"):
        inference.finish(iter(inference.rows(range(1))))
    assert written(options) == before


def test_identity_depends_on_all_inputs(learnt: Learnt, many: ClassifyConfig, tmp_path: Path) -> None:
    options = config(learnt, tmp_path)
    identity = ClassifyInference(options).identity
    assert ClassifyInference(config(learnt, tmp_path / "elsewhere", documents=3)).identity == identity
    rows = [("one", [Candidate(0, 1, 0.9)]), ("two", []), ("three", [])]
    write_candidates(rows, tmp_path / "candidates", learnt.corpus.fingerprint, 0.5)
    adapter = tmp_path / "adapter"
    shutil.copytree(learnt.adapter, adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, adapter / "adapter_model.safetensors")
    others = [
        config(learnt, tmp_path, documents=2),
        config(learnt, tmp_path, candidates=tmp_path / "candidates"),
        config(learnt, tmp_path, decode=DecodeOptions(min_fuzzy_score=0)),
        options.model_copy(update={"rc": adapter}),
        options.model_copy(update={"corpus": many.corpus}),
    ]
    assert len({identity, *(ClassifyInference(other).identity for other in others)}) == 1 + len(others)
