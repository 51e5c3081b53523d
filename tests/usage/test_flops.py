"""Model FLOPs, against the counter of torch on the real models, and published throughput."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lmrc.launcher.model_shapes import load_model_shape
from lmrc.rc.flops import RcFlops
from lmrc.rcp.flops import RcpFlops
from lmrc.rcp.model.classifiers import CLASSIFIERS
from lmrc.usage.flops import MatrixWeights, matrix_weights
from lmrc.usage.gpus import known_gpu


def test_a_frozen_matrix_has_no_gradient_of_its_weights() -> None:
    model = nn.Sequential(nn.Linear(6, 7), nn.Embedding(9, 6), nn.Linear(7, 3).requires_grad_(False))
    weights = matrix_weights(model)
    assert weights == MatrixWeights(trained=42, frozen=21)
    assert (weights.training_flops, weights.forward_flops) == (6 * 42 + 4 * 21, 2 * 63)


def test_an_encoder_agrees_with_the_counter_of_torch() -> None:
    """BERT's matrices and attention, forward and backward, without a pair of entities."""
    shape = load_model_shape("embedded:tiny-encoder", "encoder")
    model = type(shape.model)(shape.model.config, add_pooling_layer=False)
    tokens, hidden = 40, shape.hidden
    ids = torch.arange(tokens).unsqueeze(0) % 50
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(ids).last_hidden_state.sum().backward()
    counted = RcpFlops.of(model, CLASSIFIERS["bilinear"](hidden), None, 512).training(tokens, 0)
    # The gradient of the first layer's input is that of the embeddings, which torch computes too.
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_causal_lm_agrees_with_the_counter_of_torch() -> None:
    shape = load_model_shape("embedded:tiny-llm", "causal")
    model = type(shape.model)(shape.model.config).requires_grad_(False)
    tokens = 48
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.arange(tokens).unsqueeze(0) % 50, use_cache=False)
    flops = RcFlops.of(model, model.config)
    output = 2 * flops.output * tokens
    # torch counts the upper triangle of causal attention too.
    assert flops.forward(tokens, tokens) + output == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_pairs_of_the_classifiers() -> None:
    """Bilinear: W of equation 6 per ordered pair, and half of the context's matrix, which serves two of them."""
    encoder = load_model_shape("embedded:tiny-encoder", "encoder").model
    d = 32
    bilinear = RcpFlops.of(encoder, CLASSIFIERS["bilinear"](d), None, 512)
    assert bilinear.pair == d * d + d * 2 * d // 2
    grouped = RcpFlops.of(encoder, CLASSIFIERS["grouped"](d), None, 512)
    assert grouped.pair == 2 * 768 * 64 + d * 2 * 768 // 2
    one = bilinear.training(100, 1) - bilinear.training(100, 0)
    assert one == 6 * bilinear.pair + 6 * 100 * d / 2


def test_published_throughput_of_lora_gives_the_published_speed() -> None:
    """Llama-3-8B with LoRA: 12,473 tokens/s on an H100, packed to 4,096, are 402 TFLOP/s (NeMo Automodel).

    Its output layer has 128,256 x 4,096 weights, and all tokens are targets.
    """
    output = 128_256 * 4096
    flops = RcFlops(MatrixWeights(trained=0, frozen=8_030_261_248 - 2 * output), output, layers=32, width=4096)
    assert flops.training(4096, 4096) / 4096 * 12_473 == pytest.approx(402e12, rel=0.05)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("a100_40gb", 312),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA L40S", 362),
        ("Tesla V100-SXM2-32GB", 125),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_peaks(name: str, tflops: float) -> None:
    gpu = known_gpu(name)
    assert gpu is not None and gpu.flops == tflops * 1e12


def test_an_unknown_gpu_has_no_peak() -> None:
    assert known_gpu("AMD Instinct MI300X") is None and known_gpu("gpu") is None
    narrow, wide = known_gpu("NVIDIA A100-SXM4-40GB"), known_gpu("a100_80gb")
    assert narrow is not None and wide is not None and narrow.bandwidth < wide.bandwidth
