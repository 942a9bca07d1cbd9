"""Swagger UI and ReDoc, served from local files so that they work without internet access."""

from __future__ import annotations

from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

ASSETS = "/docs-assets"
# Blocks the vendor logo that ReDoc would load from the internet.
_POLICY = {"Content-Security-Policy": "default-src 'self' 'unsafe-inline'; img-src 'self' data:; worker-src blob:"}

router = APIRouter(include_in_schema=False)
assets = StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static")


@router.head("/")
@router.get("/")
async def root() -> RedirectResponse:
    """Redirect to the Swagger UI."""
    return RedirectResponse("/docs")


@router.head("/docs")
@router.get("/docs")
async def swagger(request: Request) -> HTMLResponse:
    """Serve the interactive API documentation (Swagger UI)."""
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=f"{request.app.title} - Swagger UI",
        swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS}/favicon.png",
    )
    page.headers.update(_POLICY)
    return page


@router.head("/redoc")
@router.get("/redoc")
async def redoc(request: Request) -> HTMLResponse:
    """Serve the API reference (ReDoc)."""
    page = get_redoc_html(
        openapi_url="/openapi.json",
        title=f"{request.app.title} - ReDoc",
        redoc_js_url=f"{ASSETS}/redoc.standalone.js",
        redoc_favicon_url=f"{ASSETS}/favicon.png",
        with_google_fonts=False,
    )
    page.headers.update(_POLICY)
    return page
