"""Benchmark of RCP and of the published structure (benchmarks/published.py) on real documents.

Both models have the same weights, batches, dropout probability and precision, and alternate batch by batch in a
process. Their logits are compared before the measurement. Peak memory is measured in a separate process per model.

    python benchmarks/rcp.py --documents redocred_dev.json [--sizes minilm base] [--precision fp32] [--json FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from preprocess import measure as preprocess
from published import PublishedModel, published_batch, published_loss
from side_by_side import highest_memory, in_turn
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, RobertaConfig

from lmrc.config.schema import RcpTraining
from lmrc.corpus.docred import read_documents
from lmrc.corpus.relations import DOCRED
from lmrc.pretrained.packaged import resolve
from lmrc.rcp.data.tokenization import DocumentTokenizer, EncodedDocument
from lmrc.rcp.model.classifiers import GroupedClassifier
from lmrc.rcp.model.losses import binary_cross_entropy
from lmrc.rcp.model.model import RelationCandidateModel
from lmrc.training.precision import autocast

Size = Literal["minilm", "base"]
Step = Callable[[int], None]
Model = PublishedModel | RelationCandidateModel
BATCH = 4
# Both sizes use MiniLM's tokenizer, which is always available.
VOCABULARY = 30_522
RATES = (3e-5, 1e-4)


def make_encoder(size: Size, vocabulary: int) -> PreTrainedModel:
    """Return MiniLM with pretrained weights, or RoBERTa-base with random ones, with dropout as in RCP's training."""
    if size == "minilm":
        source = resolve("embedded:minilm")
        config = AutoConfig.from_pretrained(source)
    else:
        config = RobertaConfig(vocab_size=vocabulary, max_position_embeddings=514, type_vocab_size=1, pad_token_id=0)
    config.attention_probs_dropout_prob = 0.0
    if size == "minilm":
        return AutoModel.from_pretrained(source, config=config, dtype=torch.float32)
    torch.manual_seed(0)
    return AutoModel.from_config(config)


def make_models(size: Size, vocabulary: int) -> tuple[PublishedModel, RelationCandidateModel]:
    """Return both models with the same weights."""
    torch.manual_seed(1)
    published = PublishedModel(make_encoder(size, vocabulary))
    ours = RelationCandidateModel(make_encoder(size, vocabulary), classifier="grouped")
    ours.encoder.load_state_dict(published.encoder.state_dict())
    d = published.config.hidden_size
    head, tail = published.head_extractor, published.tail_extractor
    assert isinstance(ours.classifier, GroupedClassifier)
    with torch.no_grad():
        ours.classifier.head.weight.copy_(head.weight[:, :d])
        ours.classifier.head.bias.copy_(head.bias)
        ours.classifier.tail.weight.copy_(tail.weight[:, :d])
        ours.classifier.tail.bias.copy_(tail.bias)
        ours.classifier.context.weight.copy_(torch.cat([head.weight[:, d:], tail.weight[:, d:]]))
        ours.classifier.weight.copy_(published.bilinear.weight)
        ours.classifier.bias.copy_(published.bilinear.bias)
    return published, ours


def batch_of(model: Model, documents: Sequence[EncodedDocument]) -> dict[str, Any]:
    """Return a batch for the model."""
    if isinstance(model, PublishedModel):
        return published_batch(documents, int(model.config.pad_token_id))
    return model.collate(documents)


def loss_of(model: Model, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss of a batch; targets: [pairs] in {0, 1}."""
    if isinstance(model, PublishedModel):
        return published_loss(outputs, torch.stack([1 - targets, targets], 1))
    return binary_cross_entropy(outputs, targets, RcpTraining()) / len(targets)


class Optimizer:
    """AdamW with the paper's learning rates and gradient clipping; fused for RCP only."""

    def __init__(self, model: Model) -> None:
        self._model = model
        encoder = {id(parameter) for parameter in model.encoder.parameters()}
        new = [parameter for parameter in model.parameters() if id(parameter) not in encoder]
        groups = [{"params": model.encoder.parameters(), "lr": RATES[0]}, {"params": new, "lr": RATES[1]}]
        fused = not isinstance(model, PublishedModel)
        self._adam = torch.optim.AdamW(groups, eps=1e-6, weight_decay=0.0, fused=fused)

    def step(self, loss: Tensor) -> None:
        """Run the backward pass, clip gradients and update the weights."""
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._adam.step()
        self._adam.zero_grad()


class Side:
    """A model with its batches, which are created in advance."""

    def __init__(self, model: Model, documents: Sequence[EncodedDocument], precision: str) -> None:
        """Create batches of the documents in their order."""
        self.model = model
        starts = range(0, len(documents), BATCH)
        self._batches = [batch_of(model, documents[start : start + BATCH]) for start in starts]
        self._precision = precision
        self._optimizer = Optimizer(model)

    def outputs(self, index: int) -> Tensor:
        """Run a forward pass in evaluation mode, without gradients."""
        self.model.eval()
        with torch.inference_mode(), autocast(self._precision, "cpu"):  # type: ignore[arg-type]
            return self.model(self._batches[index])  # type: ignore[no-any-return]

    def infer(self, index: int) -> None:
        """Run a forward pass and discard the outputs."""
        self.outputs(index)

    def train(self, index: int) -> None:
        """Run a training step."""
        self.model.train()
        with autocast(self._precision, "cpu"):  # type: ignore[arg-type]
            outputs = self.model(self._batches[index])
        self._optimizer.step(loss_of(self.model, outputs, (torch.arange(len(outputs)) % 29 == 0).float()))


def read(path: Path, documents: int, tokenizer: PreTrainedTokenizerBase) -> list[EncodedDocument]:
    """Return the first documents, tokenized."""
    first = list(itertools.islice(read_documents(path, DOCRED), documents))
    return DocumentTokenizer(tokenizer, 1021).encode_batch(first)


def peak_memory(size: Size, name: str, options: argparse.Namespace) -> dict[str, float]:
    """Return megabytes of a process that trains a model: "libraries" before training, and "peak".

    malloc returns freed tensors to the system at once, so that fragmentation does not count.
    """
    command = [sys.executable, __file__, "--documents", str(options.documents), "--memory-of", name, "--sizes", size]
    command += ["--count", str(options.count), "--precision", options.precision]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    memory: dict[str, float] = json.loads(output.splitlines()[-1])
    return memory


def _train_alone(size: Size, name: str, documents: Sequence[EncodedDocument], precision: str) -> None:
    libraries = highest_memory()
    model = make_models(size, VOCABULARY)[name == "ours"]
    side = Side(model, documents, precision)
    for index in range(-(-len(documents) // BATCH)):
        side.train(index)
    print(json.dumps({"libraries": libraries, "peak": highest_memory()}))


def products_share(model: RelationCandidateModel, tokens: int, seconds: float) -> float:
    """Return the share of inference time that the encoder's linear layers take at the speed of large products."""
    linear = [module for module in model.encoder.modules() if isinstance(module, nn.Linear)]
    flops = sum(2 * tokens * layer.weight.numel() for layer in linear)
    a, b = torch.randn(1024, 768), torch.randn(768, 3072)
    a @ b
    begun = time.perf_counter()
    for _ in range(10):
        a @ b
    speed = 10 * 2 * 1024 * 768 * 3072 / (time.perf_counter() - begun)
    return flops / speed / seconds


def measure(size: Size, documents: Sequence[EncodedDocument], options: argparse.Namespace) -> dict[str, float]:
    """Return all measurements of an encoder size."""
    published, ours = make_models(size, VOCABULARY)
    sides = {
        "published": Side(published, documents, options.precision),
        "ours": Side(ours, documents, options.precision),
    }
    batches = -(-len(documents) // BATCH)
    for index in range(min(4, batches)):
        difference = (sides["published"].outputs(index) - sides["ours"].outputs(index)).abs().max()
        if difference > (2e-3 if options.precision == "fp32" else 5e-2):
            raise SystemExit(f"batch {index}: the logits of both sides differ by {difference:.2g}")
    inference = in_turn({name: side.infer for name, side in sides.items()}, batches)
    tokens = sum(len(document.input_ids) for document in documents)
    share = products_share(ours, tokens, inference["ours"])
    training = in_turn({name: side.train for name, side in sides.items()}, batches)
    memory = {name: peak_memory(size, name, options) for name in sides}
    without_libraries = {name: values["peak"] - values["libraries"] for name, values in memory.items()}
    count = len(documents)
    result = {
        "train_ratio": training["published"] / training["ours"],
        "infer_ratio": inference["published"] / inference["ours"],
        "memory_ratio": without_libraries["ours"] / without_libraries["published"],
        "published_train_documents_per_second": count / training["published"],
        "train_documents_per_second": count / training["ours"],
        "published_infer_documents_per_second": count / inference["published"],
        "infer_documents_per_second": count / inference["ours"],
        "published_peak_megabytes": memory["published"]["peak"],
        "peak_megabytes": memory["ours"]["peak"],
        "share_of_encoder_products": share,
    }
    print(
        f"{size}, {options.precision}, {count} documents in batches of {BATCH}:\n"
        f"  training   published {count / training['published']:6.2f} documents/s, ours "
        f"{count / training['ours']:6.2f}: {result['train_ratio']:.2f} x\n"
        f"  inference  published {count / inference['published']:6.2f} documents/s, ours "
        f"{count / inference['ours']:6.2f}: {result['infer_ratio']:.2f} x; the encoder's own products would take "
        f"{100 * share:.0f} % of that time at full speed\n"
        f"  peak memory of training, without the libraries: published {without_libraries['published']:.0f} MB, ours "
        f"{without_libraries['ours']:.0f} MB: {result['memory_ratio']:.2f} x",
        flush=True,
    )
    return result


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, required=True, help="documents in DocRED's format")
    parser.add_argument("--count", type=int, default=64, help="number of documents")
    parser.add_argument("--sizes", nargs="+", choices=["minilm", "base"], default=["minilm", "base"])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for the measurements")
    parser.add_argument("--memory-of", choices=["published", "ours"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(resolve("embedded:minilm"))
    documents = read(options.documents, options.count, tokenizer)
    if options.memory_of:
        _train_alone(options.sizes[0], options.memory_of, documents, options.precision)
        return
    figures: dict[str, Any] = {size: measure(size, documents, options) for size in options.sizes}
    # All documents, because RCP tokenizes a shard at once.
    preparing = preprocess(list(read_documents(options.documents, DOCRED)), tokenizer)
    figures["preprocess_ratio"] = preparing["preprocess_ratio"]
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(
        ", ".join(
            f"{size}: training {ratios['train_ratio']:.2f} x, inference {ratios['infer_ratio']:.2f} x, "
            f"memory {ratios['memory_ratio']:.2f} x"
            for size, ratios in ((size, figures[size]) for size in options.sizes)
        )
        + f", preprocessing {figures['preprocess_ratio']:.1f} x"
    )


if __name__ == "__main__":
    main()
