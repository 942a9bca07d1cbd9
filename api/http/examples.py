"""Example responses for the OpenAPI schema."""

from __future__ import annotations

from typing import Any

_ID = "1306cf1ce3aa4fdeb6c212a48710c020"
_PARAMETERS: dict[str, Any] = {
    "emotion": "happy",
    "ref_scale": 3.0,
    "emo_scale": 6.0,
    "crop": False,
    "inference_steps": 25,
    "duration": None,
    "fps": 25,
    "seed": 72589,
    "dynamic_scale": 1.0,
    "min_resolution": 512,
    "expand_ratio": 0.5,
}
VIEW: dict[str, Any] = {
    "task_id": _ID,
    "status": "PROCESSING",
    "progress": 0.47,
    "message": "Rendering frame 60 of 200",
    "created_at": "2026-11-22T15:53:14.014Z",
    "updated_at": "2026-11-22T15:53:17.097Z",
    "stage": "rendering",
    "queue_position": None,
    "eta_seconds": 3.4,
    "started_at": "2026-11-22T15:53:14.015Z",
    "completed_at": None,
    "expires_at": None,
    "error_code": None,
    "attempt": 1,
    "parameters": _PARAMETERS,
    "engine": "preview",
    "warnings": [],
}
ACCEPTED: dict[str, Any] = {
    "task_id": _ID,
    "status": "PENDING",
    "message": "The task is queued.",
    "status_url": f"/api/v1/synthesis/{_ID}/status",
    "download_url": f"/api/v1/synthesis/{_ID}/download",
    "queue_position": 1,
    "warnings": [],
}
LIST: dict[str, Any] = {"data": [VIEW], "has_more": True, "first_id": _ID, "last_id": _ID}
MANIFEST: dict[str, Any] = {
    "task_id": _ID,
    "status": "COMPLETED",
    "inputs": {
        "image": {"sha256": "3349a40160621352e58289b7ac47943b562502486b7e7becbd2ae6e468f807a7"},
        "audio": {"sha256": "4b57c8ddb91efb2892912b2d991f6f9f3ba46e398e631fc811f1244b16d0a245"},
    },
    "speech_seconds": 8.0,
    "parameters": _PARAMETERS,
    "engine": {
        "name": "preview",
        "version": "3",
        "checkpoint": "ea0498ce5e8af16c786a1b5a84b98f6a0a2cfdea1d1d45b2276f99c32554667d",
    },
    "service_version": "0.1.0",
    "attempt": 1,
    "timings": {
        "created_at": "2026-11-22T15:53:14.014Z",
        "started_at": "2026-11-22T15:53:14.015Z",
        "completed_at": "2026-11-22T15:53:20.482Z",
        "waited_seconds": 0.001,
        "worked_seconds": 6.467,
    },
    "output": {
        "sha256": "415349841492a229c8f706331e0e75e22923db17b026c64e86341db22425ef1f",
        "bytes": 412873,
    },
}
BY_SCHEMA = {"TaskAccepted": ACCEPTED, "TaskView": VIEW, "TaskList": LIST, "Manifest": MANIFEST}
