from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lmrc.common.errors import ConfigError
from lmrc.config.loader import build, parse
from lmrc.config.schema import (
    ClassifyConfig,
    DemoConfig,
    ExtractConfig,
    Options,
    PipelineConfig,
    RcConfig,
    RcpConfig,
)
from lmrc.config.unused import refuse_unused, unused_options
from tests.conftest import ROOT

ENCODER = {"system": "encoder", "fusion": "fusion.json"}
FUSED = {"system": "fused", "fusion": "fusion.json", "decode.mode": "score"}
EXTRACT = {"documents": "a.json", "rcp": "rcp", "rc": "rc", "out": "out.json"}


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"decode.threshold": 0.5}, "--decode.threshold has no effect: it is read only with decode.mode score"),
        ({"decode.threshold": 0.3, "decode.mode": "free"}, "--decode.threshold"),
        (
            {"decode.min_fuzzy_score": 70},
            "--decode.min-fuzzy-score has no effect: it is read only with decode.mode free",
        ),
        (
            {"decode.schema": "s.json", "decode.mode": "free"},
            "--decode.schema has no effect: mode free answers with any relation; lmrc score --schema",
        ),
        (
            {"prompt.schema": "s.json", "decode.schema": "s.json"},
            "--prompt.schema has no effect: it is read in training; give --decode.schema",
        ),
        ({"server.model": "x"}, "--server.model has no effect: it is read only with decode.backend openai"),
        ({"few_shot.pairs": 3}, "--few-shot.pairs"),
        ({"few_shot.corpus": "data/x", "few_shot.examples": 0}, "--few-shot.corpus"),
        ({"base": "x"}, "--base has no effect: the adapter runs/rc/best names its base"),
        ({"decode.batch_size": 2, "decode.backend": "vllm", "decode.mode": "free"}, "--decode.batch-size"),
        ({"fusion": "f.json"}, "--fusion has no effect: it is read only with system encoder or fused"),
        ({"precision": 0.9}, "--precision has no effect: it is read only with system encoder or fused"),
        ({"ask": "all"}, "--ask has no effect: it is read only with system fused, and system is rc"),
        ({"ask": "all", **ENCODER}, "--ask has no effect: it is read only with system fused, and system is encoder"),
        ({"precision": 0.9, "system": "encoder"}, "--precision has no effect: it is read only with a fusion"),
        ({"decode.threshold": 0.3, **ENCODER}, "--decode.threshold has no effect: system encoder asks no LM"),
        ({"decode.threshold": 0.3, **FUSED}, "--decode.threshold has no effect: the fusion holds the threshold"),
        ({"decode.mode": "score", **ENCODER}, "--decode.mode has no effect: system encoder asks no LM"),
        ({"rc": "rc", **ENCODER}, "--rc has no effect: system encoder asks no LM"),
        ({"base": "x", **ENCODER}, "--base has no effect: system encoder asks no LM"),
        ({"prompt.max_length": 512, **ENCODER}, "--prompt.max-length has no effect: system encoder asks no LM"),
        ({"server.model": "x", **ENCODER}, "--server.model has no effect: system encoder asks no LM"),
        ({"few_shot.examples": 1, **ENCODER}, "--few-shot.examples has no effect: system encoder asks no LM"),
    ],
)
def test_classify_without_effect(values: dict[str, object], option: str) -> None:
    (sentence,) = unused_options(build(ClassifyConfig, values))
    assert sentence.startswith(option)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"decode.threshold": 0.3, "decode.mode": "score"},
        {"decode.min_fuzzy_score": 70, "decode.mode": "free"},
        {"server.model": "x", "decode.backend": "openai", "decode.mode": "free"},
        {"few_shot.pairs": 3, "few_shot.examples": 1},
        {"base": "x", "rc": None},
        {"prompt.truncate": "sentences"},
        {"decode.schema": "s.json"},
        {"decode.schema": "s.json", "decode.mode": "score"},
        {"decode.batch_size": 2},
        ENCODER,
        {**ENCODER, "precision": 0.9, "documents": 3},
        {"system": "encoder", "decode.threshold": 0.3},
        {**FUSED, "precision": 0.9, "ask": "all", "prompt.truncate": "sentences", "decode.batch_size": 2},
        {**FUSED, "rc": "rc"},
    ],
)
def test_classify_with_effect(values: dict[str, object]) -> None:
    assert unused_options(build(ClassifyConfig, values)) == []


def test_schemas_of_trainings() -> None:
    (sentence,) = unused_options(build(RcConfig, {"prompt.kind": "rcp-llm", "prompt.schema": "s.json"}))
    assert sentence == "--prompt.schema has no effect: answers of prompt.kind rcp-llm name no relations"
    assert unused_options(build(RcConfig, {"prompt.kind": "direct", "prompt.schema": "s.json"})) == []
    (sentence,) = unused_options(build(RcpConfig, {"train.schema_minimum": 3}))
    assert sentence.startswith("--train.schema-minimum has no effect: it is read only with train.relation_weight")
    (sentence,) = unused_options(build(PipelineConfig, {"rcp.train.schema_minimum": 3}))
    assert sentence.startswith("--rcp.train.schema-minimum has no effect")
    assert unused_options(build(RcpConfig, {"train.schema_minimum": 3, "train.relation_weight": 0.1})) == []
    assert unused_options(build(RcpConfig, {"train.schema_minimum": 0})) == []


def test_extract() -> None:
    given = {**EXTRACT, "relation_threshold": 0.5}
    (sentence,) = unused_options(build(ExtractConfig, given))
    assert sentence.startswith("--relation-threshold has no effect: it is read only with mode score")
    assert unused_options(build(ExtractConfig, {**given, "mode": "score"})) == []
    fused = {**EXTRACT, "fusion": "fusion.json"}
    assert unused_options(build(ExtractConfig, {**fused, "precision": 0.9, "ask": "all"})) == []
    assert [
        sentence.split(":")[0] for sentence in unused_options(build(ExtractConfig, {**fused, **given, "mode": "score"}))
    ] == [
        "--mode has no effect",
        "--relation-threshold has no effect",
    ]
    assert [
        sentence.split()[0] for sentence in unused_options(build(ExtractConfig, {**EXTRACT, "precision": 0.9}))
    ] == ["--precision"]
    with pytest.raises(ConfigError, match=r"--relation-threshold has no effect.*Leave out what has no effect$"):
        refuse_unused(build(ExtractConfig, given))


@pytest.mark.parametrize("tree", [DemoConfig, PipelineConfig])
def test_options_that_demo_and_pipeline_set_themselves(tree: type[Options]) -> None:
    sentences = unused_options(build(tree, {"propose.corpus": "x", "classify.decode.threshold": 0.3}))
    assert [sentence.split()[0] for sentence in sentences] == ["--classify.decode.threshold", "--propose.corpus"]
    (sentence,) = unused_options(build(tree, {"classify.prompt.max_length": 1024}))
    assert sentence.startswith("--classify.prompt.max-length has no effect: inference uses the prompt of the training")
    fits = {"classify.prompt.max_length": 1024, "rc.prompt.max_length": 1024, "classify.prompt.truncate": "sentences"}
    assert unused_options(build(tree, fits)) == []


@pytest.mark.parametrize("tree", [RcpConfig, RcConfig])
def test_patience_of_a_training_that_keeps_the_last_weights(tree: type[Options]) -> None:
    (sentence,) = unused_options(build(tree, {"train.patience": 3, "train.keep": "last"}))
    assert sentence == "--train.patience has no effect: it is read only with train.keep best, and train.keep is last"
    assert unused_options(build(tree, {"train.patience": 3})) == []
    assert unused_options(build(tree, {"train.keep": "last"})) == []
    stage = tree.__name__.removesuffix("Config").lower()
    for whole in (DemoConfig, PipelineConfig):
        values = {f"{stage}.train.patience": 3, f"{stage}.train.keep": "last"}
        (sentence,) = unused_options(build(whole, values))
        assert sentence.startswith(f"--{stage}.train.patience has no effect")


@pytest.mark.parametrize("tree", [DemoConfig, PipelineConfig])
def test_relation_threshold_without_a_relation_head(tree: type[Options]) -> None:
    (sentence,) = unused_options(build(tree, {"propose.relation_threshold": 0.3}))
    assert sentence.startswith("--propose.relation-threshold has no effect: it is read only for a model with a")
    assert unused_options(build(tree, {"propose.relation_threshold": 0.3, "rcp.train.relation_weight": 1.0})) == []


def test_the_demo_sets_corpora_cluster_and_runs() -> None:
    for name in ("rcp.data.train", "rc.cluster.nodes", "rcp.run.name"):
        with pytest.raises(ConfigError, match=rf"--{name} has no effect: the demo sets it"):
            parse(DemoConfig, [f"--{name}", "2"], {})


def test_cluster_options_of_a_pipeline_step() -> None:
    assert unused_options(build(PipelineConfig, {"classify.cluster.gpus": 2, "rcp.data.train": "x"})) == []


def test_options_of_cross_fitting() -> None:
    (sentence,) = unused_options(build(PipelineConfig, {"crossfit.held_out": 5}))
    assert sentence.startswith("--crossfit.held-out has no effect: it is read only with crossfit.folds of at least 2")
    given = {"crossfit.folds": 2, "crossfit.held_out": 5, "rcp.train.relation_weight": 1.0}
    given |= {"rc.prompt.kind": "likelihood"}
    assert unused_options(build(PipelineConfig, given)) == []
    (sentence,) = unused_options(build(PipelineConfig, {**given, "classify.system": "encoder", "classify.fusion": "f"}))
    assert sentence == "--classify.fusion has no effect: with crossfit.folds 2 the pipeline fits a fusion"
    # The fusion that the pipeline fits has the thresholds.
    encoder = {**given, "classify.system": "encoder", "classify.precision": 0.9}
    assert unused_options(build(PipelineConfig, encoder)) == []
    (sentence,) = unused_options(build(PipelineConfig, {**encoder, "classify.decode.threshold": 0.3}))
    assert sentence.startswith("--classify.decode.threshold has no effect: system encoder asks no LM")
    (sentence,) = unused_options(build(PipelineConfig, {**given, "classify.precision": 0.9}))
    assert sentence.startswith("--classify.precision has no effect: it is read only with system encoder or fused")


def test_options_of_a_group() -> None:
    for name, value in (("at_once", 2), ("against", "seed66")):
        (sentence,) = unused_options(build(PipelineConfig, {f"group.{name}": value}))
        assert sentence.endswith("has no effect: it is read only with --seeds or --sweep")
        given = {f"group.{name}": value, "group.sweep": {"rc.lora.r": "8,16"}, "run.seed": 1}
        assert unused_options(build(PipelineConfig, given)) == []
    (sentence,) = unused_options(build(PipelineConfig, {"run.seed": 1, "group.seeds": (66, 67)}))
    assert sentence == "--run.seed has no effect: group.seeds gives the seeds"


def test_the_command_line_and_files_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("decode: {min_fuzzy_score: 70}\n")
    for given in (["--decode.min-fuzzy-score", "70"], ["--config", str(file)]):
        with pytest.raises(ConfigError, match=r"--decode\.min-fuzzy-score has no effect"):
            parse(ClassifyConfig, given, {})


def test_needs_no_torch() -> None:
    code = "import sys, lmrc.config.unused; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
