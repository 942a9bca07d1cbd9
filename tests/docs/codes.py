"""Which statuses and codes the service can answer with, collected from its source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from api.http import errors
from api.tasks.errors import StorageFullError, TaskFailedError
from tests.process import ROOT

# ApiErrors whose status or code is not a literal, by file and source of the code: what they can be.
_COMPUTED: dict[tuple[str, str], set[tuple[int, str]]] = {
    # from_status: of the bare statuses that the router, the file response and CORS give
    ("errors.py", "code"): {(status, code) for status, (code, _) in errors.HTTP_ERRORS.items()},
}
# Where coded errors are defined and rendered, but not raised.
_NOT_RAISED = (
    "api/tasks/errors.py",
    "api/http/errors.py",
    "api/http/messages.py",
    "media/errors.py",
    "engines/base.py",
)


def answered() -> set[tuple[int, str]]:
    """All pairs of status and code. A call that is not understood is an error."""
    found: set[tuple[int, str]] = set()
    for path in (ROOT / "api").rglob("*.py"):
        for call in _calls(path.read_text()):
            status, code = call.args[:2]
            if isinstance(code, ast.Constant) and isinstance(status, ast.Constant):
                found.add((int(str(status.value)), str(code.value)))
            elif ast.unparse(code) == "error.code":  # _from_coded
                found |= _coded()
            else:
                found |= _COMPUTED[path.name, ast.unparse(code)]
    return found


def _coded() -> set[tuple[int, str]]:
    """Of the coded errors that are raised somewhere. A failed task's own code is in the other table."""
    files = (path for package in ("api", "engines", "media") for path in (ROOT / package).rglob("*.py"))
    source = "\n".join(path.read_text() for path in files if str(path.relative_to(ROOT)) not in _NOT_RAISED)
    raised = {kind: status for kind, status in errors.STATUSES.items() if re.search(rf"\b{kind.__name__}\b", source)}
    # A full disk is an OSError, which `from_exception` converts.
    assert raised.keys() | {StorageFullError} == errors.STATUSES.keys()
    return {(status, kind.code) for kind, status in errors.STATUSES.items() if kind is not TaskFailedError}


def _calls(source: str) -> Iterator[ast.Call]:
    """Where an ApiError is made: by name, or by the constructor of a subclass."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "ApiError":
            yield node
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "ApiError" for base in node.bases):
            for call in ast.walk(node):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
                    yield call
