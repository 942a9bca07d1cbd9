"""Which statuses and codes the service can answer with, collected from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from api.http import errors
from tests.process import ROOT

# ApiErrors whose status or code is not a literal, by file and source of the code: what they can be.
_COMPUTED: dict[tuple[str, str], set[tuple[int, str]]] = {
    # from_status: of the bare statuses that the router, the file response and CORS give
    ("errors.py", "code"): {(status, code) for status, (code, _) in errors.HTTP_ERRORS.items()},
    # _from_coded: the table of coded errors
    ("errors.py", "error.code"): {(status, error.code) for error, status in errors.STATUSES.items()},
    # the code of a task that failed: the other table
    ("synthesis.py", "task.error_code"): set(),
}


def answered() -> set[tuple[int, str]]:
    """All pairs of status and code. A call that is not understood is an error."""
    found: set[tuple[int, str]] = set()
    for path in (ROOT / "api").rglob("*.py"):
        for call in _calls(path.read_text()):
            status, code = call.args[:2]
            if isinstance(code, ast.Constant) and isinstance(status, ast.Constant):
                found.add((int(str(status.value)), str(code.value)))
            else:
                found |= _COMPUTED[path.name, ast.unparse(code)]
    return found


def _calls(source: str) -> Iterator[ast.Call]:
    """Where an ApiError is made: by name, or by the constructor of a subclass."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "ApiError":
            yield node
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "ApiError" for base in node.bases):
            for call in ast.walk(node):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
                    yield call
