"""Reading a set of goldens: index.json and the arrays beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor

from tests.seeded import seeded_array, seeded_state

Array = NDArray[Any]


@dataclass
class Case:
    """One case of the index: its inputs, and its outputs as they should be."""

    name: str
    folder: Path
    record: dict[str, Any]
    _stored: dict[str, Array] = field(default_factory=dict)

    @property
    def module(self) -> str:
        return str(self.record["module"])

    @property
    def config(self) -> dict[str, Any]:
        return self.record["config"]

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        return self.record["outputs"]

    def shape(self, output: str) -> list[int]:
        """The shape that an output should have."""
        return list(self.outputs[output]["shape"])

    def stored(self, key: str) -> Array:
        if not self._stored:
            self._stored.update(load_file(self.folder / self.record["file"]))
        return self._stored[key]

    def input(self, name: str) -> Any:
        """An array, or a plain value."""
        recipe = self.record["inputs"][name]
        if "seed_name" in recipe:
            return seeded_array(recipe["seed_name"], recipe["shape"], recipe["std"], recipe["mean"])
        return self.stored(recipe["stored"]) if "stored" in recipe else recipe["value"]

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.input(name)))

    def inputs(self, prefix: str) -> dict[str, Any]:
        """Those whose names begin so, by the rest of the name."""
        return {name[len(prefix) :]: self.input(name) for name in self.record["inputs"] if name.startswith(prefix)}

    def seed(self, module: Any, kind: str = "", strip: str = "") -> Any:
        """Give a module its weights: those of the case's only seed entry, or of the only one whose module's name has
        `kind` in it. `strip` is left out of the keys.
        """
        entries = self.record["seed"]
        (entry,) = [entry for entry in entries if len(entries) == 1 or kind in entry["module"].lower()]
        shapes = {strip + key: tuple(value.shape) for key, value in module.state_dict().items()}
        state = seeded_state(shapes, entry["prefix"], entry["gain"])
        module.load_state_dict({key.removeprefix(strip): torch.from_numpy(value) for key, value in state.items()})
        return module.eval()

    def check(self, name: str, got: Any) -> None:
        """The stored part of an output must agree within its tolerance, and the whole of it in its statistics."""
        record = self.outputs[name]
        tolerance = record.get("tol", self.record.get("tol", {}))
        atol, rtol = tolerance.get("atol", 1e-4), tolerance.get("rtol", 1e-4)
        value = got.detach().float().cpu().numpy() if isinstance(got, Tensor) else np.asarray(got)
        assert list(value.shape) == record["shape"]
        np.testing.assert_allclose(_part(value, record["slice"]), self.stored(record["stored"]), atol=atol, rtol=rtol)
        if value.size == 0:
            return
        statistics = _statistics(value)
        for key in ("mean", "absmean", "l2"):
            allowed = atol * (np.sqrt(value.size) if key == "l2" else 1) + rtol * abs(record["stats"][key])
            assert abs(statistics[key] - record["stats"][key]) <= allowed, key


def read(folder: Path) -> list[Case]:
    """All cases of a set."""
    cases: Mapping[str, dict[str, Any]] = json.loads((folder / "index.json").read_text())["cases"]
    return [Case(name, folder, record) for name, record in cases.items()]


def _part(value: Array, spec: list[Any] | None) -> Array:
    for axis, wanted in enumerate(spec or []):
        if isinstance(wanted, dict):
            value = np.take(value, wanted["idx"], axis=axis)
        elif wanted is not None:
            value = value[(slice(None),) * axis + (slice(*wanted),)]
    return value


def _statistics(value: Array) -> dict[str, float]:
    value = value.astype(np.float64)
    return {"mean": float(value.mean()), "absmean": float(np.abs(value).mean()), "l2": float(np.sqrt((value**2).sum()))}
