from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, LlamaConfig

from lmrc.config.schema import ClassifyConfig, RcConfig, RcpConfig
from lmrc.kernels import varlen_attention
from lmrc.launcher.gpu_memory import (
    GIB,
    MemoryEstimate,
    classifier_parameters,
    estimate_classify,
    estimate_memory,
    kv_bytes_per_token,
)
from lmrc.launcher.model_shapes import load_model_shape
from lmrc.rcp.model.model import RelationCandidateModel

LLAMA13 = 13_015_864_320
ADAPTER13 = 31_293_440


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMRC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def rc(**train: Any) -> RcConfig:
    return RcConfig.model_validate({"train": train})


def rcp(encoder: str = "embedded:tiny-encoder", **train: Any) -> RcpConfig:
    return RcpConfig.model_validate({"model": {"encoder": encoder}, "train": train})


def test_all_parameters_of_rcp_are_trained() -> None:
    estimate = estimate_memory(rcp("roberta-large"), 1)
    # Equations 5 and 6 with d = 1024: W_s, W_o with biases, two W_c, W and b.
    classifier = 2 * (1024 * 1024 + 1024) + 2 * 1024 * 1024 + 1024 * 1024 + 1
    assert estimate.trained_parameters == 355_359_744 - 1024 * 1025 + classifier
    assert estimate.frozen_parameters == 0
    assert estimate.weights == estimate.gradients == estimate.optimizer // 2 == 4 * estimate.trained_parameters


@pytest.mark.parametrize(("precision", "element"), [("bf16", 2), ("fp32", 4)])
def test_base_in_the_precision_adapter_in_fp32(precision: str, element: int) -> None:
    estimate = estimate_memory(rc(precision=precision, zero_stage=0), 1)
    assert (estimate.frozen_parameters, estimate.trained_parameters) == (LLAMA13, ADAPTER13)
    assert estimate.weights == element * LLAMA13 + 4 * ADAPTER13
    assert estimate.gradients == 4 * ADAPTER13
    assert estimate.optimizer == 8 * ADAPTER13


@pytest.mark.parametrize(("stage", "sharded"), [(0, 0), (1, 1), (2, 2), (3, 3)])
@pytest.mark.parametrize("processes", [2, 8])
def test_zero_stages_shard_optimizer_gradients_weights(stage: int, sharded: int, processes: int) -> None:
    parts = [8 * ADAPTER13, 4 * ADAPTER13, 2 * LLAMA13 + 4 * ADAPTER13]
    expected = [size / processes if sharded > index else size for index, size in enumerate(parts)]
    estimate = estimate_memory(rc(zero_stage=stage, backend="deepspeed"), processes)
    found = [estimate.optimizer, estimate.gradients, estimate.weights]
    assert all(0 <= size - exact < 1 for size, exact in zip(found, expected, strict=True))


def test_plain_torch_shards_nothing() -> None:
    alone, spread = (estimate_memory(rc(zero_stage=3, backend="torch"), processes) for processes in (1, 8))
    assert (alone.weights, alone.gradients, alone.optimizer) == (spread.weights, spread.gradients, spread.optimizer)
    assert "plain torch" in spread.setting


def test_estimate_equals_a_real_step_of_rcp() -> None:
    model, _ = RelationCandidateModel.from_encoder("embedded:tiny-encoder")
    estimate = estimate_memory(rcp(zero_stage=0), 1)
    assert measured(model) == (estimate.weights, estimate.gradients, estimate.optimizer)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_estimate_equals_a_real_step_of_rc(precision: str) -> None:
    from lmrc.rc.model.lora import add_adapter, load_base

    config = RcConfig.model_validate(
        {
            "model": {"base": "embedded:tiny-llm"},
            "train": {"precision": precision, "zero_stage": 0},
        }
    )
    base = load_base(config.model.base, "sdpa", config.train.precision)
    model = add_adapter(base, config.lora, config.model.base, seed=0)
    estimate = estimate_memory(config, 1)
    assert measured(model) == (estimate.weights, estimate.gradients, estimate.optimizer)


def measured(model: nn.Module) -> tuple[int, int, int]:
    """Return the bytes of weights, gradients and Adam's moments after a real step."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    torch.autograd.backward([parameter.sum() for parameter in trained])
    optimizer.step()
    states = [state for parameter in trained for state in optimizer.state[parameter].values() if state.dim() > 0]
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    return size(list(model.parameters())), size(gradients), size(states)


def size(tensors: list[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def kept_for_backward(run: Callable[[], Tensor], model: nn.Module) -> int:
    """Return the bytes saved by autograd, without the model's own tensors. Each storage counts once."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    held: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        held.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(tensor.untyped_storage().nbytes() for pointer, tensor in held.items() if pointer not in own)


def forward(precision: str) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_encoder_activations_are_close_to_autograd(
    precision: str, dropout: float, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = BertConfig(
        vocab_size=100,
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,
    )
    shape.save_pretrained(tmp_path)
    encoder = AutoModel.from_config(shape).train()
    packed = RelationCandidateModel(encoder)._packed
    ids = torch.randint(0, 100, (1024,))
    # On a GPU attention saves no weights, but in bf16 on a CPU it does.
    monkeypatch.setattr(varlen_attention, "_matmul_is_faster", lambda query: False)
    with forward(precision):
        kept = kept_for_backward(lambda: packed(ids, torch.arange(1024) % 512, [512, 512])[0], encoder)
    element, layers = 2 if precision == "bf16" else 4, 6 * 128 * 1024
    # On a GPU one call computes all windows. On a CPU their outputs are saved both separately and concatenated.
    kept -= element * layers
    if dropout:
        # A dropout mask element has the size of its input on a CPU, 1 byte on a GPU.
        kept -= (element - 1) * 2 * layers
    # One document of two windows.
    config = RcpConfig.model_validate(
        {
            "model": {"encoder": str(tmp_path), "max_length": 1000},
            "train": {"precision": precision, "micro_batch_size": 1},
        }
    )
    assert estimate_memory(config, 1).activations == pytest.approx(kept, rel=0.05)


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_lm_activations_are_close_to_autograd(dropout: float, tmp_path: Any) -> None:
    shape = LlamaConfig(
        vocab_size=100,
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=344,
    )
    shape.save_pretrained(tmp_path)
    config = RcConfig.model_validate(
        {
            "model": {"base": str(tmp_path)},
            "prompt": {"max_length": 256},
            "lora": {"dropout": dropout},
            "train": {"micro_batch_size": 2},
        }
    )
    base = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16, attn_implementation="sdpa")
    model = get_peft_model(
        base, LoraConfig(r=8, lora_dropout=dropout, target_modules=list(config.lora.targets))
    ).train()
    ids = torch.randint(0, 100, (2, 256))
    with forward("bf16"):
        kept = kept_for_backward(lambda: model(ids, logits_to_keep=1, use_cache=False).logits, model)
    if dropout:
        # A dropout mask element has 4 bytes on a CPU, 1 byte on a GPU.
        kept -= 3 * (6 * 128 + 344) * 6 * 512
    assert estimate_memory(config, 1).activations == pytest.approx(kept, rel=0.1)


def test_gradient_checkpointing_saves_only_layer_inputs() -> None:
    whole, less = estimate_memory(rc(), 8), estimate_memory(rc(gradient_checkpointing=True), 8)
    inputs = 40 * 4096 * 5120 * 2
    assert inputs < less.activations < inputs + whole.activations / 30
    assert "gradient checkpointing" in less.setting
    assert estimate_memory(rcp("roberta-large", gradient_checkpointing=True), 1).activations < (
        estimate_memory(rcp("roberta-large"), 1).activations / 5
    )


def test_micro_batch_is_at_most_the_share_of_a_process() -> None:
    one, four = (estimate_memory(rcp("roberta-large", batch_size=4, micro_batch_size=4), world) for world in (1, 4))
    assert one.outputs == 4 * four.outputs
    assert "micro-batch 4" in one.setting and "micro-batch 1" in four.setting
    # Five examples with micro-batches of at most four are split into three and two.
    assert "micro-batch 3" in estimate_memory(rcp(batch_size=5, micro_batch_size=4), 1).setting


def test_size_of_a_quantized_base() -> None:
    """LLaMA2-13B has 12,687,769,600 weights in its layers' projections, and 328,094,720 others."""
    linear, other = 40 * (4 * 5120**2 + 3 * 5120 * 13824), 2 * 32_000 * 5120 + 81 * 5120
    assert linear + other == 13_015_864_320
    adapter = 4 * estimate_memory(rc(), 1).trained_parameters
    for kind, size in ((None, 2.0), ("8bit", 1.0), ("4bit", 4.127 / 8)):
        config = rc()
        model = config.model.model_copy(update={"quantization": kind})
        found = estimate_memory(config.model_copy(update={"model": model}), 1).weights
        assert found == pytest.approx(adapter + 2 * other + size * linear, abs=1)


def test_logits_of_answer_tokens_only() -> None:
    # 1,024 of 4,096 positions; bf16 logits, their fp32 copy, log-softmax and gradient.
    assert estimate_memory(rc(), 1).outputs == 1024 * 32_000 * (2 + 4 + 4 + 4)


def test_classifier_parameters_equal_the_model() -> None:
    # Table 6's model: two sides of nn.Linear(2d, width), then d x d and a bias, or 12 blocks of 64 x 64, twice.
    def count(relation_weight: float = 0.0, **model: object) -> int:
        config = RcpConfig.model_validate({"model": model, "train": {"relation_weight": relation_weight}})
        return classifier_parameters(48, config)

    bilinear, grouped = 2 * (2 * 48 * 48 + 48) + 48 * 48 + 1, 2 * (2 * 48 * 768 + 768) + 2 * (49_152 + 1)
    assert count() == bilinear
    assert count(classifier="grouped") == grouped
    # Six types and the unknown type, for heads and for tails; 8 x 5 distance classes.
    assert count(entity_types=True) == bilinear + 2 * 7 * 48
    assert count(sentence_distance=True, classifier="grouped") == grouped + 40 * 2 * 768
    # Two layers of width 512 and one with 96 outputs.
    assert count(0.1) == bilinear + 2 * (48 * 512 + 512) + 512 * 96 + 96
    assert count(0.1, classifier="grouped") == grouped + 2 * (768 * 512 + 512) + 512 * 96 + 96


def test_memory_table() -> None:
    estimate = MemoryEstimate("here", 10, 20, 30 * GIB, 5 * GIB, 6 * GIB, 7 * GIB, 1 * GIB, 2 * GIB)
    assert estimate.total == 51 * GIB
    text = estimate.table()
    rows = {line.split()[0]: line for line in text.splitlines()}
    assert "51.00 GiB" in rows["total"] and "30.00 GiB" in rows["weights"]
    assert text.splitlines()[-1].strip() == "does not fit 40 GB, fits 80 GB"


def test_13b_fits_40_gb_with_checkpointing_and_80_gb_without() -> None:
    # 13,015,864,320 x 2 bytes are 24.2 GiB.
    assert 24 * GIB < estimate_memory(rc(gradient_checkpointing=True), 8).total < 40 * GIB
    assert estimate_memory(rc(), 8).total < 80 * GIB


def test_zero_3_keeps_gathered_parameters() -> None:
    """stage3_max_live_parameters in configs/deepspeed/zero3.yaml is 1e9: 2 GB in bf16, more than two layers."""
    three, two = (estimate_memory(rc(zero_stage=stage, backend="deepspeed", precision="bf16"), 8) for stage in (3, 2))
    # ZeRO-2 has a copy of its share of the adapter instead.
    gathered = three.overhead - two.overhead + -(-4 * ADAPTER13 // 8)
    assert gathered == pytest.approx(2e9, rel=0.01)
    # A model with fewer parameters is gathered whole.
    config = RcConfig.model_validate({"model": {"base": "embedded:tiny-llm"}, "train": {"precision": "bf16"}})
    small = [estimate_memory(config.model_copy(update={"train": rc(zero_stage=stage).train}), 1) for stage in (3, 2)]
    trained = 4 * small[0].trained_parameters
    assert small[0].overhead - small[1].overhead == small[0].weights - trained


def test_the_widest_input_of_an_adapter_is_cast_to_fp32() -> None:
    bf16, fp32 = (estimate_memory(rc(precision=precision, zero_stage=0), 1).overhead for precision in ("bf16", "fp32"))
    assert bf16 - fp32 == 4096 * 13_824 * 4


def classify(**options: Any) -> ClassifyConfig:
    llama = {"rc": None, "base": "meta-llama/Llama-2-13b-chat-hf"}
    return ClassifyConfig.model_validate({**llama, **options})


def test_kv_cache_of_classify() -> None:
    """LLaMA2-13B: keys and values of 40 layers of width 5,120 in bf16 are 819,200 bytes per token."""
    estimate = estimate_classify(classify())
    assert estimate.kv_cache == 8 * 4096 * 819_200
    assert estimate.weights == 2 * LLAMA13
    text = estimate.table()
    assert "KV cache        25.00 GiB" in text and "optimizer" not in text
    assert text.splitlines()[-1].strip() == "does not fit 40 GB, fits 80 GB"
    half = estimate_classify(classify(decode={"gpus_per_worker": 2, "batch_size": 4}))
    assert half.kv_cache == estimate.kv_cache / 4 and half.weights == estimate.weights / 2
    # Grouped-query attention: 8 of 32 heads have keys.
    mistral = estimate_classify(classify(base="mistralai/Mistral-7B-Instruct-v0.2"))
    assert mistral.kv_cache == 8 * 4096 * 2 * 32 * 8 * 128 * 2


def test_kv_cache_equals_that_of_the_lm() -> None:
    from lmrc.rc.model.kv_cache import KVCache, KVPool, extend_caches
    from lmrc.rc.model.lora import load_base
    from lmrc.rc.model.packed_attention import IMPLEMENTATION

    cache = KVCache(KVPool())
    model = load_base("embedded:tiny-llm", IMPLEMENTATION, "bf16")
    extend_caches(model, [cache], [list(range(10))])
    layers = [cache.get(layer) for layer in range(model.config.num_hidden_layers)]
    stored = sum(part.numel() * part.element_size() for layer in layers if layer is not None for part in layer)
    assert stored == 10 * kv_bytes_per_token(load_model_shape("embedded:tiny-llm", "causal"), 2)


def test_classify_with_an_adapter(tmp_path: Any) -> None:
    from lmrc.rc.model.adapter_metadata import AdapterMetadata
    from lmrc.rc.model.lora import add_adapter, load_base, save_adapter

    config = RcConfig.model_validate({"model": {"base": "embedded:tiny-llm"}, "prompt": {"max_length": 512}})
    model = add_adapter(load_base(config.model.base, "sdpa", "fp32"), config.lora, config.model.base, seed=0)
    adapter = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    save_adapter(model, adapter, tmp_path)
    shape = load_model_shape(config.model.base, "causal")
    for precision, element in (("fp32", 4), ("bf16", 2)):
        AdapterMetadata(config.prompt, precision, "0" * 64).write(tmp_path)
        estimate = estimate_classify(ClassifyConfig(rc=tmp_path, prompt=config.prompt))
        assert estimate.weights == shape.parameters * element + 4 * sum(value.numel() for value in adapter.values())
        assert estimate.kv_cache == 8 * 512 * kv_bytes_per_token(shape, element)


def test_unknown_model_has_no_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str) -> None:
        raise OSError("not reached")

    monkeypatch.setattr("lmrc.launcher.model_shapes._from_hub", unreachable)
    config = RcConfig.model_validate({"model": {"base": "someone/unheard-of"}})
    lm = classify(base="someone/unheard-of")
    for estimate in (estimate_memory(config, 8), estimate_memory(rcp("someone/unheard-of"), 1), estimate_classify(lm)):
        assert estimate.unknown is not None
        assert estimate.table().startswith("memory per GPU: no estimate: someone/unheard-of")
        assert "GiB" not in estimate.table()
