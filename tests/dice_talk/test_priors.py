"""Emotion priors: the published form, the plain form, and files that mean harm."""

from __future__ import annotations

import builtins
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.dice_talk.priors import MAX_BYTES, read_prior

MU = np.random.default_rng(1).standard_normal((1, 256)).astype(np.float32)
OBJECT_HEADER = {"descr": "|O", "fortran_order": False, "shape": ()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "happy.npy"


def write_pickle(path: Path, content: bytes, **header: Any) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, OBJECT_HEADER | header)
        file.write(content)


def as_numpy_1(content: bytes) -> bytes:
    return content.replace(b"numpy._core", b"numpy.core")


def pickled(value: object, protocol: int = 3) -> bytes:
    """As numpy before 2.0 wrote it: protocol 3, the old module names."""
    return as_numpy_1(pickle.dumps(np.array(value, dtype=object), protocol))


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._call


def test_reads_the_published_form(path: Path) -> None:
    write_pickle(path, pickled({"mu": MU}))
    assert path.stat().st_size == 1403, "the size that the published files have"
    prior = read_prior(path)
    assert prior.dtype == np.float32
    np.testing.assert_array_equal(prior, MU)
    prior += 1  # the reader's own


def test_reads_what_this_numpy_writes(path: Path) -> None:
    np.save(path, np.array({"mu": MU}, dtype=object))
    np.testing.assert_array_equal(read_prior(path), MU)


def test_reads_a_plain_array(path: Path) -> None:
    np.save(path, MU)
    np.testing.assert_array_equal(read_prior(path), MU)


@pytest.mark.parametrize("nested", ["whole", "dict", "mu", "key", "argument"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_in_a_file_is_run(path: Path, tmp_path: Path, nested: str, protocol: int) -> None:
    harm = tmp_path / "harm"
    for call in (
        Call(os.system, f"touch {harm}"),
        Call(builtins.eval, f"open({str(harm)!r}, 'w')"),
        Call(builtins.getattr, Call(builtins.__import__, "os"), "system"),
        Call(np.fromfile, str(harm)),
        Call(np.ndarray, (10**12,)),
    ):
        holder: Any = {
            "whole": call,
            "dict": np.array(call, dtype=object),
            "mu": np.array({"mu": call}, dtype=object),
            "key": np.array({"mu": MU, "x": call}, dtype=object),
            "argument": Call(np.dtype, call),
        }[nested]
        write_pickle(path, pickle.dumps(holder, protocol))
        with pytest.raises(ValueError, match=r"happy\.npy is not an emotion prior"):
            read_prior(path)
        assert not harm.exists()


def test_a_forged_type_is_not_given_to_numpy(path: Path) -> None:
    """Objects without their flags: numpy's own unpickling would take the bytes for pointers."""
    good = pickled({"mu": MU})
    flags = good.index(b"K?t")
    forged = good[:flags] + b"K\x00t" + good[flags + 3 :]
    write_pickle(path, forged.replace(b"X\x02\x00\x00\x00f4", b"X\x02\x00\x00\x00O8"))
    with pytest.raises(ValueError, match=r"holds <O8 of shape \(1, 256\) instead of <f4"):
        read_prior(path)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"mu": MU.astype(np.float64)}, "<f8 of shape"),
        ({"mu": MU.astype(">f4")}, ">f4 of shape"),
        ({"mu": MU[0]}, r"shape \(256,\)"),
        ({"mu": MU[:, :255]}, r"shape \(1, 255\)"),
        ({"mu": MU.astype(object)}, "pickle|numbers"),
        ({"mu": [1.0] * 256}, "pickle"),
        ({"mu": "happy"}, "something else than an array"),
        ({"mu": MU, "logvar": MU}, "mu` alone|MARK|SETITEMS"),
        ({}, "mu` alone"),
        ("mu", "no dict"),
    ],
)
def test_other_content_is_refused(path: Path, value: object, reason: str) -> None:
    write_pickle(path, pickled(value))
    with pytest.raises(ValueError, match=rf"happy\.npy is not an emotion prior: .*({reason})"):
        read_prior(path)


@pytest.mark.parametrize("array", [MU[0], MU.astype(np.float64), MU.astype(">f4"), np.zeros((2, 256), np.float32)])
def test_other_plain_arrays_are_refused(path: Path, array: np.ndarray[Any, Any]) -> None:
    np.save(path, array)
    with pytest.raises(ValueError, match=r"instead of <f4 of shape \(1, 256\)"):
        read_prior(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("plain", [True, False])
def test_numbers_must_be_finite(path: Path, bad: float, plain: bool) -> None:
    mu = MU.copy()
    mu[0, 7] = bad
    if plain:
        np.save(path, mu)
    else:
        write_pickle(path, pickled({"mu": mu}))
    with pytest.raises(ValueError, match=r"happy\.npy holds values that are not finite"):
        read_prior(path)


def test_damaged_files_are_refused(path: Path) -> None:
    write_pickle(path, pickled({"mu": MU}))
    whole = path.read_bytes()
    for content in (b"", b"\x93NUMPY", whole[:100], whole[:200], whole[:-3], whole[:128], b"PK\x03\x04" + whole):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"happy\.npy is not an emotion prior"):
            read_prior(path)
    path.write_bytes(whole + bytes(MAX_BYTES))
    with pytest.raises(ValueError, match="larger than"):
        read_prior(path)
    write_pickle(path, pickled({"mu": MU}), shape=(1,))
    with pytest.raises(ValueError, match="instead of one dict"):
        read_prior(path)


def test_every_changed_byte_gives_a_prior_or_a_sentence(path: Path) -> None:
    write_pickle(path, pickled({"mu": MU}))
    whole = path.read_bytes()
    for position in [*range(400), *range(len(whole) - 40, len(whole))]:
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        try:
            assert read_prior(path).shape == (1, 256)
        except ValueError as error:
            assert "happy.npy" in str(error)  # noqa: PT017 - either is right


def test_a_missing_file_is_said(path: Path) -> None:
    with pytest.raises(ValueError, match=r"happy\.npy cannot be read \(No such file"):
        read_prior(path)
