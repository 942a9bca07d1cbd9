"""Tensors from checkpoint files into modules: mapped, checked, cast one by one on their way to the device."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from engines.base import SetupError

FETCH_AGAIN = "./start_server.sh download fetches it again."


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a checkpoint file by key, read from the disk when they are asked for."""

    def __init__(self, directory: Path, name: str, strip: str = "") -> None:
        """`name` is relative to `directory`; keys without the prefix `strip` are left out. Raises SetupError."""
        self.name = name
        self._strip = strip
        path = directory / name
        try:
            if path.suffix == ".safetensors":
                file = safe_open(path, "pt")
                self._read: Callable[[str], Tensor] = file.get_tensor
                keys = list(file.keys())
            else:
                state = _load_pickle(path)
                self._read = state.__getitem__
                keys = list(state)
        except FileNotFoundError:
            raise SetupError(f"{name} is missing. ./start_server.sh download fetches it.") from None
        except Exception as error:  # a damaged file can fail in any way
            raise SetupError(f"{name} is damaged, or not a file of tensors. {FETCH_AGAIN}") from error
        self._keys = {key.removeprefix(strip): key for key in keys if key.startswith(strip)}

    def __getitem__(self, key: str) -> Tensor:
        return self._read(self._keys[key])

    def __contains__(self, key: object) -> bool:
        return key in self._keys  # Mapping's own would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def rows(self, key: str) -> int:
        """The length of a tensor's first axis. Raises SetupError when there is none."""
        if key not in self:
            raise SetupError(f"{self.name} does not fit the network: {key} is missing. {FETCH_AGAIN}")
        tensor = self[key]
        if not tensor.ndim:
            raise SetupError(f"{self.name} does not fit the network: {key} is a single number. {FETCH_AGAIN}")
        return len(tensor)


def _load_pickle(path: Path) -> dict[str, Tensor]:
    """A state dict; only tensors are ever unpickled."""
    with warnings.catch_warnings(action="ignore"):  # about what is no such file, which the error says
        # Files of the old format cannot be mapped.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if not isinstance(state, dict):
        raise ValueError("not a state dict")  # noqa: TRY004  it is the file that is wrong
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise ValueError("not only tensors by name")
    return state


def fill(
    module: nn.Module,
    files: Mapping[str, Tensor],
    *,
    name: str,
    device: torch.device,
    dtype: torch.dtype | Callable[[str], torch.dtype],
    ignored: tuple[str, ...] = (),
) -> None:
    """Give a module that was made on the meta device its parameters.

    `files` must have all of them, in their shapes, and nothing else but keys that begin with one of `ignored`; `name`
    is what the error calls them. Tensors that have the wanted type stay where they are mapped. Raises SetupError.
    """
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    missing = [key for key in wanted if key not in files]
    unexpected = [key for key in files if key not in wanted and not key.startswith(ignored)]
    for keys, problem in ((missing, "missing"), (unexpected, "unexpected")):
        if keys:
            more = f" and {len(keys) - 1} more are" if len(keys) > 1 else " is"
            raise SetupError(f"{name} does not fit the network: {keys[0]}{more} {problem}. {FETCH_AGAIN}")
    state = {}
    for key, shape in wanted.items():
        tensor = files[key]
        if tuple(tensor.shape) != shape:
            raise SetupError(
                f"{name} does not fit the network: {key} has the shape {list(tensor.shape)} instead of {list(shape)}. "
                f"{FETCH_AGAIN}"
            )
        state[key] = tensor.to(device, dtype if isinstance(dtype, torch.dtype) else dtype(key))
    module.load_state_dict(state, assign=True)
    module.eval().requires_grad_(False)
