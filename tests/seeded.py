"""Deterministic tensors from names: weights and inputs need no files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_TABLES = ("position_embedding.weight", "embed_positions.weight", "embed_tokens.weight", "codebook.weight")


def seeded_array(name: str, shape: Sequence[int], std: float = 1.0, mean: float = 0.0) -> NDArray[np.float32]:
    """Uniform in mean ± √3·std: Philox keyed with the first half of the name's SHA-256, 53 bits a number."""
    key = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], "<u8").astype(np.uint64)
    words = np.random.Philox(key=key).random_raw(math.prod(shape))
    uniform = (np.atleast_1d(words) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    values = mean + (2.0 * uniform - 1.0) * (math.sqrt(3.0) * std)
    return values.astype(np.float32).reshape(tuple(shape))


def seeded_state(shapes: Mapping[str, Sequence[int]], prefix: str, gain: float = 1.0) -> dict[str, NDArray[np.float32]]:
    """A value for every parameter, whatever their order."""
    return {key: seeded_array(f"{prefix}/{key}", shape, *_spread(key, shape, gain)) for key, shape in shapes.items()}


def _spread(key: str, shape: Sequence[int], gain: float) -> tuple[float, float]:
    """(std, mean) of one parameter."""
    leaf = key.rpartition(".")[2]
    if leaf == "mix_factor":
        return 0.7, 0.0
    if leaf == "class_embedding" or key.endswith(_TABLES):
        return 0.5, 0.0
    if leaf == "bias":
        return 0.05, 0.0
    if len(shape) == 1:  # norms near 1, PReLU slopes near 0.25
        return (0.1, 1.0) if "norm" in key.lower() else (0.05, 0.25)
    return gain / math.sqrt(math.prod(shape[1:])), 0.0
