"""The page on testing lists what was broken on purpose; the tests that it names are there."""

from __future__ import annotations

import ast

from tests.docs.documents import table, words
from tests.process import ROOT


def test_the_tests_that_caught_something_are_there() -> None:
    rows = table("doc/testing.md", column=1, has="test_logs.py").rows
    assert len(rows) >= 15
    for _, caught_by in rows:
        file, name = words(caught_by)
        tree = ast.parse((ROOT / "tests" / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, caught_by
