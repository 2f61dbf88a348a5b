"""
Blocks: large tensors are split and small ones are grouped, to about the same number of values.
"""

from typing import Iterable, Iterator, List, Optional, Sequence

import torch
from torch import Tensor

# The number of values in a block. A block has to stay in the cache for the second of the kernels
# that go over it, and has to be large enough that the overhead of a call is negligible.
_CPU_BLOCK = 1 << 18
_CUDA_BLOCK = 1 << 22


def blocks_of(rows: Iterable[Sequence[Tensor]]) -> Iterator[List[List[Tensor]]]:
    """
    # Parameters

    rows : `Iterable[Sequence[Tensor]]`
        The tensors of a row have one shape. They may differ in dtype and device.

    # Returns

    blocks : `Iterator[List[List[Tensor]]]`
        Each block has one list of views for each column of the rows.
    """
    block: List[Sequence[Tensor]] = []
    num_values = 0
    for row in rows:
        limit = _CUDA_BLOCK if row[0].is_cuda else _CPU_BLOCK
        for piece in _pieces(row, limit):
            if block and num_values + piece[0].numel() > limit:
                yield [list(column) for column in zip(*block)]
                block, num_values = [], 0
            block.append(piece)
            num_values += piece[0].numel()
    if block:
        yield [list(column) for column in zip(*block)]


def scratch_for(blocks: Sequence[Sequence[Tensor]], like: Tensor) -> List[List[Tensor]]:
    """
    Scratch tensors for each of `blocks`, with the dtype and device of `like`. They share one
    buffer, so only one block can use them at a time.
    """
    sizes = [[tensor.numel() for tensor in block] for block in blocks]
    buffer = torch.empty(max(map(sum, sizes)), dtype=like.dtype, device=like.device)
    return [
        [part.view(t.shape) for part, t in zip(buffer[: sum(parts)].split(parts), block)]
        for parts, block in zip(sizes, blocks)
    ]


def _pieces(row: Sequence[Tensor], limit: int) -> Iterator[Sequence[Tensor]]:
    if row[0].numel() <= limit or len({tensor.stride() for tensor in row}) > 1:
        yield row
        return
    flat = [_flat(tensor) for tensor in row]
    if any(tensor is None for tensor in flat):
        yield row
    else:
        yield from zip(*(tensor.split(limit) for tensor in flat if tensor is not None))


def _flat(tensor: Tensor) -> Optional[Tensor]:
    """A flat view of all values in memory order. `None` if they have gaps or overlaps."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    in_order = tensor.permute(order) if order else tensor
    return in_order.view(-1) if in_order.is_contiguous() else None
