"""Shared files: one copy each, gone with the last holder, leftovers of earlier runs swept."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from api.storage.files import FileStore
from api.storage.lock import DirectoryLock

NAME = "a" * 64


def make(path: Path, content: str = "x") -> Path:
    path.write_text(content)
    return path


def test_equal_content_is_kept_once_until_the_last_holder_lets_go(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    path = store.adopt(make(tmp_path / "1"), NAME)
    assert store.adopt(make(tmp_path / "2"), NAME) == path
    assert not (tmp_path / "2").exists()
    store.hold(NAME)
    assert [store.release(NAME), path.exists()] == [False, True]
    assert [store.release(NAME), path.exists()] == [False, True]
    assert [store.release(NAME), path.exists()] == [True, False]


def test_leftovers_are_what_is_ours_old_and_not_held(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    held = store.adopt(make(tmp_path / "new"), NAME)
    orphan, video, part = (make(tmp_path / name) for name in ("b" * 64, "c" * 64 + ".mp4", "d.part"))
    foreign, fresh = make(tmp_path / ".gitignore"), make(tmp_path / ("e" * 64))
    long_ago = time.time() - 1000
    for path in (held, orphan, video, part, foreign):
        os.utime(path, (long_ago, long_ago))
    store.remove_leftovers(500)
    assert sorted(tmp_path.iterdir()) == sorted([held, part, foreign, fresh])
    store.remove_parts()
    store.remove_leftovers(0)
    assert sorted(tmp_path.iterdir()) == sorted([held, foreign])


def test_leftovers_made_since_a_time_go_however_young(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    now = time.time()
    old, middle, young = (make(tmp_path / (letter * 64)) for letter in "abc")
    for path, age in ((old, 1000), (middle, 300), (young, 100)):
        os.utime(path, (now - age, now - age))
    store.remove_leftovers(500, now - 200)
    assert list(tmp_path.iterdir()) == [middle]


def test_a_file_that_cannot_be_removed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path)
    path = store.adopt(make(tmp_path / "new"), NAME)

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        assert store.release(NAME)
    assert path.exists()
    store.remove_leftovers(0)
    assert not path.exists()


def test_what_is_adopted_is_on_the_disk_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path)
    synced: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
        path = store.adopt(make(tmp_path / "new"), NAME)
    assert synced == [path.stat().st_ino, tmp_path.stat().st_ino]


def test_what_cannot_be_made_sure_of_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path)

    def refuse(self: DirectoryLock) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(DirectoryLock, "sync", refuse)
    with pytest.raises(OSError, match="Input/output"):
        store.adopt(make(tmp_path / "new"), NAME)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_goes_while_leftovers_are_looked_for_is_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path)
    going, orphan = (make(tmp_path / (letter * 64)) for letter in "ab")
    names = [going.name, orphan.name]
    going.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", lambda _: names)
        store.remove_leftovers(0)
    assert not orphan.exists()


def test_a_directory_belongs_to_one_service(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    with pytest.raises(OSError, match="another instance"):
        FileStore(tmp_path)
    store.close()
    FileStore(tmp_path).close()
