"""Counts the bytes of live tensors while code runs on the meta device, as a graphics card would hold them.

Every operation that PyTorch would run on the card is seen, down to the temporary tensors inside its composite
operations, and every storage is followed until it is freed. Convolutions also count a workspace, see there. What is
not counted: the workspace of cuBLAS (32 MiB on recent cards), the allocator's fragmentation, and the CUDA context.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
_FLASH_WIDTH = 256  # of heads, beyond which or in fp32 attention uses the memory-efficient kernel


class Tracker(TorchDispatchMode):
    """Use in torch.inference_mode, with tensors on the meta device; `peak` is what was alive at once beyond `held`."""

    def __init__(self, held: Sequence[Tensor] = ()) -> None:
        """`held`: alive before, and not counted."""
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: dict[int, object] = {}  # by the address of a storage
        for tensor in held:
            self._follow(tensor, counted=False)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _aten.scaled_dot_product_attention.default:
            out = self._attention(args[0], args[2])
        elif func._can_decompose():
            with self:
                out = func.decompose(*args, **kwargs)
        else:
            out = func(*args, **kwargs)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._follow(leaf)
        if func is _aten.convolution.default:
            self._convolution(args[0], out)
        return out

    def transient(self, size: int) -> None:
        """Bytes that a kernel allocates and frees again beside the tensors it gives back."""
        self.peak = max(self.peak, self.live + size)

    def _follow(self, tensor: Tensor, *, counted: bool = True) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if counted else 0
        self._known[key] = weakref.finalize(storage, self._forget, key, size)
        self.live += size
        self.transient(0)

    def _forget(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self.live -= size

    def _attention(self, query: Tensor, value: Tensor) -> Tensor:
        """What the fused kernels allocate: the output, laid out (N, L, heads, width), and a number for each query.

        On the meta device PyTorch would write out the matrix of scores, which no kernel on a card does. The
        memory-efficient kernel, that takes what flash attention cannot, sums in fp32.
        """
        *batch, heads, length, _ = query.shape
        width = value.shape[-1]
        out = query.new_empty(*batch, length, heads, width).transpose(-2, -3)
        numbers = 4 * query.numel() // query.shape[-1]
        wide = width > _FLASH_WIDTH and query.element_size() < 4
        self.transient(_size(out) + numbers + (4 * out.numel() if wide else 0))
        return out

    def _convolution(self, x: Tensor, out: Tensor) -> None:
        """cuDNN's fast kernels have the channels last: of other inputs and outputs they keep copies that have.

        Inputs that are not dense are copied once more before.
        """
        copied = _size(out) + _size(x)
        formats = [torch.contiguous_format] + ([torch.channels_last] if x.dim() == 4 else [])
        if not any(x.is_contiguous(memory_format=layout) for layout in formats):
            copied += _size(x)
        self.transient(copied)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
