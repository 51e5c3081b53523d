from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmrc.common.errors import ConfigError, UserError
from lmrc.config.schema import (
    LoraOptions,
    PromptOptions,
    Quantization,
    RcConfig,
    RcModelOptions,
    RcTraining,
    RunOptions,
    TrainingData,
)
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.relation_schema import RelationSchema
from lmrc.corpus.relations import RelationSet
from lmrc.rc.model import packed_attention
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.model.lora import load_base
from lmrc.rc.task import RcTask
from lmrc.training.distributed import ALONE, World
from tests.rc.conftest import Learnt, by_heart
from tests.rc.tiny import DOCUMENTS, RELATIONS, corpus, document

DEV = [document(["Eve", "Spain"], [(0, 1, "P17")], f"dev {i}", text="word " * i) for i in range(5)]


@pytest.fixture
def make(base: Path, tmp_path: Path) -> Callable[..., RcTask]:
    def make_task(
        prompt: PromptOptions | None = None, quantization: Quantization | None = None, **train: object
    ) -> RcTask:
        options = {"learning_rate": 0.01, "precision": "fp32", **train}
        config = RcConfig(
            data=TrainingData(train=tmp_path / "train", dev=tmp_path / "dev"),
            model=RcModelOptions(base=str(base), quantization=quantization),
            lora=LoraOptions(dropout=0.0),
            prompt=prompt or PromptOptions(),
            train=RcTraining(**options),
        )
        paths = {name: tmp_path / name for name in ("train", "dev")}
        corpora = [
            Corpus.open(path) if path.exists() else corpus(path, documents)
            for path, documents in zip(paths.values(), (DOCUMENTS, DEV), strict=True)
        ]
        return RcTask(config, *corpora)

    return make_task


def randomize(task: RcTask) -> None:
    """Set the adapter to random values. Initially half of it is 0, and so are the gradients of the other half."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in task.model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)


def slow_loss(task: RcTask, index: int) -> float:
    """Return the loss, computed token by token from the text, without batches, masks or padding."""
    batch = task.collate([index])
    ids = batch["input_ids"].tolist()
    text = task.tokenizer.decode(ids)
    before = text[: text.index("### Response:\n") + len("### Response:\n")]
    start = len(task.tokenizer(before)["input_ids"])
    total = 0.0
    for position in range(start, len(ids)):
        with torch.no_grad():
            logits = task.model(input_ids=torch.tensor([ids[:position]])).logits[0, -1]
        total -= torch.log_softmax(logits.double(), -1)[ids[position]].item()
    return total


def test_examples(make: Callable[..., RcTask]) -> None:
    task = make()
    assert len(task) == 2  # The document without a relation has no query.
    answers = [
        "(Ada| spouse| Bob (singer))\n(Bob (singer)| country| U.S.)\n(Bob (singer)| country of origin| U.S.)",
        "(Zoë| country| France)",
    ]
    for index, answer in enumerate(answers):
        assert task.weight(index) == len(task.tokenizer(answer)["input_ids"]) + 1
        batch = task.collate([index])
        assert task.tokenizer.decode(batch["targets"]) == answer + "</s>"
        assert torch.equal(batch["input_ids"][batch["logit_positions"] + 1], batch["targets"])
        assert task.size(index) == len(batch["input_ids"])


def test_shortened_queries_are_reported(make: Callable[..., RcTask], caplog: pytest.LogCaptureFixture) -> None:
    """`max_length` is three tokens less than the second query of the first document needs."""
    task = make(prompt=PromptOptions(pairs_per_query=1))
    assert caplog.messages[0].endswith(", from 3 documents; 1 document without pairs")
    caplog.clear()
    assert (task.size(0), task.size(1), task.size(2)) == (196, 233, 209)
    make(prompt=PromptOptions(max_length=230, pairs_per_query=1, truncate="sentences"))
    first = caplog.messages[0]
    assert first.endswith("3 documents; 1 document without pairs; 1 sentence dropped from 1 query, to fit")


def test_loss_is_the_sum_over_answer_tokens(make: Callable[..., RcTask]) -> None:
    task = make()
    randomize(task)
    expected = [slow_loss(task, 0), slow_loss(task, 1)]
    with torch.no_grad():
        alone = [task.loss(task.model, task.collate([index])).item() for index in (0, 1)]
        together = task.loss(task.model, task.collate([0, 1]))
    assert alone == pytest.approx(expected, rel=1e-5)
    assert together.item() == pytest.approx(sum(expected), rel=1e-5)
    assert together.dtype == torch.float32
    assert together.dim() == 0


def test_loss_of_a_model_that_cannot_select_logits(
    make: Callable[..., RcTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make()
    randomize(task)

    batch = task.collate([0, 1])
    with torch.no_grad():
        selected = task.loss(task.model, batch)
        monkeypatch.setattr(packed_attention, "_selects_logits", lambda model: False)
        assert torch.allclose(task.loss(task.model, batch), selected, rtol=1e-6)


def test_logits_are_computed_for_target_tokens_only(make: Callable[..., RcTask]) -> None:
    task = make()
    rows: list[int] = []
    head = task.model.get_submodule("base_model.model.lm_head")
    head.register_forward_hook(lambda module, inputs, output: rows.append(output.numel() // output.shape[-1]))
    task.loss(task.model, task.collate([0, 1]))
    assert rows == [task.weight(0) + task.weight(1)]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_only_the_adapter_gets_gradients(make: Callable[..., RcTask], checkpointing: bool) -> None:
    plain, task = make(), make(gradient_checkpointing=checkpointing)
    for trained in (plain, task):
        randomize(trained)
        trained.model.train()
        trained.loss(trained.model, trained.collate([0, 1])).backward()  # type: ignore[no-untyped-call]
    for (name, parameter), other in zip(task.model.named_parameters(), plain.model.parameters(), strict=True):
        if "lora_" in name:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0
            assert torch.allclose(parameter.grad, other.grad, rtol=1e-4, atol=1e-6)  # type: ignore[arg-type]
        else:
            assert parameter.grad is None
    (group,) = task.parameter_groups()
    assert group["lr"] == 0.01
    assert len(group["params"]) == 28


def test_gradient_checkpointing_recomputes(make: Callable[..., RcTask]) -> None:
    task = make(gradient_checkpointing=True)
    task.model.train()
    calls = []
    layer = task.model.get_submodule("base_model.model.model.layers.0.self_attn")
    layer.register_forward_hook(lambda *_: calls.append(1))
    task.loss(task.model, task.collate([1])).backward()  # type: ignore[no-untyped-call]
    assert len(calls) == 2


def test_evaluation_is_per_token_and_independent_of_the_world_size(make: Callable[..., RcTask]) -> None:
    task = make(micro_batch_size=2)
    randomize(task)
    task.model.eval()
    texts = [(example.input_ids.tolist(), example.prompt_tokens) for example in task._dev]
    loss, correct, tokens = 0.0, 0, 0
    with torch.no_grad():
        for ids, start in texts:
            logits = task.model(input_ids=torch.tensor([ids])).logits[0].double()
            for position in range(start, len(ids)):
                loss -= torch.log_softmax(logits[position - 1], -1)[ids[position]].item()
                correct += int(logits[position - 1].argmax() == ids[position])
                tokens += 1
        scores = task.evaluate(task.model, ALONE)
    assert scores == pytest.approx({"loss": loss / tokens, "token_accuracy": 100 * correct / tokens}, rel=1e-5)

    # Two ranks, five queries: the second rank repeats one, which must not count, to run as many forward passes.
    passes = [0, 0]
    sums: list[list[float]] = []

    class Half(World):
        def sum(self, values: list[float]) -> list[float]:
            sums.append(values)
            return values

    for rank in (0, 1):
        handle = task.model.register_forward_hook(lambda *_, rank=rank: passes.__setitem__(rank, passes[rank] + 1))
        with torch.no_grad():
            task.evaluate(task.model, Half(rank, 2, torch.device("cpu")))
        handle.remove()
    assert passes == [2, 2]
    assert [sum(values) for values in zip(*sums, strict=True)] == pytest.approx([loss, correct, tokens], rel=1e-5)


def test_fingerprint_depends_on_the_examples_only(make: Callable[..., RcTask]) -> None:
    assert make().fingerprint() == make(learning_rate=0.5).fingerprint()
    assert make().fingerprint() != make(PromptOptions(pairs_per_query=1)).fingerprint()


def test_direct_asks_about_all_pairs(make: Callable[..., RcTask]) -> None:
    task = make(PromptOptions(kind="direct"))
    assert len(task) == 3
    batch = task.collate([1])
    assert "(X| None| Y)\n(Y| None| X)</s>" in task.tokenizer.decode(batch["input_ids"])


def answer_lines(task: RcTask) -> list[set[str]]:
    """Return the lines of the gold answer of each training query."""
    texts = [str(task.tokenizer.decode(task.collate([index])["input_ids"])) for index in range(len(task))]
    return [set(text.partition("### Response:\n")[2].removesuffix("</s>").split("\n")) for text in texts]


def test_pairs_without_a_relation_are_sampled_in_training_only(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each document has 30 pairs. A ratio of 2 keeps 4 negatives for 2 gold pairs, and 2 for none. Dev keeps all."""
    names = ["Ada", "Bob", "Cy", "Dan", "Eve", "Flo"]
    documents = [document(names, [(0, 1, "P26"), (1, 0, "P26"), (1, 0, "P17")], "one"), document(names, [], "two")]
    folder = corpus(tmp_path / "corpus", documents).folder

    def make(seed: int, ratio: float | None) -> RcTask:
        options = RcConfig(
            run=RunOptions(seed=seed),
            data=TrainingData(train=folder, dev=folder),
            model=RcModelOptions(base=str(base)),
            prompt=PromptOptions(kind="direct"),
            train=RcTraining(precision="fp32", negative_ratio=ratio),
        )
        return RcTask(options, Corpus.open(folder), Corpus.open(folder))

    everything = answer_lines(make(1, None))
    caplog.clear()
    task = make(1, 2.0)
    train, dev = (line for line in caplog.messages if "queries" in line)
    assert "; 52 pairs without a relation left out" in train and "without a relation" not in dev
    first, second = answer_lines(task)
    related = {"(Ada| spouse| Bob)", "(Bob| spouse| Ada)", "(Bob| country| Ada)"}
    assert related < first < everything[0] and second < everything[1]
    assert (len(first - related), len(second)) == (4, 2)
    assert all("| None|" in line for line in [*(first - related), *second])
    assert first - related != second
    assert task.fingerprint() == make(1, 2.0).fingerprint() != make(2, 2.0).fingerprint()
    # A ratio above the number of negatives keeps all.
    assert answer_lines(make(1, 100.0)) == everything


def test_none_ratio_is_refused_for_gold_pairs(make: Callable[..., RcTask]) -> None:
    with pytest.raises(ConfigError, match=r"negative_ratio drops pairs .* prompt\.kind rc has none"):
        make(negative_ratio=1.0)


def test_queries_beyond_the_position_limit_are_refused(make: Callable[..., RcTask], base: Path, tmp_path: Path) -> None:
    make()
    short = tmp_path / "short"
    shutil.copytree(base, short)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 250}))
    options = RcConfig(
        data=TrainingData(train=tmp_path / "train", dev=tmp_path / "dev"),
        model=RcModelOptions(base=str(short)),
    )
    corpora = Corpus.open(tmp_path / "train"), Corpus.open(tmp_path / "dev")
    with pytest.raises(UserError, match=r"a text has \d+ tokens, but the LM \(llama\) is limited to 250 positions"):
        RcTask(options, *corpora)


def test_bf16(make: Callable[..., RcTask]) -> None:
    single, half = make(), make(precision="bf16")
    for task in (single, half):
        randomize(task)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        loss = half.loss(half.model, half.collate([0, 1]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(single.loss(single.model, single.collate([0, 1])).item(), rel=0.02)


def test_training_memorizes_the_queries(learnt: Learnt) -> None:
    assert learnt.loss < 0.2 < 2 < learnt.loss_before


def test_exported_adapter_gives_the_same_logits_in_peft(learnt: Learnt, base: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(plain, learnt.adapter).eval()
    ids = learnt.task.collate([0])["input_ids"][None]
    with torch.no_grad():
        assert torch.allclose(loaded(input_ids=ids).logits, learnt.task.model(input_ids=ids).logits, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(learnt.adapter)
    assert tokenizer.decode(tokenizer("Zoë\n(é| x")["input_ids"]) == "Zoë\n(é| x"
    assert tokenizer.eos_token == "</s>"
    assert AdapterMetadata.read(learnt.adapter) == AdapterMetadata(PromptOptions(), "fp32", RELATIONS.sha256, RELATIONS)


def test_schema_is_saved_and_its_effect_is_logged(
    make: Callable[..., RcTask], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All entities are of type PER. Gold triples that are not admissible stay in the answers."""
    plain = make()
    file = tmp_path / "schema.json"
    file.write_text('{"P17": {"types": []}, "P26": {"types": [["PER", "PER"]]}}')
    task = make(PromptOptions(schema=file))
    assert (
        f"{file}: in {tmp_path / 'train'} the LM is offered 4.0 of 5 relations for a pair on average (all, if none is "
        "admissible), and 4.0 for one with a relation; 0 of 10 pairs have no admissible relation; 2 of 4 gold triples "
        "are not admissible; training keeps the inadmissible triples, and only inference is restricted"
    ) in caplog.messages
    assert task.fingerprint() == plain.fingerprint()
    weights = {name: p.detach() for name, p in task.model.named_parameters() if p.requires_grad}
    task.export(tmp_path / "adapter", weights)
    schema = RelationSchema.read(file, RELATIONS)
    # The adapter holds the schema itself, and no path.
    file.unlink()
    metadata = AdapterMetadata.read(tmp_path / "adapter")
    assert metadata.schema == schema
    assert metadata.prompt == PromptOptions()
    assert "schema.json" not in (tmp_path / "adapter" / "lmrc.json").read_text()
    plain.export(tmp_path / "plain", weights)
    assert AdapterMetadata.read(tmp_path / "plain").schema is None
    assert "schema" not in (tmp_path / "plain" / "lmrc.json").read_text()


def test_schema_of_another_relation_set_is_refused(make: Callable[..., RcTask], tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"P1": {}}')
    with pytest.raises(UserError, match=r"schema\.json: unknown relation 'P1'; did you mean P17\?"):
        make(PromptOptions(schema=tmp_path / "schema.json"))
    with pytest.raises(ConfigError, match=r"prompt\.schema .* answers of prompt\.kind rcp-llm name none: leave it out"):
        make(PromptOptions(kind="rcp-llm", schema=tmp_path / "schema.json"))


def test_quantization_is_saved_in_the_metadata(
    make: Callable[..., RcTask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bitsandbytes is not installed, so the base is loaded without quantization."""
    monkeypatch.setattr("lmrc.rc.task.load_base", lambda *arguments: load_base(*arguments[:3]))
    task = make(quantization="4bit")
    weights = {name: p.detach() for name, p in task.model.named_parameters() if p.requires_grad}
    task.export(tmp_path / "adapter", weights)
    assert AdapterMetadata.read(tmp_path / "adapter").quantization == "4bit"


def test_corpora_with_different_relations_are_refused(base: Path, tmp_path: Path) -> None:
    config = RcConfig(model=RcModelOptions(base=str(base)))
    train = corpus(tmp_path / "train", DOCUMENTS)
    dev = corpus(tmp_path / "dev", DEV, RelationSet(RELATIONS.ids[:3], RELATIONS.names[:3]))
    with pytest.raises(UserError, match="different relation sets"):
        RcTask(config, train, dev)


def test_corpus_without_pairs_is_refused(base: Path, tmp_path: Path) -> None:
    config = RcConfig(model=RcModelOptions(base=str(base)))
    dev = corpus(tmp_path / "dev", DEV)
    empty = corpus(tmp_path / "train", [document(["X", "Y"], [])])
    with pytest.raises(UserError, match="no document has a pair to train on"):
        RcTask(config, empty, dev)


def test_missing_or_damaged_metadata(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no adapter"):
        AdapterMetadata.read(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"lmrc\.json cannot be read"):
        AdapterMetadata.read(tmp_path)
    for content in ("{", "{}", '{"prompt": {"kind": "x"}, "precision": "fp32"}'):
        (tmp_path / "lmrc.json").write_text(content)
        with pytest.raises(UserError, match=r"lmrc\.json is damaged"):
            AdapterMetadata.read(tmp_path)


def test_loss_of_likelihood_is_that_of_the_names(learnt_likelihood: Learnt) -> None:
    """Compare with passes over text and line. The names are memorized."""
    task = learnt_likelihood.task
    assert learnt_likelihood.loss < 0.2 < 0.5 < learnt_likelihood.loss_before
    words, expected = task.tokenizer, list[float]()
    for index in range(len(task)):
        example = task._train[index]
        assert example.questions is not None
        ids, start, names = example.input_ids.long(), example.prompt_tokens, 0
        for length, tokens in zip(*(values.tolist() for values in example.questions), strict=True):
            text = torch.cat([ids[: example.prompt_tokens], ids[start : start + length]])
            start, names = start + length, names + tokens
            with torch.no_grad():
                log_probabilities = torch.log_softmax(task.model(input_ids=text[None]).logits[0, :-1].double(), 1)
            assert words.decode(text[-tokens:]).endswith("\n")
            expected += (-log_probabilities[-tokens:].gather(1, text[-tokens:, None])).flatten().tolist()
        assert task.weight(index) == names
    with torch.no_grad():
        loss = task.loss(task.model, task.collate(range(len(task)))).item()
    assert loss == pytest.approx(sum(expected), abs=1e-4)
    scores = task.evaluate(task.model, ALONE)
    assert scores["loss"] == pytest.approx(sum(expected) / len(expected), abs=1e-5)


def test_questions_are_counted(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    by_heart(base, tmp_path, "likelihood", DOCUMENTS, 1)
    assert " 4 triples, from 3 documents; 1 document without pairs" in caplog.text
