"""The page answers whom it is for, and takes what it can hold."""

import asyncio
import socket

import pytest

from vaesr.app.guard import Guard

LARGEST = 2 * 2**20


def ask(app=None, *, kind="http", method="GET", body=(b"",), wait=None, bound="127.0.0.1", **headers):
    """The status that a request gets, and the body that the page behind saw; 200 is the page's own."""
    seen, sent = [], []

    async def page(scope, receive, send):
        while scope["type"] == "http" and scope["method"] == "POST":
            message = await receive()
            seen.append(message["body"])
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})

    parts = list(body)

    async def receive():
        if wait is not None:
            await asyncio.sleep(wait)
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    scope = {
        "type": kind,
        "method": method,
        "headers": [(n.replace("_", "-").encode(), v.encode()) for n, v in headers.items()],
    }
    guard = Guard(app or page, host=bound, largest=LARGEST, patience=0.2)
    asyncio.run(guard(scope, receive, send))
    return sent[0].get("status", sent[0].get("code")), b"".join(seen)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8080", "localhost:8080", "LOCALHOST", "192.168.0.7:80", "[::1]:8080"]
)
def test_names_of_this_machine_are_answered(host):
    assert ask(host=host)[0] == 200
    assert ask(host=host, origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "", "localhost.evil.example", "[::1", "a@b"]
)
def test_other_names_are_not(host):
    assert ask(host=host)[0] == 421
    assert ask(kind="websocket", host=host)[0] == 1008


@pytest.mark.parametrize(
    ("bound", "status"),
    [("127.0.0.1", 421), ("::1", 421), ("localhost", 421), ("0.0.0.0", 200), ("192.168.0.7", 200)],
)
def test_the_machines_name_counts_where_others_reach_it(bound, status, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "Box")
    monkeypatch.setattr(socket, "getfqdn", lambda: "box.example")
    assert ask(bound=bound, host="box:8080")[0] == ask(bound=bound, host="box.example")[0] == status
    assert ask(bound=bound, host="localhost")[0] == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:9000", "https://localhost.x"]
)
def test_pages_from_elsewhere_are_not(origin):
    assert ask(host="localhost:8080", origin=origin)[0] == 403
    assert ask(kind="websocket", host="localhost:8080", origin=origin)[0] == 1008


def test_uploads_are_bounded_by_the_server():
    here = {"method": "POST", "host": "localhost"}
    assert ask(**here, content_length="3", body=[b"a", b"bc"]) == (200, b"abc")
    assert ask(**here, content_length=str(LARGEST + 1))[0] == 413
    for words in ({}, {"content_length": "many"}, {"content_length": "-1"}, {"content_length": "9" * 40}):
        assert ask(**here, **words)[0] == 411


def test_a_silent_upload_ends():
    assert ask(method="POST", host="localhost", content_length="3", wait=5)[0] == 408


def test_forms_that_the_page_fails_on_are_refused():
    async def page(scope, receive, send):
        raise AttributeError("a text field is no file")

    assert ask(page, method="POST", host="localhost", content_length="3")[0] == 400
    with pytest.raises(AttributeError):
        ask(page, host="localhost")
