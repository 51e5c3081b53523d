from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lmrc.common.errors import ConfigError
from lmrc.config.loader import options_of, parse, split_flags, table
from lmrc.config.schema import ClassifyConfig, DemoConfig, Options, PipelineConfig, ProposeConfig, RcConfig, RcpConfig
from tests.conftest import ROOT

ALIASES = {"run": "run.name", "nodes": "cluster.nodes"}
TREES: list[type[Options]] = [RcpConfig, RcConfig, ProposeConfig, ClassifyConfig, DemoConfig]


def test_the_command_line_overrides_yaml_and_yaml_overrides_defaults(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("train: {epochs: 3, learning_rate: 1e-4}\nmodel: {encoder: bert-base-cased}\n")
    config, path = parse(RcpConfig, ["--config", str(file), "--train.epochs", "5", "--nodes=2"], ALIASES)
    assert path == file
    assert config.train.epochs == 5
    assert config.train.learning_rate == 1e-4  # YAML 1.1 reads 1e-4 as a string
    assert config.model.encoder == "bert-base-cased"
    assert config.cluster.nodes == 2
    assert config.train.batch_size == 4


def test_values_of_the_command_line() -> None:
    config, _ = parse(
        RcConfig,
        [
            *("--lora.targets", "q_proj, v_proj", "--train.max_steps", "none"),
            *("--train.gradient_checkpointing", "true", "--train.zero_stage", "3"),
        ],
        {},
    )
    assert config.lora.targets == ("q_proj", "v_proj")
    assert config.train.max_steps is None
    assert config.train.gradient_checkpointing is True
    assert config.train.zero_stage == 3


@pytest.mark.parametrize(
    ("arguments", "verbose"),
    [
        ([], False),
        (["--verbose"], True),
        (["--verbose", "--nodes", "2"], True),
        (["--run.verbose", "true"], True),
        (["--verbose=false"], False),
    ],
)
def test_a_bool_is_true_without_a_value(arguments: list[str], verbose: bool) -> None:
    config, _ = parse(RcpConfig, arguments, {**ALIASES, "verbose": "run.verbose"})
    assert config.run.verbose is verbose
    assert config.cluster.nodes == (2 if "--nodes" in arguments else None)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--train.epoch", "3"], r"unknown option --train.epoch: did you mean --train.epochs\?"),
        (["--node", "3"], r"unknown option --node: did you mean --nodes\?"),
        (["--train.epochs", "many"], r"train.epochs is 'many': .*integer"),
        (["--train.epochs", "0"], r"train.epochs is '0': .*greater than or equal to 1"),
        (["--train.precision", "fp16"], r"train.precision is 'fp16': .*'fp32' or 'bf16'"),
        (["--train.learning_rate", "-1"], r"train.learning_rate is '-1': .*greater than 0"),
        (["--train.epochs"], r"--train.epochs needs a value"),
        (["--train.epochs", "--nodes", "1"], r"--train.epochs needs a value"),
        (["epochs=3"], r"'epochs=3' is no option"),
        (["--config", "nowhere.yaml"], r"cannot read the config nowhere.yaml: No such file"),
        (["--run", "a/b"], r"run.name is 'a/b'"),
    ],
)
def test_errors_on_the_command_line(arguments: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        parse(RcpConfig, arguments, ALIASES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("train: {epoch: 3}", r"my.yaml: unknown option train.epoch: did you mean train.epochs\?"),
        ("train: {epochs: [3]}", r"my.yaml: train.epochs is \[3\]"),
        ("train: 3", r"my.yaml: unknown option train"),
        ("- train", r"my.yaml holds a list, expected options"),
        ("train: {", r"my.yaml is not YAML"),
    ],
)
def test_errors_in_a_file_name_the_file(tmp_path: Path, content: str, sentence: str) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=sentence):
        parse(RcpConfig, ["--config", str(file)], ALIASES)


@pytest.mark.parametrize("tree", TREES)
def test_every_option_is_described_in_the_table(tree: type[Options]) -> None:
    shown = table(tree)
    for name, field in options_of(tree):
        assert field.description, name
        assert f"| `{name}` |" in shown


def _tree_of(path: Path) -> type[Options]:
    kinds: dict[str, type[Options]] = {"rcp": RcpConfig, "configs": DemoConfig}
    kinds |= dict.fromkeys(("rc", "direct", "rcp-llm"), RcConfig)
    kinds |= dict.fromkeys(("rc-gold", "few-shot"), ClassifyConfig)
    return kinds[path.parent.name]


PARTS = {part: ROOT / "configs" / part for part in ("rcp", "rc")}


CONFIGS = sorted(
    path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name not in ("deepspeed", "cluster", "pipeline")
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_config_is_valid(path: Path) -> None:
    parse(_tree_of(path), ["--config", str(path)], {})


@pytest.mark.parametrize("name", ["docred-7b", "docred-13b", "redocred-7b", "redocred-13b", "redocred-13b-plus"])
def test_pipeline_configs_equal_those_of_their_stages(name: str) -> None:
    encoder = name.replace("-7b", "").replace("-13b", "")
    config, _ = parse(PipelineConfig, ["--config", str(ROOT / f"configs/pipeline/{name}.yaml")], {}, PARTS)
    rcp, _ = parse(RcpConfig, ["--config", str(ROOT / f"configs/rcp/{encoder}.yaml")], {})
    rc, _ = parse(RcConfig, ["--config", str(ROOT / f"configs/rc/{name}.yaml")], {})
    assert (config.rcp, config.rc) == (rcp, rc)
    assert (config.data.train, config.data.dev) == (rcp.data.train, rcp.data.dev)


def test_a_section_may_be_read_from_a_user_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("train: {epochs: 3, batch_size: 2}\n")
    given = ["--rcp", str(mine), "--rcp.train.batch_size", "8"]
    config, _ = parse(PipelineConfig, given, {}, PARTS)
    assert (config.rcp.train.epochs, config.rcp.train.batch_size) == (3, 8)
    with pytest.raises(ConfigError, match=r"no .*/configs/rcp/redocrd.yaml: did you mean redocred\?"):
        parse(PipelineConfig, ["--rcp", "redocrd"], {}, PARTS)
    mine.write_text("train: {epoch: 3}\n")
    with pytest.raises(ConfigError, match=rf"^{mine}: unknown option rcp.train.epoch: did you mean"):
        parse(PipelineConfig, given, {}, PARTS)


@pytest.mark.parametrize("name", ["local", "example"])
def test_every_preset_is_valid(name: str) -> None:
    config, _ = parse(RcpConfig, ["--cluster", name], {}, {"cluster": ROOT / "configs" / "cluster"})
    assert config.cluster != RcpConfig().cluster


def test_a_mapping_may_be_given_in_parts() -> None:
    given = ["--cluster.sbatch", "reservation=maint", "--cluster.sbatch", "licenses=x:2 exclusive"]
    config, _ = parse(RcpConfig, given, ALIASES)
    assert config.cluster.sbatch == {"reservation": "maint", "licenses": "x:2", "exclusive": True}
    with pytest.raises(ConfigError, match=r"--cluster\.sbatch gives reservation twice"):
        parse(RcpConfig, [*given, "--cluster.sbatch", "reservation=other"], ALIASES)


def test_options_of_a_section_override_its_preset(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("partition: gpu\ntime: 60\nnodes: 2\nsbatch: {reservation: maint}\n")
    presets = {"cluster": tmp_path}
    given = ["--cluster", "site", "--nodes", "4", "--cluster.sbatch", "licenses=x:2 --exclusive qos="]
    config, _ = parse(RcpConfig, given, ALIASES, presets)
    assert (config.cluster.partition, config.cluster.time, config.cluster.nodes) == ("gpu", 60, 4)
    assert config.cluster.sbatch == {"licenses": "x:2", "exclusive": True, "qos": None}
    file = tmp_path / "mine.yaml"
    file.write_text("cluster: site\ntrain: {epochs: 2}\n")
    config, _ = parse(RcpConfig, ["--config", str(file)], ALIASES, presets)
    assert (config.cluster.partition, config.train.epochs) == ("gpu", 2)
    assert config.cluster.sbatch == {"reservation": "maint"}
    with pytest.raises(ConfigError, match=r"cluster is 'sit', but there is no .*sit.yaml: did you mean site\?"):
        parse(RcpConfig, ["--cluster", "sit"], ALIASES, presets)
    (tmp_path / "wrong.yaml").write_text("partitoin: gpu\n")
    with pytest.raises(ConfigError, match=r"unknown option cluster.partitoin: did you mean cluster.partition\?"):
        parse(RcpConfig, ["--cluster", "wrong"], ALIASES, presets)


@pytest.mark.parametrize("dataset", ["docred", "redocred"])
def test_hyperparameters_of_tables_6_and_7(dataset: str) -> None:
    rcp, _ = parse(RcpConfig, ["--config", str(ROOT / f"configs/rcp/{dataset}.yaml")], {})
    train = rcp.train
    assert (train.batch_size, train.epochs, train.learning_rate, train.classifier_learning_rate) == (4, 30, 3e-5, 1e-4)
    assert (train.gradient_clip, train.warmup, rcp.model.encoder) == (1.0, 0.06, "roberta-large")
    for size in ("7b", "13b"):
        rc, _ = parse(RcConfig, ["--config", str(ROOT / f"configs/rc/{dataset}-{size}.yaml")], {})
        direct, _ = parse(RcConfig, ["--config", str(ROOT / f"configs/direct/{dataset}-{size}.yaml")], {})
        assert (rc.train.epochs, rc.train.warmup, rc.prompt.kind) == (8, 100, "rc")
        assert (direct.train.epochs, direct.train.warmup, direct.prompt.kind) == (2, 200, "direct")
        for config in (rc, direct):
            assert (config.train.batch_size, config.train.learning_rate) == (4, 1e-4)
            assert (config.lora.r, config.lora.alpha, config.lora.dropout, len(config.lora.targets)) == (8, 16, 0.05, 7)
            assert config.model.base == f"meta-llama/Llama-2-{size}-chat-hf"


def test_config_trees_round_trip_through_yaml() -> None:
    config, _ = parse(DemoConfig, ["--rcp.train.epochs", "2"], {})
    assert DemoConfig.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config


@pytest.mark.parametrize("spelled", ["--train.batch-size", "--train.batch_size", "--train.batch-size=8"])
def test_dashes_and_underscores_are_alike_on_the_command_line(spelled: str) -> None:
    name, equals, _ = spelled.partition("=")
    config, _ = parse(RcpConfig, [spelled] if equals else [name, "8"], {})
    assert config.train.batch_size == 8


@pytest.mark.parametrize("spelled", ["--cpus-per-gpu", "--cpus_per_gpu", "--cluster.cpus-per-gpu"])
def test_short_names_have_both_spellings(spelled: str) -> None:
    config, _ = parse(RcpConfig, [spelled, "6"], {"cpus-per-gpu": "cluster.cpus_per_gpu"})
    assert config.cluster.cpus_per_gpu == 6


def test_dashes_and_underscores_are_alike_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("top-k: 3\ncluster: {cpus-per-gpu: 6, sbatch: {gpus-per-node: a100}}\n")
    config, _ = parse(ProposeConfig, ["--config", str(file)], {})
    assert (config.top_k, config.cluster.cpus_per_gpu) == (3, 6)
    assert config.cluster.sbatch == {"gpus_per_node": "a100"}
    file.write_text("top-k: 3\ntop_k: 4\n")
    with pytest.raises(ConfigError, match="gives top_k twice, in two spellings"):
        parse(ProposeConfig, ["--config", str(file)], {})


def test_a_suggestion_has_dashes_and_belongs_to_the_command() -> None:
    with pytest.raises(ConfigError, match=r"unknown option --tpo_k: did you mean --top-k\?"):
        parse(ProposeConfig, ["--tpo_k", "3"], {})
    for flags, says in ((("--dry-run",), r"did you mean --dry-run\?"), ((), "unknown option --dryrun: (?!.*dry-run)")):
        with pytest.raises(ConfigError, match=says):
            parse(ProposeConfig, ["--dryrun", "3"], {}, flags=flags)


def test_flags_have_both_spellings() -> None:
    flags = ("--dry-run", "--follow")
    assert split_flags(["--dry_run", "--top_k", "3"], flags) == ({"--dry-run"}, ["--top_k", "3"])


@pytest.mark.parametrize("word", ["none", "None", "NONE"])
def test_none_means_no_value_if_the_option_allows_it(tmp_path: Path, word: str) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(f"candidates: {word}\nrc: {word}\nbase: {word}\n")
    config, _ = parse(ClassifyConfig, ["--config", str(file)], {})
    assert (config.candidates, config.rc) == (None, None)
    assert config.base == word  # a text that cannot be none
    config, _ = parse(ClassifyConfig, ["--candidates", word, "--rc", word, "--base", word], {})
    assert (config.candidates, config.rc, config.base) == (None, None, word)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/rc-gold").glob("*.yaml")), ids=lambda path: path.stem)
def test_rc_gold_classifies_the_gold_pairs(path: Path) -> None:
    config, _ = parse(ClassifyConfig, ["--config", str(path)], {})
    assert config.candidates is None


def test_few_shot_has_no_adapter() -> None:
    config, _ = parse(ClassifyConfig, ["--config", str(ROOT / "configs/few-shot/docred.yaml")], {})
    assert (config.candidates, config.rc) == (None, None)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("data: {train: x}\n", "unknown option data.train: the file looks like a config of launch/rcp.py or launch/rc"),
        ("lora: {r: 4}\n", r"unknown option lora.r: the file looks like a config of launch/rc\.py$"),
        ("rcp: redocred\ndata: {test: x}\n", r"looks like a config of launch/pipeline\.py$"),
        ("synthetic: {seed: 1}\n", "looks like a config of lmrc demo$"),
    ],
)
def test_a_config_of_another_command_is_recognized(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=says):
        parse(ClassifyConfig, ["--config", str(file)], {})


def test_a_resolved_config_can_be_given_again(tmp_path: Path) -> None:
    # A run's config.yaml also lists options without effect.
    file = tmp_path / "config.yaml"
    whole = ClassifyConfig().model_dump(mode="json")
    file.write_text(yaml.safe_dump(whole))
    config, _ = parse(ClassifyConfig, ["--config", str(file)], {})
    assert config == ClassifyConfig()
    file.write_text(yaml.safe_dump({**whole, "decode": {**whole["decode"], "threshold": 0.3}}))
    with pytest.raises(ConfigError, match=r"--decode\.threshold has no effect"):
        parse(ClassifyConfig, ["--config", str(file)], {})
    with pytest.raises(ConfigError, match=r"--decode\.threshold has no effect"):
        parse(ClassifyConfig, ["--decode.threshold", "0.5"], {})


def test_a_default_value_in_a_file_overrides_a_preset(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("train: {epochs: 3}\n")
    file = tmp_path / "my.yaml"
    file.write_text("rcp: {train: {epochs: 30}}\n")
    assert RcpConfig().train.epochs == 30
    given = ["--config", str(file), "--rcp", str(tmp_path / "mine.yaml")]
    config, _ = parse(PipelineConfig, given, {}, PARTS)
    assert config.rcp.train.epochs == 30


def test_a_default_value_in_a_cluster_section_counts_as_given(tmp_path: Path) -> None:
    # The pipeline lays the cluster section of a step over the common one.
    file = tmp_path / "my.yaml"
    file.write_text("cluster: {nodes: 2}\nrcp: {cluster: {nodes: 1}}\n")
    config, _ = parse(PipelineConfig, ["--config", str(file)], {})
    assert "nodes" in config.rcp.cluster.model_fields_set


@pytest.mark.parametrize(
    ("tree", "typed", "path"),
    [
        (RcConfig, "redocred-13b", "rc/redocred-13b"),
        (PipelineConfig, "redocred-13b", "pipeline/redocred-13b"),
        (RcConfig, "direct/redocred-13b", "direct/redocred-13b"),
        (RcConfig, "direct/redocred-13b.yaml", "direct/redocred-13b"),
        (RcpConfig, "redocred-plus", "rcp/redocred-plus"),
        (DemoConfig, "demo", "demo"),
        (RcConfig, "configs/rc/docred-7b.yaml", "rc/docred-7b"),
    ],
)
def test_a_shipped_config_is_found_by_name(
    tree: type[Options], typed: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, found = parse(tree, ["--config", typed], {}, PARTS if tree is PipelineConfig else None)
    assert found == ROOT / "configs" / f"{path}.yaml"


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("redocred-13b", r"redocred-13b is ambiguous: give one of direct/redocred-13b, pipeline/redocred-13b, rc/redo"),
        ("redocrde", r"there is no config redocrde, .*did you mean rcp/redocred\?"),
        ("none.yaml", "cannot read the config none.yaml: No such file"),
        ("local", "there is no config local"),
    ],
)
def test_unknown_and_ambiguous_names_of_configs(typed: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse(ClassifyConfig, ["--config", typed], {})
