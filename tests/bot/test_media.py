"""What people send beside words: by reference, fetched where a setting allows it, deleted in time."""

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from servers import serving
from sqlalchemy import delete, select, update
from street import Street

from bot import jobs, media
from bot.wiring import Awake
from core.db import transaction
from core.tables import Customer, Media, now

PHOTO = b"\xff\xd8 a photo"


@pytest.fixture(scope="module")
def files() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Twilio's and Meta's file servers; (path, credentials) of what they were asked."""
    app, asked = FastAPI(), []

    @app.middleware("http")
    async def remember(request: Request, call_next: Any) -> Any:
        asked.append((request.url.path, request.headers.get("authorization", "")))
        return await call_next(request)

    @app.get("/photo")
    def photo() -> Response:
        return Response(PHOTO, media_type="image/jpeg")

    @app.get("/virus")
    def virus() -> Response:
        return Response(b"MZ", media_type="application/x-msdownload")

    @app.get("/away")
    def away() -> Response:
        return Response(status_code=503)

    @app.get("/{version}/{media_id}")
    def about(version: str, media_id: str, request: Request) -> Response:
        return JSONResponse({"url": f"{request.base_url}photo", "mime_type": "image/jpeg", "id": media_id})

    with serving(app) as url:
        yield url, asked


@pytest.fixture(autouse=True)
def _allowed(awake: Awake, files: tuple[str, Any]) -> None:
    awake.settings = awake.settings.model_copy(
        update={"media_fetch": True, "twilio_api_base_url": files[0], "meta_graph_base_url": files[0]}
    )
    files[1].clear()


def photo(street: Street, url: str, **fields: str) -> None:
    street.answer(street.twilio("Olha", NumMedia="1", MediaUrl0=url, MediaContentType0="image/jpeg", **fields))


def rows(awake: Awake) -> list[Media]:
    with transaction(awake.engine) as session:
        return list(session.scalars(select(Media).order_by(Media.id)))


def kept(awake: Awake) -> list[str]:
    return sorted(path.name for path in media.folder(awake.settings).glob("*"))


def test_a_photo_by_twilio(awake: Awake, street: Street, files: tuple[str, Any]) -> None:
    photo(street, f"{files[0]}/photo")
    assert rows(awake)[0].state == "waiting", "a turn fetches nothing"
    jobs.media()
    (row,) = rows(awake)
    assert (row.state, row.type, row.bytes) == ("stored", "image/jpeg", len(PHOTO))
    assert row.sha256 == hashlib.sha256(PHOTO).hexdigest()
    path = media.folder(awake.settings) / str(row.id)
    assert path.read_bytes() == PHOTO
    assert path.stat().st_mode & 0o077 == 0
    ((_, credentials),) = files[1]
    assert credentials.startswith("Basic ")
    jobs.media()
    assert len(files[1]) == 1, "fetched once"


def test_a_photo_by_meta(awake: Awake, street: Street, files: tuple[str, Any]) -> None:
    street.answer(street.meta({"type": "image", "image": {"id": "4711", "mime_type": "image/jpeg"}}))
    jobs.media()
    assert rows(awake)[0].state == "stored"
    assert [path for path, _ in files[1]] == ["/v23.0/4711", "/photo"]
    assert {credentials for _, credentials in files[1]} == {"Bearer meta-access"}


@pytest.mark.parametrize("url", ["https://169.254.169.254/latest", "file:///etc/passwd", "https://localhost/x"])
def test_an_address_inside_is_refused_for_good(awake: Awake, street: Street, url: str) -> None:
    photo(street, url)
    jobs.media()
    (row,) = rows(awake)
    assert row.state == "refused"
    assert row.reason
    assert kept(awake) == []


def test_a_type_nobody_asked_for(awake: Awake, street: Street, files: tuple[str, Any]) -> None:
    photo(street, f"{files[0]}/virus")
    jobs.media()
    assert "x-msdownload" in str(rows(awake)[0].reason)


def test_what_is_away_is_tried_again_and_given_up(awake: Awake, street: Street, files: tuple[str, Any]) -> None:
    photo(street, f"{files[0]}/away")
    for attempt in range(1, media.MAX_ATTEMPTS + 1):
        jobs.media()
        (row,) = rows(awake)
        assert (row.attempts, row.state) == (attempt, "waiting" if attempt < media.MAX_ATTEMPTS else "refused")
        with transaction(awake.engine) as session:
            session.execute(update(Media).values(not_before=now()))
    jobs.media()
    assert len(files[1]) == media.MAX_ATTEMPTS


def test_without_the_setting_nothing_is_noted(awake: Awake, street: Street, files: tuple[str, Any]) -> None:
    awake.settings = awake.settings.model_copy(update={"media_fetch": False})
    photo(street, f"{files[0]}/photo")
    jobs.media()
    assert (rows(awake), files[1]) == ([], [])


def test_credentials_go_to_the_vendor_alone(awake: Awake) -> None:
    twilio, meta = media._twilio_headers(awake.settings), media._meta_headers(awake.settings)
    assert twilio("api.twilio.com")
    assert meta("lookaside.fbsbx.com")
    for host in ("mms.twiliocdn.com", "twilio.com.evil.example", "eviltwilio.com", "s3.amazonaws.com"):
        assert twilio(host) == {}
    for host in ("evilfacebook.com", "facebook.com.evil.example", "api.twilio.com"):
        assert meta(host) == {}


class TestDeletion:
    @pytest.fixture(autouse=True)
    def _stored(self, awake: Awake, street: Street, files: tuple[str, Any]) -> None:
        photo(street, f"{files[0]}/photo", MessageSid="SMphoto")
        jobs.media()
        assert len(kept(awake)) == 1

    def test_with_the_person(self, awake: Awake) -> None:
        with transaction(awake.engine) as session:
            session.execute(delete(Customer))
        jobs.media()
        assert (rows(awake), kept(awake)) == ([], [])

    def test_with_the_message_that_was_taken_back(self, awake: Awake, street: Street) -> None:
        from bot.signals import record_edit
        from core.messages import InboundEdit

        with transaction(awake.engine) as session:
            record_edit(session, InboundEdit("twilio", "SMphoto", None))
        jobs.media()
        assert kept(awake) == []

    def test_when_their_time_is_over(self, awake: Awake) -> None:
        jobs.media()
        assert len(kept(awake)) == 1
        with transaction(awake.engine) as session:
            session.execute(update(Media).values(created_at=now() - timedelta(days=91)))
        jobs.media()
        assert (rows(awake), kept(awake)) == ([], [])
