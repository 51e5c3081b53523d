from __future__ import annotations

import pytest
import torch

from lmrc.config.schema import ClassifierKind
from lmrc.rcp.model import classifiers
from lmrc.rcp.model.classifiers import CLASSIFIERS, BilinearClassifier, GroupedClassifier, select_rows

D = 24


def inputs(entities: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    first, second = torch.triu_indices(entities, entities, 1)
    return torch.randn(entities, D).double(), torch.randn(len(first), D).double(), first, second


def test_grouped_outputs_equal_published_outer_products() -> None:
    """Compare with 12 flattened outer products of 64 x 64 per pair and a linear layer with two outputs."""
    entities, contexts, first, second = inputs()
    classifier = GroupedClassifier(D).double()
    with torch.no_grad():
        outputs, _ = classifier(entities, contexts, first, second)
        matrix = classifier.weight
        assert matrix.shape == (2, 49_152)
        context_head, context_tail = classifier.context.weight.chunk(2)
        for direction in range(2):
            for pair in range(len(first)):
                s, o = (first[pair], second[pair]) if direction == 0 else (second[pair], first[pair])
                head = torch.cat([classifier.head.weight, context_head], 1) @ torch.cat([entities[s], contexts[pair]])
                tail = torch.cat([classifier.tail.weight, context_tail], 1) @ torch.cat([entities[o], contexts[pair]])
                z_head = torch.tanh(head + classifier.head.bias).view(12, 64)
                z_tail = torch.tanh(tail + classifier.tail.bias).view(12, 64)
                outer = torch.stack([torch.outer(z_head[g], z_tail[g]) for g in range(12)]).flatten()
                assert torch.allclose(outputs[direction, pair], matrix @ outer + classifier.bias, atol=1e-12)


def test_grouped_logit_is_half_the_difference() -> None:
    outputs = torch.tensor([[1.0, 2.0], [0.5, -0.5], [3.0, 3.0]])
    assert GroupedClassifier.logits(outputs).tolist() == [0.5, -0.5, 0.0]


@pytest.mark.parametrize("kind", ["bilinear", "grouped"])
def test_gradients(kind: ClassifierKind) -> None:
    entities, contexts, first, second = inputs(3)
    classifier = CLASSIFIERS[kind](D).double()
    assert torch.autograd.gradcheck(
        lambda e, c: classifier(e, c, first, second)[0],
        (entities.requires_grad_(), contexts.requires_grad_()),
        fast_mode=True,
    )


@pytest.mark.parametrize("width", [384, 1024])
def test_logits_start_small(width: int) -> None:
    torch.manual_seed(0)
    entities, contexts = torch.randn(20, width), torch.randn(190, width)
    first, second = torch.triu_indices(20, 20, 1)
    logits, _ = BilinearClassifier(width)(entities, contexts, first, second)
    assert 0.01 < logits.std() < 1


@pytest.mark.parametrize("limit", [128, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_selected_rows_are_exact(dtype: torch.dtype, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "MAX_PRODUCT_ROWS", limit)
    torch.manual_seed(0)
    head, tail = torch.randn(2, 7, 5).to(dtype)
    first, second = torch.randint(0, 7, (2, 30))
    heads, tails = select_rows(head, tail, first, second)
    assert torch.equal(heads, torch.cat([head[first], head[second]]))
    assert torch.equal(tails, torch.cat([tail[second], tail[first]]))


@pytest.mark.parametrize("limit", [128, 2])
def test_gradients_of_a_row_are_summed_in_float32(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16, 256 + 1 is 256, so the sum of 256 and 41 ones would stay 256."""
    monkeypatch.setattr(classifiers, "MAX_PRODUCT_ROWS", limit)
    tables = torch.zeros(2, 3, 1, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.ones(84, 1, dtype=torch.bfloat16)
    gradient[0] = 256
    ones = torch.ones(42, dtype=torch.int64)
    heads, tails = select_rows(tables[0], tables[1], ones, 2 * ones)
    torch.autograd.backward([heads, tails], [gradient, gradient.flip(0)])
    assert tables.grad is not None
    # The nearest bf16 of 297 is 296.
    assert tables.grad.squeeze(2).tolist() == [[0, 296, 42], [0, 296, 42]]
