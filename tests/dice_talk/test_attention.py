"""Attention over more groups of queries than one kernel takes."""

from __future__ import annotations

import pytest
import torch

from engines.dice_talk import attention
from engines.dice_talk.attention import KeyValue, attend


def test_many_groups_are_attended_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(11, 2, length, 8, generator=generator) for length in (5, 7, 7))
    whole = attend(query, KeyValue(key, value))
    assert whole.shape == (11, 5, 16)
    monkeypatch.setattr(attention, "MAX_GROUPS", 4)
    torch.testing.assert_close(attend(query, KeyValue(key, value)), whole)
