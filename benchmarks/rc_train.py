"""Benchmark of LM fine-tuning against a padded loop like that of Hugging Face's Trainer, on real prompts.

Both sides have the same LM with the same adapter and the same batches of queries (gold pairs of the documents). They
take turns, batch by batch, in one process. The padded side pads each batch to its longest sequence, computes all logits
and the loss with transformers, and uses sdpa with a mask. The other side is `lmrc.rc`. The losses of both sides are
compared before the timing. Useful tokens are those of the sequences, without padding; on both sides a shared prefix
counts once per sequence. Peak memory is measured in a separate process per side.

    python benchmarks/rc_train.py --documents redocred_dev.json [--count 24] [--batch 4] [--json FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from side_by_side import highest_memory, in_turn
from torch import nn

from lmrc.config.schema import LoraOptions, PromptOptions
from lmrc.corpus.docred import read_documents, relations_by_pair
from lmrc.corpus.relations import DOCRED
from lmrc.rc.data.collate import collate
from lmrc.rc.model.lora import add_adapter, load_base, load_tokenizer
from lmrc.rc.model.packed_attention import IMPLEMENTATION, packed_forward
from lmrc.rc.prompts.query_builder import Example, QueryBuilder, encode
from lmrc.rc.prompts.templates import gold_pairs

BASE = "embedded:smollm2"


class Side:
    """One side of the benchmark: the LM, its batches, and a training step on one of them."""

    def __init__(self, name: str, batches: list[list[Example]], pad: int) -> None:
        self._packed = name == "ours"
        base = load_base(BASE, IMPLEMENTATION if self._packed else "sdpa", "fp32")
        base.config.use_cache = False
        self.model: PeftModel = add_adapter(base, LoraOptions(dropout=0.0), BASE, seed=1)
        # A new adapter has lora_B = 0, so that half of its gradients are 0.
        torch.manual_seed(2)
        for name_, parameter in self.model.named_parameters():
            if "lora_B" in name_:
                nn.init.normal_(parameter, std=0.01)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
        self._batches: list[Any] = [dict(collate(batch)) if self._packed else padded(batch, pad) for batch in batches]

    def loss(self, index: int) -> torch.Tensor:
        """Return the mean loss per target token of a batch."""
        batch = self._batches[index]
        if not self._packed:
            return self.model(**batch).loss  # type: ignore[no-any-return]
        logits = packed_forward(
            self.model, batch["input_ids"], batch["positions"], batch["layout"], batch["logit_positions"]
        )
        return nn.functional.cross_entropy(logits, batch["targets"])

    def train(self, index: int) -> None:
        """Run forward and backward, clip the gradients and step the optimizer."""
        self.model.train()
        self.loss(index).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()


def padded(examples: list[Example], pad: int) -> dict[str, torch.Tensor]:
    """Return a padded batch, like that of a padding collator."""
    longest = max(len(example.input_ids) for example in examples)
    shape = len(examples), longest
    batch = {
        "input_ids": torch.full(shape, pad),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, -100),
    }
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        batch["input_ids"][row, :length] = example.input_ids
        batch["attention_mask"][row, :length] = 1
        batch["labels"][row, example.prompt_tokens : length] = example.input_ids[example.prompt_tokens :]
    return batch


def read_batches(path: Path, count: int, size: int) -> tuple[list[list[Example]], int]:
    """Return batches of queries for the gold pairs of the first `count` documents, and the id of the padding token."""
    tokenizer = load_tokenizer(BASE)
    # The published code asks about 18 pairs per query.
    builder = QueryBuilder(tokenizer, DOCRED, PromptOptions(pairs_per_query=18))
    examples = [
        encode(query, tokenizer)
        for index, document in enumerate(itertools.islice(read_documents(path, DOCRED), count))
        for query in builder.build(index, document, gold_pairs(document), relations_by_pair(document))
    ]
    assert isinstance(tokenizer.pad_token_id, int)
    return [examples[start : start + size] for start in range(0, len(examples), size)], tokenizer.pad_token_id


def peak_memory(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Return the peak memory in MB of a process that trains one side on the batch with the longest sequence."""
    command = [sys.executable, __file__, "--documents", str(options.documents), "--memory-of", name]
    command += ["--count", str(options.count), "--batch", str(options.batch)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    measured: dict[str, float] = json.loads(output.splitlines()[-1])
    return measured


def flops_per_token(model: nn.Module) -> float:
    """Return the FLOPs per token of the frozen linear layers without the LM head: 4 per weight."""
    linear = [module for name, module in model.named_modules() if isinstance(module, nn.Linear) and "head" not in name]
    return sum(4.0 * module.weight.numel() for module in linear)


def matmul_flops_per_second() -> float:
    """Measure the FLOPs per second of large matrix products on this machine."""
    a, b = torch.randn(2048, 576), torch.randn(576, 1536)
    a @ b
    start = time.perf_counter()
    for _ in range(20):
        a @ b
    return 20 * 2 * 2048 * 576 * 1536 / (time.perf_counter() - start)


def main() -> None:
    """Run the benchmark and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, required=True, help="documents in DocRED's format")
    parser.add_argument("--count", type=int, default=8, help="number of documents, from the first")
    parser.add_argument("--batch", type=int, default=4, help="queries per batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="output file for the results")
    parser.add_argument("--memory-of", choices=["padded", "ours"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    batches, pad = read_batches(options.documents, options.count, options.batch)
    if options.memory_of:
        libraries = highest_memory()
        longest = max(batches, key=lambda batch: max(len(example.input_ids) for example in batch))
        Side(options.memory_of, [longest], pad).train(0)
        print(json.dumps({"libraries": libraries, "peak": highest_memory()}))
        return
    # Before this process allocates much memory itself.
    memory = {name: peak_memory(name, options) for name in ("padded", "ours")}
    sides = {name: Side(name, batches, pad) for name in memory}
    with torch.no_grad():
        padded_loss, our_loss = (side.loss(0).item() for side in sides.values())
    if abs(padded_loss - our_loss) > 1e-5 * abs(padded_loss):
        raise SystemExit(f"the losses of both sides differ: {padded_loss:.7f} and {our_loss:.7f}")
    steps: dict[str, Callable[[int], None]] = {name: side.train for name, side in sides.items()}
    seconds = in_turn(steps, len(batches))
    useful = sum(len(example.input_ids) for batch in batches for example in batch)
    computed = sum(len(collate(batch)["input_ids"]) for batch in batches)  # type: ignore[arg-type, misc]
    padded_tokens = sum(len(batch) * max(len(example.input_ids) for example in batch) for batch in batches)
    used = {name: measured["peak"] - measured["libraries"] for name, measured in memory.items()}
    flops = flops_per_token(sides["ours"].model) * computed / seconds["ours"]
    utilization = flops / matmul_flops_per_second()
    figures = {
        "tokens_ratio": seconds["padded"] / seconds["ours"],
        "memory_ratio": used["ours"] / used["padded"],
        "tokens_per_second": useful / seconds["ours"],
        "padded_tokens_per_second": useful / seconds["padded"],
        "useful_tokens": useful,
        "computed_tokens": computed,
        "padded_tokens": padded_tokens,
        "model_flops_utilization": utilization,
        "peak_megabytes": memory["ours"]["peak"],
        "padded_peak_megabytes": memory["padded"]["peak"],
    }
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(
        f"{sum(map(len, batches))} queries in batches of {options.batch}: {useful} tokens, {padded_tokens} with "
        f"padding, {computed} with the shared prefix once\n"
        f"useful tokens per second: padded {figures['padded_tokens_per_second']:.0f}, ours "
        f"{figures['tokens_per_second']:.0f}; the linear layers reach {100 * utilization:.0f} % of the FLOPs per "
        f"second of large matrix products on this machine\n"
        f"peak memory without the libraries: padded {used['padded']:.0f} MB, ours {used['ours']:.0f} MB\n"
        f"training {figures['tokens_ratio']:.2f} x the tokens/s, {figures['memory_ratio']:.2f} x the memory"
    )


if __name__ == "__main__":
    main()
