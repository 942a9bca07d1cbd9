"""Real files for Schemathesis to send; it reads this through its configuration, with no test around it."""

from pathlib import Path
from typing import Any

import schemathesis
from schemathesis.hooks import HookContext

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = {name: (EXAMPLES / file).read_bytes() for name, file in (("image", "portrait.jpg"), ("audio", "speech_en.wav"))}

KEY = "Idempotency-Key"
KEYS: set[str] = set()  # that were sent with a form that is right


@schemathesis.hook
def before_call(context: HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]) -> None:
    """In a form that is meant to be right, files that are; those that Schemathesis makes up mean nothing.

    And no key of another form: a schema cannot say that those are refused.
    """
    body: Any = case.body
    if case.meta is not None and case.meta.generation.mode.is_positive and isinstance(body, dict):
        body.update({name: content for name, content in FILES.items() if name in body})
        case._sync_validated_hashes()  # bytes are no string to a JSON schema: validated anew, the form would be wrong
        if KEY in case.headers:
            key = case.headers[KEY].strip('"')
            if key in KEYS:
                del case.headers[KEY]
            KEYS.add(key)
