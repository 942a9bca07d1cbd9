"""The GPU as NVIDIA's management library (NVML) reports it; no CUDA context is made."""

from __future__ import annotations

import pynvml

from api.models import Device


class DeviceMonitor:
    """Reports one GPU. Where there is no driver or no such GPU, it reports none."""

    def __init__(self, device_id: int) -> None:
        self._handle = None
        if device_id < 0:
            return
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(device_id)
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
