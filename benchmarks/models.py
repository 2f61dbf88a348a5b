"""
What is averaged: models that are nothing but parameters of given shapes.
"""

from typing import Dict, List, Tuple

import torch
from torch import nn

Shapes = List[Tuple[int, ...]]


def one_tensor(num_values: int) -> Shapes:
    return [(num_values,)]


def bert_base() -> Shapes:
    """`bert-base-uncased` without its pooler: 108.9M values in 197 tensors."""
    hidden, inner = 768, 3072
    norm: Shapes = [(hidden,), (hidden,)]
    attention = ([(hidden, hidden), (hidden,)] * 4) + norm
    feed_forward = [(inner, hidden), (inner,), (hidden, inner), (hidden,), *norm]
    return [(30522, hidden), (512, hidden), (2, hidden), *norm] + 12 * (attention + feed_forward)


def small_tagger() -> Shapes:
    """A part-of-speech tagger with five transformer layers: 0.36M values in 69 tensors."""
    hidden, inner = 64, 128
    embeddings: Shapes = [(2900, 60), (100, 16), (48, 16, 3), (48,), (hidden, 108), (hidden,)]
    layer: Shapes = [(3 * hidden, hidden), (3 * hidden,), (hidden, hidden), (hidden,)]
    layer += [(inner, hidden), (inner,), (hidden, inner), (hidden,)] + 4 * [(hidden,)]
    return embeddings + 5 * layer + [(128, hidden), (17, hidden), (17,)]


def ud_ewt_tagger() -> Shapes:
    """The model of `training_configs/ud_ewt.jsonnet`: 1.7M values in 14 tensors."""
    characters: Shapes = [(10675, 25), (50, 25, 3), (50,)]
    direction: Shapes = [(600, 150), (600, 150), (600,), (600,)]
    return characters + [(10675, 100)] + 2 * direction + [(17, 300), (17,)]


def many_small() -> Shapes:
    return 400 * [(256,)]


def of_64_tensors(num_values: int) -> Shapes:
    return 64 * [(num_values // 64,)]


MODELS: Dict[str, Shapes] = {
    "one tensor of 64M": one_tensor(1 << 26),
    "BERT-base": bert_base(),
    "small tagger": small_tagger(),
    "UD EWT tagger": ud_ewt_tagger(),
    "400 tensors of 256": many_small(),
}


def num_values(shapes: Shapes) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes)


def model(shapes: Shapes, dtype: torch.dtype = torch.float32, device: str = "cpu") -> nn.Module:
    """A model that has parameters of these shapes, of random values, and nothing else."""
    generator = torch.Generator(device).manual_seed(0)
    return nn.ParameterList(
        nn.Parameter(torch.randn(shape, generator=generator, device=device).to(dtype))
        for shape in shapes
    )
