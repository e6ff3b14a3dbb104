"""Supabase Storage on loopback, as far as we use it: buckets, uploads without overwriting, downloads."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response


class FakeStorage:
    """What was stored, and what the caller sent along.

    Attributes:
        objects: "bucket/path" -> (bytes, content type).
        buckets: name -> public.
        keys: the API keys that callers sent.
        broken: paths whose bytes come back changed.
    """

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.buckets: dict[str, bool] = {}
        self.keys: set[str] = set()
        self.broken: set[str] = set()
        self.uploads = 0
        self.app = FastAPI()
        self.app.post("/storage/v1/bucket")(self._bucket)
        self.app.post("/storage/v1/object/{bucket}/{path:path}")(self._put)
        self.app.get("/storage/v1/object/{bucket}/{path:path}")(self._get)

    async def _bucket(self, request: Request) -> Any:
        self.keys.add(request.headers.get("apikey", ""))
        body = await request.json()
        if body["name"] in self.buckets:
            return _refused(409, "Duplicate", "The resource already exists")
        self.buckets[body["name"]] = bool(body.get("public"))
        return {"name": body["name"]}

    async def _put(self, bucket: str, path: str, request: Request) -> Any:
        if bucket not in self.buckets:
            return _refused(404, "Bucket not found", "Bucket not found")
        key = f"{bucket}/{path}"
        if key in self.objects and request.headers.get("x-upsert") != "true":
            return _refused(409, "Duplicate", "The resource already exists")
        form = await request.form()
        upload: Any = next(value for value in form.values() if hasattr(value, "read"))
        self.objects[key] = (await upload.read(), upload.content_type)
        self.uploads += 1
        return {"Key": key, "Id": "1"}

    async def _get(self, bucket: str, path: str) -> Any:
        key = f"{bucket}/{path}"
        if key not in self.objects:
            return _refused(404, "not_found", "Object not found")
        data = self.objects[key][0]
        return Response(data[:-1] + bytes([data[-1] ^ 1]) if key in self.broken else data)


def _refused(status: int, error: str, message: str) -> JSONResponse:
    # Supabase answers 400 and says the real status in the body.
    return JSONResponse({"statusCode": str(status), "error": error, "message": message}, status_code=400)
