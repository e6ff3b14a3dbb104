"""/docs: the OpenAPI description as one of our own pages. It loads nothing from elsewhere, as FastAPI's page does."""

import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from bot.pages import page, templates


def put_docs(app: FastAPI) -> None:
    """Add the page; the description itself is at /openapi.json."""

    @app.get("/docs", include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:
        return page(request, "docs.html", api=app.openapi())


def resolved(schema: dict[str, Any], api: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, where this is a reference to one."""
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = api["components"]["schemas"][name] if name else schema
    return found


def type_name(schema: dict[str, Any], api: dict[str, Any]) -> str:
    """A field's type in a word or two."""
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " | ".join(type_name(part, api) for part in schema["anyOf"])
    if "$ref" in schema:
        return str(resolved(schema, api).get("title", "object"))
    if schema.get("type") == "array":
        return f"[{type_name(schema['items'], api)}]"
    return str(schema.get("const", schema.get("type", "any")))


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


templates.env.filters.update(resolved=resolved, type_name=type_name, as_json=as_json)
