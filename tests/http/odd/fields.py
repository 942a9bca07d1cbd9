"""Text fields: numbers as nobody should write them, and as some do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial

from tests.http.odd.case import (
    ACCEPTED,
    BAD_FIELD,
    Case,
    file_part,
    good_audio,
    good_image,
    joined,
    part,
    request,
    text_part,
)

Text = bytes | str

RANGES = {
    "ref_scale": (0, 10), "emo_scale": (0, 10), "inference_steps": (8, 50), "duration": (0.1, 600),
    "fps": (8, 60),
    "seed": (0, 2**32 - 1), "dynamic_scale": (0.1, 3), "min_resolution": (256, 1024), "expand_ratio": (0.1, 2),
}  # fmt: skip
WHOLE = {"inference_steps", "fps", "seed", "min_resolution"}
_NO_NUMBERS: Sequence[Text] = (
    "NaN", "nan", "-nan", "inf", "-inf", "Infinity", "+Infinity", "1e400", "-1e400", "1e999999999", "9" * 400,
    "１", "１２", "٣", "๙", "²", "½", "Ⅷ", "十", "1_0", "2_5", "1_0.0", "1e1_0", "0x10", "0b11", "0o7", "1,5",
    "1.5.2",
    "1 2", " 1", "1 ", "\t1", "1\n", "1\r\n", "\u00a01", "1\u200b", "\ufeff1", "--1", "+-1", "1-", "e5",
    "1e", ".", "+",
    "-", "1.e", "true", "null", "None", "undefined", "[]", "{}", "[1]", '"1"', "1;2", "$(id)", "`id`",
    "' OR 1=1 --",
    "<script>", "%31", "${7*7}", "../../etc/passwd", "\x00", "1\x00",
    "x" * 999, "x" * 1001, "1" * 100_000, "0" * 2000,
    b"\xff", b"\xff\xfe1\x00", b"\xc3(", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", "\U0001f600", "٫5",
    "−1", "1e٣",
)  # fmt: skip
_TRUE = ("true", "True", "TRUE", "tRuE", "1", "yes", "YES", "y", "on", "On", "t")
_FALSE = ("false", "False", "FALSE", "0", "no", "n", "off", "OFF", "f")
_NO_BOOLEANS: Sequence[Text] = (
    "2", "-1", "10", "01", "1.0", " true", "true ", "true\n", "tru", "truefalse", "wahr", "oui", "是",
    "ｔｒｕｅ", "１",
    "null", "None", "[]", "\x00", b"\xff", "x" * 5000, "checked", "enabled", "nan",
)  # fmt: skip
EMOTIONS = ("contempt", "sad", "happy", "surprised", "angry", "disgusted", "fear", "neutral")
_NO_EMOTIONS: Sequence[Text] = (
    "", " ", "joyful", "Happy", "HAPPY", "happy ", " happy", "happy\n", "happy\x00", "happy,sad",
    "happy;sad", "ｈａｐｐｙ",
    "hаppy", "开心", "0", "1", "null", "None", "happy" * 300, b"\xff\xfehappy", b"happy\xff", "../happy",
    "happy/../sad",
    "happy.npy", "[happy]", '{"emotion":"happy"}', "__class__", "%(happy)s", "{happy}", "\U0001f600",
)  # fmt: skip
_UNKNOWN = (
    "x", "Emotion", "EMOTION", "emotion[]", "emotion[0]", "emotion ", " emotion", "emotion.x", "fps2",
    "task_id", "device",
    "checkpoint", "image_path", "audio_path", "output", "callback_url", "__proto__", "constructor",
    "_charset_", "__class__",
    "情绪", "\U0001f600", "a" * 500, "../../etc/passwd", "<b>", "%00", "Image", "images", "image[]", "file",
    "audio[]",
)  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them."""
    for field, (low, high) in RANGES.items():
        for text in (*_NO_NUMBERS, *_outside(low, high)):
            yield _case(field, text, BAD_FIELD)
        for text in _inside(field, low, high):
            yield _case(field, text, ACCEPTED)
        if field in WHOLE:
            yield from (_case(field, text, BAD_FIELD) for text in (f"{low + 8}.5", "1e1", "32.", ".0"))
    yield from (_case("crop", text, ACCEPTED) for text in (*_TRUE, *_FALSE, ""))
    yield from (_case("crop", text, BAD_FIELD) for text in _NO_BOOLEANS)
    yield from (_case("emotion", text, ACCEPTED) for text in EMOTIONS)
    yield from (_case("emotion", text, BAD_FIELD) for text in _NO_EMOTIONS)
    yield from _missing_and_repeated()
    for name in _UNKNOWN:
        yield _case(name, "1", BAD_FIELD)
        yield Case(
            f"field: a file called {name[:40]!r}", frozenset([BAD_FIELD]),
            partial(_with_file, name),
        )  # fmt: skip


def _with_file(name: str) -> bytes:
    return joined([request()[: -len(joined([]))], file_part(name, bytes(5000))])


def _case(field: str, text: Text, outcome: tuple[int, str]) -> Case:
    shown = repr(text) if len(text) < 40 else f"{text[:9]!r}... of {len(text)}"
    name = f"field: {field[:40]} = {shown}"
    return Case(name, frozenset([outcome]), lambda: request(texts=[(field, text)]))


def _outside(low: float, high: float) -> Iterator[str]:
    yield from (f"{low - 0.001:.3f}", "-1", f"{high + 0.001:.3f}", f"{high * 10:.0f}", f"-{high}", "-1e-9", "1e300")


def _inside(field: str, low: float, high: float) -> Iterator[str]:
    yield from ("", f"{low}", f"{high}", f"+{high}", f"0{high}", f"000{low}")
    if field in WHOLE:
        yield f"{high}.0"
    else:
        yield from (".5", "1.", "1e0", "5E-1", "+1.0e+0", "0.10000000000000000000000000000000000001", "1.5")


def _missing_and_repeated() -> Iterator[Case]:
    parts = {
        "image": file_part("image", good_image()),
        "audio": file_part("audio", good_audio()),
        "emotion": text_part("emotion", "happy"),
    }
    for count in (0, 1, 2):
        for kept in itertools.combinations(parts, count):
            yield _of_parts(f"only {', '.join(kept) or 'nothing'}", [parts[name] for name in kept], BAD_FIELD)
    for order in itertools.permutations(parts):
        yield _of_parts(f"in the order {', '.join(order)}", [parts[name] for name in order], ACCEPTED)
    for name, repeated in parts.items():
        for times in (1, 2, 50):
            yield _of_parts(f"{name} {times + 1} times", [*parts.values(), *[repeated] * times], BAD_FIELD)
        empty = part(f'name="{name}"'.encode(), b"")
        yield _of_parts(f"{name} again, but empty", [*parts.values(), empty], BAD_FIELD)
    for field in (*RANGES, "crop"):
        yield _of_parts(f"{field} twice", [*parts.values(), *[text_part(field, "1")] * 2], BAD_FIELD)
        yield _of_parts(f"{field} as a file", [*parts.values(), file_part(field, bytes(9))], BAD_FIELD)
    yield _of_parts("emotion as a file", [parts["image"], parts["audio"], file_part("emotion", b"sad")], ACCEPTED)
    yield _of_parts(
        "files as fields",
        [text_part("image", good_image()), text_part("audio", good_audio()), parts["emotion"]],
        ACCEPTED,
    )


def _of_parts(name: str, parts: Sequence[bytes], outcome: tuple[int, str]) -> Case:
    return Case(f"field: {name}", frozenset([outcome]), lambda: joined(parts))
