"""What health says of the GPU, with NVIDIA's library played by a stand-in: the machines of the tests have none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from api.device import DeviceMonitor
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings, running


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(index: int) -> int:
        if index > 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return index

    def by_uuid(uuid: str) -> int:
        return handle({"GPU-aaa": 0, "GPU-bbb": 1}.get(uuid, 2))

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", handle)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", by_uuid)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda index: f"GPU {index}")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda index: SimpleNamespace(total=8 << 30, used=index))


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("device_id", "name"), [(0, "GPU 0"), (1, "GPU 1"), (2, None), (-1, None)])
def test_the_device_is_the_one_of_the_settings(device_id: int, name: str | None) -> None:
    device = DeviceMonitor(device_id).read()
    assert (device and device.name) == name
    assert device is None or (device.memory_total_bytes, device.memory_used_bytes) == (8 << 30, device_id)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("visible", "device_id", "name"),
    [
        ("1", 0, "GPU 1"),
        ("1, 0", 1, "GPU 0"),
        ("GPU-bbb,GPU-aaa", 0, "GPU 1"),
        ("1", 1, None),
        ("7", 0, None),
        ("", 0, None),
        ("-1", 0, None),
    ],
)
def test_it_is_the_one_that_cuda_counts_so(
    monkeypatch: pytest.MonkeyPatch, visible: str, device_id: int, name: str | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    device = DeviceMonitor(device_id).read()
    assert (device and device.name) == name


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("device_id", "name"), [(0, "GPU 0"), (1, "GPU 1"), (-1, None)])
def test_health_reports_it(tmp_path: Path, device_id: int, name: str | None) -> None:
    with running(make_settings(tmp_path, gpu={"device_id": device_id}), ScriptedEngine()) as run:
        health = run.client.get("/api/health").json()
    assert health["gpu_available"] == (name is not None)
    assert (health["device"] and health["device"]["name"]) == name


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_has_fallen_off_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(_: int) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    monitor = DeviceMonitor(0)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lost)
    assert monitor.read() is None


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert DeviceMonitor(0).read() is None
