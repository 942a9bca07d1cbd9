"""Every setting has a test of what it does: a new key without one fails here."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from api.settings import Settings

ROOT = Path(__file__).parents[1]

_FACTORY = "tests/test_engine_factory.py::test_with_checkpoints_and_a_gpu_it_is_dice_talk_as_the_settings_want_it"
_GPU = "tests/dice_talk/test_settings.py::test_the_engine_works_as_they_say"
_DEFAULTS = "tests/http/test_fields.py::test_what_is_left_out_or_empty_is_as_the_settings_say"
_PROCESS = "tests/http/test_settings.py::test_the_process_listens_where_it_is_told_and_says_as_much"
_PLACES = "tests/http/test_settings.py::test_uploads_and_videos_are_where_the_settings_say"
_LIMITS = "tests/http/test_uploads.py::test_limits_come_from_the_settings"
_CORS = "tests/http/test_contract.py::test_cors"

# Each of the tests gives the key at least two values, alone or together with another named here, and sees the
# service behave differently.
TESTS: dict[str, tuple[str, ...]] = {
    "server.host": (_PROCESS,),
    "server.port": (_PROCESS,),
    "server.log_level": (_PROCESS, "tests/test_logs.py::test_the_level_of_the_http_server"),
    "server.idle_timeout": (
        "tests/http/test_stalled.py::test_a_request_that_stalls_is_ended",
        "tests/http/test_stalled.py::test_a_client_that_waits_for_its_answer_is_not_stalled",
    ),
    "gpu.device_id": (_FACTORY, _GPU, "tests/test_device.py::test_health_reports_it"),
    "gpu.dtype": (_FACTORY, _GPU),
    "gpu.low_vram": (
        _FACTORY, _GPU, "tests/dice_talk/test_settings.py::test_low_vram_auto_goes_by_the_memory_that_there_is",
    ),
    "gpu.enable_interpolate_frame": (_FACTORY, _GPU),
    "tasks.max_workers": (
        "tests/test_task_manager.py::test_workers_run_side_by_side",
        "tests/http/test_queue.py::test_two_hundred_submits_against_a_queue_of_a_hundred",
    ),
    "tasks.max_queue": (
        "tests/test_task_manager.py::test_the_queue_is_bounded",
        "tests/http/test_queue.py::test_two_hundred_submits_against_a_queue_of_a_hundred",
    ),
    "tasks.retention_hours": (
        "tests/http/test_contract.py::test_an_expired_task",
        "tests/http/test_settings.py::test_videos_of_an_unknown_journal_are_kept_for_their_time",
    ),
    "tasks.shutdown_grace": (
        "tests/http/test_process.py::test_what_outlives_its_grace_is_interrupted",
        "tests/http/test_process.py::test_a_signal_lets_the_running_task_finish",
    ),
    "tasks.timeout_seconds": (
        "tests/test_task_manager.py::test_a_task_that_takes_too_long_times_out",
        "tests/http/test_admission.py::test_a_video_that_would_take_longer_than_a_task_may",
    ),
    "tasks.stall_seconds": (
        "tests/test_interruptions.py::test_a_worker_that_says_nothing_loses_its_task_and_its_place",
        "tests/test_interruptions.py::test_where_tasks_take_turns_a_silent_one_ends_the_service",
    ),
    "tasks.max_attempts": ("tests/test_interruptions.py::test_an_interrupted_task_runs_again_as_often_as_it_may",),
    "files.upload_dir": (_PLACES,),
    "files.output_dir": (_PLACES,),
    "files.data_dir": ("tests/http/test_settings.py::test_the_journal_is_where_the_settings_say",),
    "files.min_free_mb": ("tests/http/test_settings.py::test_with_too_little_room_no_task_is_taken",),
    "files.checkpoint_dir": (
        "tests/http/test_settings.py::test_the_preview_engine_reads_its_model_where_the_checkpoints_are", _FACTORY,
    ),
    "files.max_image_mb": (_LIMITS,),
    "files.max_audio_mb": (_LIMITS,),
    "synthesis.engine": (
        _FACTORY,
        "tests/test_engine_factory.py::test_the_cpu_is_used_on_purpose_only",
        "tests/http/test_process.py::test_dice_talk_without_its_checkpoints_says_what_is_missing",
        "tests/http/test_process.py::test_auto_falls_back_to_the_preview_engine_and_says_so",
    ),
    "synthesis.default_ref_scale": (_DEFAULTS,),
    "synthesis.default_emo_scale": (_DEFAULTS,),
    "synthesis.inference_steps": (_DEFAULTS,),
    "synthesis.fps": (_DEFAULTS,),
    "synthesis.seed": (_DEFAULTS,),
    "synthesis.min_resolution": (_DEFAULTS,),
    "synthesis.expand_ratio": (_DEFAULTS,),
    "security.cors_origins": (_CORS,),
    "security.cors_credentials": (_CORS,),
    "logging.level": ("tests/test_logs.py::test_the_level",),
    "logging.format": ("tests/test_logs.py::test_the_format",),
    "logging.file": ("tests/test_logs.py::test_only_the_terminal", "tests/test_logs.py::test_the_file"),
    "logging.max_mb": ("tests/test_logs.py::test_the_file_is_rotated",),
    "logging.backups": ("tests/test_logs.py::test_the_file_is_rotated",),
}  # fmt: skip


def test_every_setting_has_its_tests() -> None:
    keys = {
        f"{section}.{key}"
        for section, field in Settings.model_fields.items()
        for key in type(field.default).model_fields
    }
    assert set(TESTS) == keys
    assert all(TESTS.values())


@pytest.mark.parametrize(("key", "test"), [(key, test) for key, tests in TESTS.items() for test in tests])
def test_the_tests_are_there_and_are_about_it(key: str, test: str) -> None:
    file, _, name = test.partition("::")
    function = defined(file)[name]
    assert isinstance(function, ast.FunctionDef)
    assert not any("skip" in ast.unparse(mark) or "full" in ast.unparse(mark) for mark in function.decorator_list)
    section, _, last = key.partition(".")
    assert re.search(rf"\b({last}|{section.upper()}__{last.upper()})\b", source(file, function))


@cache
def defined(file: str) -> dict[str, ast.stmt]:
    """What the module defines or imports, by name."""
    names: dict[str, ast.stmt] = {}
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.name: node for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return names


def source(file: str, function: ast.FunctionDef) -> str:
    """The test, and those helpers, constants and fixtures of the tests that it names itself."""
    here = defined(str(Path(file).with_name("conftest.py"))) | defined(file)
    parts = [ast.unparse(function)]
    for node in ast.walk(function):
        name = node.id if isinstance(node, ast.Name) else node.arg if isinstance(node, ast.arg) else ""
        found = here.get(name)
        if isinstance(found, ast.ImportFrom) and (found.module or "").startswith("tests."):
            found = defined(f"{(found.module or '').replace('.', '/')}.py").get(name)
        if found is not None and not isinstance(found, ast.ImportFrom):
            parts.append(ast.unparse(found))
    return "\n".join(parts)
