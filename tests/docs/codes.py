"""Which statuses and codes the service can answer with, collected from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from api.engine import ServiceState
from api.http import errors
from tests.process import ROOT

# Calls whose status or code is no literal, by file and source: what they can answer.
_COMPUTED: dict[tuple[str, str], set[tuple[int, str]]] = {
    # from_status: of the bare statuses that the router, the file response and CORS give
    ("errors.py", "code"): {(status, code) for status, (code, _) in errors._HTTP_ERRORS.items()},
    ("errors.py", "error.code"): {
        (status, str(getattr(error, "code", ""))) for error, status in errors._REFUSALS.items()
    },
    # the code of a task that failed: the other table
    ("synthesis.py", "task.error_code"): set(),
    # readiness
    ("health.py", "state"): {(503, state.value) for state in ServiceState if state is not ServiceState.READY},
    # the queue's refusal is set by its `close`, below
    ("task_manager.py", "*self._scheduler.refusal"): set(),
}

_CLOSES = ("self.close", "self._scheduler.close")  # with a code, it is the queue's


def answered() -> set[tuple[int, str]]:
    """All pairs of status and code. A call that is not understood is an error."""
    found: set[tuple[int, str]] = set()
    for path in (ROOT / "api").rglob("*.py"):
        for call in _calls(path.read_text()):
            name = ast.unparse(call.func)
            if name in _CLOSES:
                found.add((503, ast.literal_eval(call.args[0])))
                continue
            keywords = {keyword.arg: keyword.value for keyword in call.keywords}
            if name == "UnavailableError":
                status: ast.expr = keywords.get("status", ast.Constant(503))
                code = call.args[0]
            else:
                status, code = call.args[:2]
            if isinstance(code, ast.Constant) and isinstance(status, ast.Constant):
                found.add((int(str(status.value)), str(code.value)))
            else:
                found |= _COMPUTED[path.name, ast.unparse(code)]
    return found


def _calls(source: str) -> Iterator[ast.Call]:
    """Where an ApiError is made: by name, by FormError's own constructor, or kept for later by the queue's `close`."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("ApiError", "UnavailableError") or (name in _CLOSES and node.args):
                yield node
        if isinstance(node, ast.ClassDef) and node.name == "FormError":
            for call in ast.walk(node):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
                    yield call
