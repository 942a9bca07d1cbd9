"""Temporary directories of attempts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api.storage.workspaces import Workspaces


def test_workspace_is_empty_and_deleted_with_its_content(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path / "workspaces")
    with workspaces.create("1-1") as first, workspaces.create("2-1") as second:
        assert first != second
        assert list(first.iterdir()) == list(second.iterdir()) == []
        (first / "frames").mkdir()
        (first / "frames" / "1.png").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_workspace_is_deleted_after_an_error(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path / "workspaces")
    with pytest.raises(ValueError, match="broken"), workspaces.create("1-1"):
        raise ValueError("broken")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_an_earlier_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / "workspaces" / "1-1" / "frames").mkdir(parents=True)
    Workspaces(tmp_path / "workspaces").remove_leftovers()
    assert list(tmp_path.iterdir()) == []
    Workspaces(tmp_path / "workspaces").remove_leftovers()


def test_many_workspaces_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path / "workspaces")

    def use(number: int) -> None:
        with workspaces.create(f"{number}-1") as path:
            (path / "file").write_text(str(number))
            assert (path / "file").read_text() == str(number)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(300)))
    assert list(tmp_path.iterdir()) == []
