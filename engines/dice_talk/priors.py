"""Emotion priors: `emotions/<name>.npy` under the checkpoint directory.

The published files hold a pickled dict, and a pickle is a program. So it is never loaded as one: its instructions must
be among the few that `numpy.save` writes for such a dict, the names in it stand for inert notes of ours, and the array
is made from what they noted. numpy's own classes would not do here: a forged `dtype` state makes `ndarray` take bytes
for pointers to objects.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHAPE = (1, 256)
MAX_BYTES = 64 * 1024  # the published files have 1403

_DTYPE = "<f4"
_OPCODES = re.compile(
    "PROTO|FRAME|STOP|GLOBAL|STACK_GLOBAL|REDUCE|BUILD|MEMOIZE|BINPUT|BINGET|MARK|NONE|NEWTRUE|NEWFALSE|"
    "BININT|BININT1|BININT2|BINUNICODE|SHORT_BINUNICODE|BINBYTES|SHORT_BINBYTES|"
    "EMPTY_TUPLE|TUPLE|TUPLE1|TUPLE2|TUPLE3|EMPTY_LIST|APPEND|EMPTY_DICT|SETITEM"
)


class _Note:
    """What a pickle says about an object, which is not made."""

    __slots__ = ("arguments", "state")

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Array(_Note):
    __slots__ = ()


class _DType(_Note):
    __slots__ = ()


_NAMES: Mapping[tuple[str, str], object] = {
    ("numpy", "ndarray"): object(),  # only ever an argument; nothing that could be called
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _Array,  # until numpy 1.26
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        """Our note for the few names that belong here; nothing is imported."""
        try:
            return _NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def read_prior(path: Path) -> NDArray[np.float32]:
    """Read `mu` of shape (1, 256). Raises ValueError, naming the file, for anything else; never runs what is in it."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"The emotion prior {path} cannot be read ({error.strerror}).") from error
    try:
        values = _values(content)
    except Exception as error:  # a forged file can fail in any way, and each is the same to the reader
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} is not an emotion prior: {reason.rstrip('.')}.") from error
    if not np.isfinite(values).all():
        raise ValueError(f"The emotion prior {path} holds values that are not finite.")
    return values


def _values(content: bytes) -> NDArray[np.float32]:
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its format {version[0]}.{version[1]} is not known")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    rest = content[file.tell() :]
    if dtype == np.dtype(object):
        if shape != ():
            raise ValueError(f"it holds objects of shape {shape} instead of one dict")
        mu_shape, code, rest = _pickled_mu(rest)
    else:
        mu_shape, code = shape, dtype.str
    if code != _DTYPE or mu_shape != SHAPE:
        raise ValueError(f"it holds {code} of shape {mu_shape} instead of {_DTYPE} of shape {SHAPE}")
    return np.frombuffer(rest, _DTYPE).reshape(SHAPE).astype(np.float32)


def _pickled_mu(content: bytes) -> tuple[object, str, bytes]:
    """Shape, type and bytes of `mu` in the pickled dict."""
    for opcode, _, _ in pickletools.genops(content):
        if not _OPCODES.fullmatch(opcode.name):
            raise ValueError(f"its pickle uses {opcode.name}")
    shape, code, items = _described(_Unpickler(io.BytesIO(content)).load())
    if shape != () or code != "|O8" or not isinstance(items, list) or len(items) != 1 or not isinstance(items[0], dict):
        raise ValueError("its pickle holds no dict")
    if list(items[0]) != ["mu"]:
        raise ValueError("its dict does not hold `mu` alone")
    shape, code, values = _described(items[0]["mu"])
    if not isinstance(values, bytes):
        raise ValueError("`mu` holds no numbers")  # noqa: TRY004 - it is the file that is wrong
    return shape, code, values


def _described(note: object) -> tuple[object, str, object]:
    """Shape, type and content, as numpy writes them into the state of an array."""
    match note:
        case _Array(state=(1, shape, _DType() as dtype, _, content)):
            match dtype:
                case _DType(arguments=(str(kind), False, True), state=(3, str(order), *_)):
                    return shape, order + kind, content
    raise ValueError("its pickle holds something else than an array")
