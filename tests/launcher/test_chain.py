from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmrc.common.errors import ConfigError
from lmrc.config.schema import ClassifyConfig, FitConfig, JoinConfig, PipelineConfig, ProposeConfig, RcConfig, RcpConfig
from lmrc.config.unused import unused_options
from lmrc.launcher.chain import Step, steps
from lmrc.launcher.pipeline import read_pipeline
from tests.conftest import ROOT

PLUS = ROOT / "configs/pipeline/redocred-13b-plus.yaml"


def read(folder: Path, *options: str) -> PipelineConfig:
    given = ["--config", str(PLUS), "--run.folder", str(folder), "--run", "all", "--where", "here"]
    return read_pipeline([*given, *options])


def chain_in(folder: Path, *options: str) -> dict[str, Step]:
    return {step.name: step for step in steps(read(folder, *options))}


def config_of(chain: dict[str, Step], name: str) -> Any:
    return chain[name].config


def test_dependencies_of_a_crossfitted_chain(tmp_path: Path) -> None:
    chain = steps(read(tmp_path, "--crossfit.folds", "3"))
    assert {step.name: step.after for step in chain} == {
        "rcp": (),
        "split": (),
        **{f"rcp-fold{fold}": ("split",) for fold in range(3)},
        **{f"propose-fold{fold}": ("split", f"rcp-fold{fold}") for fold in range(3)},
        "join": ("split", "propose-fold0", "propose-fold1", "propose-fold2"),
        "propose": ("rcp",),
        "rc": ("split",),
        "classify-held-out": ("split", "join", "rc"),
        "fit": ("split", "join", "classify-held-out"),
        "classify": ("propose", "rc", "fit"),
        "score": ("classify",),
    }
    names = [step.name for step in chain]
    assert all(names.index(before) < names.index(step.name) for step in chain for before in step.after)


@pytest.mark.parametrize("name", ["train.json", "train.json.gz", "train.jsonl", "train.parquet"])
def test_documents_are_built_before_they_are_split(tmp_path: Path, name: str) -> None:
    chain = chain_in(tmp_path, "--data.train", name)
    assert chain["split"].after == ("build",)
    assert chain["rcp-fold0"].after == ("build", "split")
    assert config_of(chain, "split").corpus == tmp_path / "all" / "data" / "train"
    assert chain["rc"].after == ("split",)


def test_no_model_is_asked_about_documents_that_it_was_trained_on(tmp_path: Path) -> None:
    chain = chain_in(tmp_path)
    home = tmp_path / "all"
    folds, parts = home / "split" / "data" / "folds", home / "split" / "data" / "lm"
    for fold in range(2):
        rcp, propose = config_of(chain, f"rcp-fold{fold}"), config_of(chain, f"propose-fold{fold}")
        assert isinstance(rcp, RcpConfig) and isinstance(propose, ProposeConfig)
        assert rcp.data.train == folds / str(fold) / "train" and rcp.data.dev == Path("data/redocred/dev")
        assert propose.corpus == folds / str(fold) / "held-out"
        assert propose.rcp == home / f"rcp-fold{fold}" / "best" and propose.threshold == "0.03"
    join = config_of(chain, "join")
    assert isinstance(join, JoinConfig)
    assert join.proposed == (home / "propose-fold0" / "candidates", home / "propose-fold1" / "candidates")
    assert join.parts == {"held-out": parts / "held-out"}
    rc = config_of(chain, "rc")
    assert isinstance(rc, RcConfig)
    assert (rc.data.train, rc.data.dev) == (parts / "train", parts / "held-out")


def test_fusion_is_fitted_on_the_held_out_part(tmp_path: Path) -> None:
    options = ("--classify.precision", "0.9", "--classify.ask", "all", "--classify.documents", "3")
    chain = chain_in(tmp_path, *options)
    home = tmp_path / "all"
    corpus, candidates = home / "split" / "data" / "lm" / "held-out", home / "join" / "candidates" / "held-out"
    answers = config_of(chain, "classify-held-out")
    assert isinstance(answers, ClassifyConfig)
    assert (answers.corpus, answers.candidates, answers.rc) == (corpus, candidates, home / "rc" / "best")
    assert (answers.system, answers.decode.mode, answers.documents) == ("rc", "score", None)
    assert unused_options(ClassifyConfig.model_validate(answers.model_dump(exclude_defaults=True))) == []
    fit = config_of(chain, "fit")
    assert isinstance(fit, FitConfig)
    assert (fit.corpus, fit.candidates, fit.answers) == (corpus, candidates, home / "classify-held-out")
    classify = config_of(chain, "classify")
    assert (classify.system, classify.fusion) == ("fused", home / "fit" / "fusion.json")
    assert (classify.precision, classify.ask, classify.documents) == (0.9, "all", 3)
    assert chain["fit"].outputs == (classify.fusion,)


def test_no_fusion_for_the_lm_alone(tmp_path: Path) -> None:
    chain = chain_in(tmp_path, "--classify.system", "rc")
    assert "fit" not in chain and "classify-held-out" not in chain
    assert chain["classify"].after == ("propose", "rc")
    assert config_of(chain, "classify").fusion is None


def test_encoder_with_a_fusion(tmp_path: Path) -> None:
    chain = steps(read(tmp_path).model_copy(update={"classify": ClassifyConfig(system="encoder")}))
    configs: dict[str, Any] = {step.name: step.config for step in chain}
    assert configs["classify"].fusion == tmp_path / "all" / "fit" / "fusion.json"
    assert configs["classify-held-out"].decode.mode == "score"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--rcp.train.relation_weight", "0"),
            r"crossfit\.folds 2 needs the relation head.* give --rcp\.train\.relati",
        ),
        (
            ("--classify.decode.mode", "constrained"),
            r"give --classify\.decode\.mode score and --classify\.decode\.back",
        ),
        (("--classify.decode.backend", "openai"), r"give --classify\.decode\.mode score and --classify\.decode\.backe"),
        (("--crossfit.folds", "0"), r"classify\.system fused needs a fusion: give --crossfit\.folds 2"),
        (("--rcp.train.relation_weight", "0", "--classify.system", "rc"), r"crossfit\.folds 2 needs the relation head"),
        (("--crossfit.folds", "1"), r"crossfit\.folds is '1': .*expected 0, or at least 2 folds"),
        (("--crossfit.folds", "-2"), r"expected 0, or at least 2 folds"),
        (("--classify.fusion", "f.json"), r"fusion has no effect: with crossfit\.folds 2 the pipeline fits a fusion"),
        (("--crossfit.folds", "0", "--crossfit.held_out", "5"), r"held-out has no effect: it is read only with crossf"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, options: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        chain_in(tmp_path, *options)


def test_the_lm_is_asked_for_the_fusion_by_the_backend_of_classify(tmp_path: Path) -> None:
    chain = chain_in(tmp_path, "--classify.decode.backend", "vllm")
    assert {config_of(chain, name).decode.backend for name in ("classify", "classify-held-out")} == {"vllm"}


def test_options_of_a_chain_without_folds(tmp_path: Path) -> None:
    config = PipelineConfig.model_validate({"rcp": {"train": {"relation_weight": 1}}})
    fused = ClassifyConfig.model_validate({"system": "fused", "decode": {"mode": "score"}})
    with pytest.raises(ConfigError, match=r"^classify\.system fused needs a fusion: give --crossfit\.folds 2"):
        steps(config.model_copy(update={"classify": fused}))
    given = config.model_copy(update={"classify": fused.model_copy(update={"fusion": Path("f.json")})})
    assert [step.name for step in steps(given)] == ["rcp", "propose", "rc", "classify", "score"]
    likely = PipelineConfig.model_validate({"rc": {"prompt": {"kind": "likelihood"}}})
    with pytest.raises(ConfigError, match=r"rc\.prompt\.kind likelihood needs the relation head.*, or --rc\.prompt"):
        steps(likely)


def test_documents_are_mended_on_request(tmp_path: Path) -> None:
    for options, fix in (((), False), (("--data.fix",), True)):
        assert config_of(chain_in(tmp_path, "--data.train", "train.json", *options), "build").fix is fix
    with pytest.raises(ConfigError, match=r"--data\.fix has no effect: train, dev and test are corpora"):
        chain_in(tmp_path, "--data.fix")
