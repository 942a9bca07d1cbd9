"""The GPU: as NVIDIA's management library (NVML) reports it, and whether PyTorch can use it. No context is made."""

from __future__ import annotations

import os
from typing import Any

import pynvml

from api.models import Device


class DeviceMonitor:
    """Reports the GPU that CUDA numbers `device_id`. Where there is no driver or no such GPU, it reports none."""

    def __init__(self, device_id: int) -> None:
        self._handle = None
        if device_id < 0:
            return
        try:
            pynvml.nvmlInit()
            self._handle = _handle(device_id)
        except pynvml.NVMLError:
            self._handle = None

    def read(self) -> Device | None:
        """Name and memory now."""
        if self._handle is None:
            return None
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(self._handle)
            name = pynvml.nvmlDeviceGetName(self._handle)
        except pynvml.NVMLError:
            return None
        return Device(
            name=name if isinstance(name, str) else name.decode(),
            memory_total_bytes=memory.total,
            memory_used_bytes=memory.used,
        )


def _handle(device_id: int) -> Any:
    """NVML's own for what CUDA, which sees only the GPUs of CUDA_VISIBLE_DEVICES, counts as `device_id`.

    NVML counts by PCI slot; among unequal cards CUDA does so with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return pynvml.nvmlDeviceGetHandleByIndex(device_id)
    names = [name.strip() for name in visible.split(",")]
    if device_id >= len(names):
        return None
    name = names[device_id]
    return pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdecimal() else pynvml.nvmlDeviceGetHandleByUUID(name)


def why_no_cuda(device_id: int) -> str | None:
    """Why PyTorch cannot use this GPU, in a sentence; None when it can. Raises ImportError where there is no PyTorch.

    NVML cannot tell: containers often lack it beside a GPU that works, and it numbers the GPUs in its own way.
    """
    try:
        import torch  # noqa: PLC0415  seconds, and only needed for DICE-Talk
    except OSError as error:  # a library that PyTorch loads is missing
        raise ImportError(str(error), name="torch") from error
    if torch.version.cuda is None:
        return f"The installed PyTorch, {torch.__version__}, is built without CUDA."
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        return "PyTorch finds no CUDA GPU on this machine."
    if device_id >= count:
        return f"gpu.device_id is {device_id}, but PyTorch finds {count} CUDA GPU{'s' * (count > 1)}, counted from 0."
    return None
