"""The OpenAPI schema says what the service does, and the pages need nothing from outside."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.http.conftest import Client
from tests.process import START


@pytest.fixture
def schema(shared: Client) -> dict[str, Any]:
    return dict(shared.http.get("/openapi.json").json())


def test_pages_use_local_files_only(shared: Client) -> None:
    for page in ("/docs", "/redoc"):
        text = shared.http.get(page).text
        links = re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
        assert links
        for link in links:
            assert link.startswith("/")
            assert shared.http.get(link).status_code == 200
        assert "https://" not in text
        policy = shared.http.get(page).headers["content-security-policy"]
        assert policy.startswith("default-src 'self'")
        assert "http" not in policy
    assert shared.http.get("/").headers["location"] == "/docs"


def test_the_form_tells_bounds_defaults_and_files(schema: dict[str, Any]) -> None:
    assert schema["openapi"].startswith("3.1")
    content = schema["paths"][START]["post"]["requestBody"]["content"]["multipart/form-data"]
    form = schema["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    assert form["required"] == ["image", "audio", "emotion"]
    assert form["additionalProperties"] is False
    fields = form["properties"]
    assert len(fields) == 13
    assert fields["image"]["format"] == fields["audio"]["format"] == "binary"
    assert (fields["inference_steps"]["minimum"], fields["inference_steps"]["maximum"]) == (8, 50)
    assert fields["duration"]["type"] == "number"
    assert "default" not in fields["duration"]
    assert fields["seed"]["maximum"] == 2**32 - 1
    assert all(field.get("description") for name, field in fields.items())


def test_every_reference_is_there_and_every_error_has_the_shape(schema: dict[str, Any]) -> None:
    references = set(re.findall(r"#/components/schemas/(\w+)", str(schema)))
    assert references <= set(schema["components"]["schemas"])
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    documented = {}
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            codes = {int(code) for code in operation["responses"]}
            documented[method, path.rpartition("/")[2]] = codes
            for code in codes:
                if code >= 400:
                    content = operation["responses"][str(code)]["content"]["application/json"]
                    assert content["schema"]["$ref"].endswith("/ErrorResponse")
                    assert set(content["example"]) == {"error", "detail", "code", "request_id"}
    assert documented["post", "start"] == {202, 400, 408, 409, 413, 415, 422, 429, 500, 503}
    assert documented["get", "status"] == {200, 404, 410, 500}
    assert documented["get", "download"] == {200, 206, 304, 404, 409, 410, 416, 500}


def test_the_video_is_binary(schema: dict[str, Any]) -> None:
    responses = schema["paths"]["/api/v1/synthesis/{task_id}/download"]["get"]["responses"]
    for code in ("200", "206"):
        assert responses[code]["content"] == {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}
