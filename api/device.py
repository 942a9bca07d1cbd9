"""GPU name and memory from NVIDIA's management library (NVML), without creating a CUDA context."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import pynvml


@dataclass(frozen=True, slots=True)
class Device:
    """The GPU as reported by NVIDIA's management library (NVML)."""

    name: str
    memory_total_bytes: int
    memory_used_bytes: int


class DeviceMonitor:
    """Reads the GPU with the CUDA index `device_id`; -1 stands for the CPU, for which there is nothing to read."""

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
        """Return the name and current memory usage in bytes, or None if the GPU cannot be read."""
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
    """Return the NVML handle of CUDA device `device_id`, None if CUDA_VISIBLE_DEVICES hides it. Raises NVMLError.

    NVML numbers GPUs by PCI slot. With different GPU models CUDA does so only with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return pynvml.nvmlDeviceGetHandleByIndex(device_id)
    names = [name.strip() for name in visible.split(",")]
    if device_id >= len(names):
        return None
    name = names[device_id]
    return pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdecimal() else pynvml.nvmlDeviceGetHandleByUUID(name)
