"""All cases, by group."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

from tests.http.odd import bad_pictures, bad_recordings, fields, forms, pictures, recordings
from tests.http.odd.case import Case

GROUPS: Mapping[str, Callable[[], Iterator[Case]]] = {
    "odd pictures": pictures.cases,
    "bad pictures": bad_pictures.cases,
    "odd recordings": recordings.cases,
    "bad recordings": bad_recordings.cases,
    "fields": fields.cases,
    "forms": forms.cases,
}


def cases(group: str, share: float = 1) -> list[Case]:
    """Of a group, all of them or a share, always the same ones."""
    every = list(GROUPS[group]())
    return every if share == 1 else random.Random(group).sample(every, round(len(every) * share))
