"""What the guide and the reference say of portraits is what the engines say of them."""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Callable

import pytest

from engines.dice_talk import engine as dice_talk
from engines.preview import face, suitability
from tests.docs.documents import BOTH, GUIDE, REFERENCE, table, text


def sentences(function: Callable[..., object]) -> list[str]:
    """The sentences in the code of a function, with N where it puts in a number or a word."""
    found: list[str] = []

    def look(node: ast.AST) -> None:
        if isinstance(node, (ast.JoinedStr, ast.Constant)):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "N" for part in parts))
        else:
            for child in ast.iter_child_nodes(node):
                look(child)

    (definition,) = ast.parse(inspect.getsource(function)).body
    assert isinstance(definition, ast.FunctionDef)
    for statement in definition.body[1:]:  # the first is its docstring
        look(statement)
    return [sentence for sentence in found if sentence.endswith(".")]


@pytest.mark.parametrize("document", BOTH)
def test_every_warning_of_the_preview_engine_is_explained(document: str) -> None:
    listed = list(table(document, has="N faces were found in the picture; the largest one is animated.").by_name())
    said = sentences(suitability.warnings)
    assert len(said) > 4
    assert listed[:-1] == said
    assert sentences(face._several) == [listed[-1].replace("the largest one is animated", "N")]
    assert face._several(2, []) == [listed[-1].replace("N", "2")]


@pytest.mark.parametrize("document", BOTH)
def test_the_limits_of_portraits(document: str) -> None:
    heading = {GUIDE: "### 对肖像的要求", REFERENCE: "### Portraits"}[document]
    chapter = text(document).partition(heading)[2].partition("\n## ")[0].partition("\n### ")[0]
    degrees = [float(number) for number in re.findall(r"(\d+)(?: 度| degrees)", chapter)]
    limits = suitability.MAX_YAW, suitability.MAX_ROLL, suitability.WARN_YAW
    assert degrees == [pytest.approx(math.degrees(limit)) for limit in limits]
    pixels = [float(number) for number in re.findall(r"(\d+)(?: 像素| pixels)", chapter)]
    assert pixels == [suitability.MIN_EYE_PIXELS, suitability.WARN_EYE_PIXELS]


def test_dice_talk_warns_of_faces_smaller_than_an_eighth() -> None:
    assert dice_talk._SMALL_SHARE == 1 / 8
    assert "八分之一" in text(GUIDE)
    assert text(REFERENCE).count("an eighth of the picture's shorter side") == 2
