"""The page: its workings, and a browser without a window that uses it."""

import contextlib
import functools
import io
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vaesr.app import cli, demo
from vaesr.files.images import Photo, read_photo, write_photo
from vaesr.inference import upscale
from vaesr.runs import load_run


@pytest.fixture
def photo(tmp_path: pathlib.Path) -> pathlib.Path:
    """Dark on the left, bright on the right, so that a picture of the page tells where it is."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, 30:] = (200, 120, 40)
    path = tmp_path / "größe 1.png"
    write_photo(path, Photo(pixels))
    return path


@pytest.fixture
def studio(edsr_folder: pathlib.Path, vae_folder: pathlib.Path) -> demo.Studio:
    return demo.Studio({"edsr": str(edsr_folder), "vae": str(vae_folder)})


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.slow
def test_an_upload_becomes_what_the_command_makes(
    studio: demo.Studio, photo: pathlib.Path, edsr_folder: pathlib.Path
) -> None:
    shares: list[float] = []
    key = studio.upscale(photo.name, photo.read_bytes(), "edsr", progress=shares.append)
    result = studio.results[key]
    wanted = upscale(load_run(edsr_folder), read_photo(photo).pixels)
    assert result.name == "größe 1_out.png" and result.size == (80, 120)
    np.testing.assert_array_equal(decoded(result.data), wanted)
    np.testing.assert_array_equal(decoded(result.shown["after"]), wanted)
    before = decoded(result.shown["before"])
    assert before.shape == wanted.shape and before[:, :50].max() == 0
    assert result.line.startswith("größe 1.png: 60x40 -> 120x80 in ")
    assert shares[-1] == 1.0


def test_other_depths_and_factors(studio: demo.Studio, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "deep.png"
    write_photo(path, Photo(np.full((9, 12, 1), 40000, np.uint16)))
    result = studio.results[studio.upscale("deep.png", path.read_bytes(), "edsr", scale=3)]
    assert result.size == (27, 36)
    path.write_bytes(result.data)
    assert read_photo(path).pixels.dtype == np.uint16
    assert decoded(result.shown["before"]).max() == 40000 >> 8


def test_large_results_are_shown_smaller(monkeypatch: pytest.MonkeyPatch, studio: demo.Studio) -> None:
    monkeypatch.setattr(demo, "_SHOWN", 50)
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40)).save(buffer, "PNG")
    result = studio.results[studio.upscale("a.png", buffer.getvalue(), "edsr")]
    assert decoded(result.shown["after"]).shape[:2] == (33, 50) == decoded(result.shown["before"]).shape[:2]
    assert decoded(result.data).shape[:2] == (80, 120)


@pytest.mark.slow
def test_results_are_kept_until_they_are_forgotten_or_an_hour_has_passed(
    studio: demo.Studio, photo: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [studio.upscale("a.png", photo.read_bytes(), "edsr") for _ in range(20)]
    assert list(studio.results) == keys
    studio.forget(keys[0])
    studio.forget(keys[0])
    studio.forget(None)
    assert list(studio.results) == keys[1:]
    monkeypatch.setattr(demo, "_SECONDS_KEPT", 0.0)
    last = studio.upscale("a.png", photo.read_bytes(), "edsr")
    assert list(studio.results) == [last]


def test_work_ends_when_nobody_waits_for_it(studio: demo.Studio, photo: pathlib.Path) -> None:
    shares = []

    def leave(share: float) -> None:
        shares.append(share)
        raise demo.GoneError

    with pytest.raises(demo.GoneError):
        studio.upscale("a.png", photo.read_bytes(), "edsr", progress=leave)
    assert shares == [0.0] and not studio.results


@pytest.mark.parametrize(
    "name, network, words",
    [
        ("notes.txt", "edsr", "notes.txt is no image file"),
        ("broken.png", "edsr", "broken.png is not an image"),
        ("", "edsr", "photo is no image file"),
        ("../../../etc/a.png", "edsr", "a.png is not an image"),
        ("photo.png", "vae", "needs a super-resolution network"),
    ],
)
def test_what_cannot_be_upscaled(studio: demo.Studio, name: str, network: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        studio.upscale(name, b"no picture", network)
    assert not studio.results


def test_bad_arguments(
    edsr_folder: pathlib.Path,
    vae_folder: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["demo", "--port", port, "--no-browser"]) == 2
    assert f"cannot listen at 127.0.0.1:{port}" in capsys.readouterr().err
    assert cli.main(["demo", "--run", str(vae_folder), "--no-browser"]) == 2
    assert "needs a super-resolution network" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "nicegui", None)
    assert cli.main(["demo", "--port", port, "--no-browser", "--run", str(edsr_folder)]) == 2
    told = capsys.readouterr()
    assert "vaesr[demo]" in told.err and "http://" not in told.out


def test_run_folders_of_one_name_are_two_networks(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(tmp_path / name / "default") for name in ("first", "second")]
    for path in paths:
        shutil.copytree(edsr_folder, path)
    seen: list[Any] = []
    monkeypatch.setattr(demo, "serve", lambda sources, **_: seen.append(sources))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert cli.main(["demo", "--port", str(port), "--no-browser", "--run", *paths]) == 0
    assert list(seen[0])[:2] == paths and "RealESRGAN_x4plus" in seen[0]


# `vaesr` with the arguments that follow; the page waits no half a minute for an upload that stops.
IMPATIENT = """
import functools, sys
from vaesr.app import cli, demo
demo.serve = functools.partial(demo.serve, patience=2.0)
sys.exit(cli.main(sys.argv[1:]))
"""
# Again, with many tiles, each of which takes a moment; what becomes of a photo is said.
SLOW = """
import functools, sys, time
from vaesr.app import cli, demo
from vaesr.inference import tiling

tiling.memory_budget = lambda: 0
upscale = demo.Studio.upscale

def told(studio, name, *more, progress, **knobs):
    def slowly(share):
        time.sleep(0.5)
        progress(share)
    try:
        key = upscale(studio, name, *more, progress=slowly, **knobs)
    except demo.GoneError:
        print(name, "given up", flush=True)
        raise
    print(name, "done", flush=True)
    return key

demo.Studio.upscale = told
sys.exit(cli.main(sys.argv[1:]))
"""


@contextlib.contextmanager
def serving(network: pathlib.Path, log: pathlib.Path, *start: str) -> Iterator[str]:
    """The address of a `vaesr demo` of its own; `start` is how Python is told to run `vaesr`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, *start, "demo", "--port", str(port), "--no-browser", "--run", str(network)]
    address = f"http://127.0.0.1:{port}"
    # NiceGUI behaves differently where it sees pytest.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    with log.open("wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env=outside)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(address, timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None, log.read_text()
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def page_log(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """What the command that serves `page_address` says."""
    return tmp_path_factory.mktemp("demo") / "demo.log"


@pytest.fixture(scope="module")
def page_address(edsr_folder: pathlib.Path, page_log: pathlib.Path) -> Iterator[str]:
    with serving(edsr_folder, page_log, "-m", "vaesr") as address:
        yield address


def status_of(address: str, request: str, *fields: str, body: bytes = b"") -> int:
    """The status that a request gets, sent as it stands here with our Host, unless there is one."""
    host, port = address.removeprefix("http://").split(":")
    lines = [f"{request} HTTP/1.1", *fields]
    if not any(field.startswith("Host:") for field in fields):
        lines.append(f"Host: {host}:{port}")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        return int(connection.makefile("rb").readline().split()[1])


def form(field: str, content: bytes) -> tuple[list[str], bytes]:
    """Header fields and body of a form of one field."""
    head = f"--edge\r\nContent-Disposition: form-data; name=a{field}\r\n\r\n"
    body = head.encode() + content + b"\r\n--edge--\r\n"
    return ["Content-Type: multipart/form-data; boundary=edge", f"Content-Length: {len(body)}"], body


@pytest.mark.slow
def test_the_server_answers_whom_it_is_for_and_takes_what_it_can_hold(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    pytest.importorskip("nicegui")
    log = tmp_path / "demo.log"
    with serving(edsr_folder, log, "-c", IMPATIENT) as address:
        page = urllib.request.urlopen(address, timeout=60).read().decode()
        found = re.search(r"/_nicegui/client/[\w-]+/upload/\d+", page)
        assert found
        upload = f"POST {found[0]}"
        ask = functools.partial(status_of, address)
        polling = "GET /_nicegui_ws/socket.io/?EIO=4&transport=polling"
        socket_ = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        socket_ += ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
        evil = "Origin: http://evil.example"

        def websocket(*fields: str) -> int:
            return ask("GET /_nicegui_ws/socket.io/?EIO=4&transport=websocket", *socket_, *fields)

        assert ask("GET /") == ask("GET /", f"Origin: {address}") == ask(polling) == 200
        assert websocket(f"Origin: {address}") == 101
        assert ask("GET /", "Host: evil.example") == ask(upload, "Host: evil.example") == 421
        assert ask("GET /", evil) == ask(upload, evil) == ask(polling, evil) == 403
        assert websocket(evil) == websocket("Host: evil.example") == 403

        assert ask(upload, f"Content-Length: {600 * 2**20}") == 413
        assert ask(upload, "Transfer-Encoding: chunked") == 411
        kind = "Content-Type: multipart/form-data; boundary=edge"
        assert ask(upload, kind, f"Content-Length: {200 * 2**20}", body=b"--edge") == 408
        fields, body = form("", b"a text field")
        assert ask(upload, *fields, body=body) == 400
        # A file without a name is taken; the page says to its visitor that it is no image.
        fields, body = form('; filename=""', b"no picture")
        assert ask(upload, *fields, body=body) == 200
    assert log.read_text().splitlines() == [f"{address} (Ctrl-C ends it)"]


def shown_colour(page: Any, left: float, right: float) -> np.ndarray:
    """The mean colour that the browser draws between two shares of the picture's width."""
    box = page.locator(".pair").bounding_box()
    columns = slice(round(box["x"] + left * box["width"]), round(box["x"] + right * box["width"]))
    rows = slice(round(box["y"] + 0.2 * box["height"]), round(box["y"] + 0.8 * box["height"]))
    return decoded(page.screenshot())[rows, columns, :3].mean((0, 1))


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium: apt-get install chromium")
@pytest.mark.slow
def test_a_browser_uploads_upscales_slides_zooms_and_downloads(
    page_address: str, photo: pathlib.Path, edsr_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    from playwright.sync_api import expect, sync_playwright

    wanted = upscale(load_run(edsr_folder), read_photo(photo).pixels)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        outside: list[str] = []
        page.on("request", lambda r: outside.append(r.url) if page_address not in r.url else None)
        page.goto(page_address)
        page.set_input_files("input[type=file]", str(photo))
        page.wait_for_selector(".pair img.after", timeout=60000)
        page.wait_for_function("[...document.querySelectorAll('.pair img')].every(i => i.complete)")
        sizes = page.evaluate(
            "[...document.querySelectorAll('.pair img')].map(i => [i.naturalWidth, i.naturalHeight])"
        )
        assert sizes == [[120, 80], [120, 80]]
        assert page.get_by_text("größe 1.png: 60x40 -> 120x80").count() == 1

        # The slider: what is left of it is the photo before, what is right of it the one after.
        page.locator(".cut").fill("30")
        assert wanted[16:64, 18:30].mean() > 40, "the network must change the dark half for this to be seen"
        assert shown_colour(page, 0.15, 0.25).max() <= 3
        found = shown_colour(page, 0.35, 0.45)
        np.testing.assert_allclose(found, wanted[16:64, 42:54].mean((0, 1)), atol=12)
        page.locator(".cut").fill("10")
        found = shown_colour(page, 0.15, 0.25)
        np.testing.assert_allclose(found, wanted[16:64, 18:30].mean((0, 1)), atol=12)
        # And the pointer, drawn over the picture.
        box = page.locator(".pair").bounding_box()
        page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 20, steps=3)
        page.mouse.up()
        assert abs(float(page.locator(".cut").input_value()) - 50) < 1

        page.get_by_role("button", name="4x", exact=True).click()
        page.wait_for_function("document.querySelector('.pair').getBoundingClientRect().width > 470")
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").click()
        download.value.save_as(tmp_path / "back.png")
        assert download.value.suggested_filename == "größe 1_out.png"
        np.testing.assert_array_equal(read_photo(tmp_path / "back.png").pixels, wanted)

        (tmp_path / "no.png").write_bytes(b"no picture")
        page.set_input_files("input[type=file]", str(tmp_path / "no.png"))
        expect(page.get_by_text("no.png is not an image").first).to_be_visible(timeout=20000)
        assert not [url for url in outside if not url.startswith(("data:", "blob:", "ws:"))]
        browser.close()


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium: apt-get install chromium")
@pytest.mark.slow
def test_a_newcomer_tries_it_and_several_photos_are_kept(
    page_address: str, page_log: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    from playwright.sync_api import expect, sync_playwright

    paths = [tmp_path / name for name in ("0.png", "1.png", "more/0.png")]  # two of one name
    (tmp_path / "more").mkdir()
    for number, path in enumerate(paths):
        write_photo(path, Photo(np.full((20 + 2 * number, 30, 3), 40 * number, np.uint8)))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.goto(page_address)
        expect(page.get_by_text("Make a small photo large")).to_be_visible()
        expect(page.get_by_role("button", name="Cancel")).not_to_be_visible()
        page.get_by_role("button", name="Try it with this photo").click()
        expect(page.get_by_text("chelsea.png: 180x135 -> 360x270")).to_be_visible(timeout=60000)
        expect(page.get_by_text("Make a small photo large")).not_to_be_visible()

        for path in paths:
            page.set_input_files("input[type=file]", str(path))
        expect(page.get_by_role("button", name="_out.png")).to_have_count(4, timeout=60000)
        page.get_by_role("button", name="chelsea_out.png").click()
        page.wait_for_function("document.querySelector('.pair img.after').naturalWidth == 360")
        with page.expect_download() as download:
            page.get_by_role("button", name="Download all").click()
        download.value.save_as(tmp_path / "all.zip")
        with zipfile.ZipFile(tmp_path / "all.zip") as archive:
            assert sorted(archive.namelist()) == ["0_out.png", "1_out.png", "4_0_out.png", "chelsea_out.png"]
            assert decoded(archive.read("0_out.png")).shape == (40, 60, 3)
        browser.close()
    assert page_log.read_text().splitlines() == [f"{page_address} (Ctrl-C ends it)"]


def status_of_picture(address: str) -> int:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium: apt-get install chromium")
@pytest.mark.slow
def test_a_visitor_sees_progress_cancels_and_leaves(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    from playwright.sync_api import expect, sync_playwright

    for name in ("small", "large", "next", "left"):
        side = 20 if name == "small" else 600
        write_photo(tmp_path / f"{name}.png", Photo(np.full((side, side, 3), 90, np.uint8)))
    log = tmp_path / "demo.log"
    with serving(edsr_folder, log, "-c", SLOW) as address, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.goto(address)
        for name in ("small", "large", "next"):
            with page.expect_response(lambda answer: "/upload/" in answer.url):
                page.set_input_files("input[type=file]", str(tmp_path / f"{name}.png"))
        bar = page.locator(".q-linear-progress")
        expect(page.get_by_text(re.compile(r"large\.png.*: [1-9]\d? %"))).to_be_visible(timeout=120000)
        expect(bar).to_be_visible()
        assert 0 < float(bar.get_attribute("aria-valuenow")) < 1
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_text("large.png: cancelled")).to_be_visible(timeout=60000)
        expect(bar).not_to_be_visible()
        expect(page.get_by_role("button", name="Cancel")).not_to_be_visible()
        assert log.read_text().splitlines()[1:] == ["small.png done", "large.png given up"]

        picture = address + page.locator(".pair img.after").get_attribute("src")
        assert status_of_picture(picture) == 200
        page.set_input_files("input[type=file]", str(tmp_path / "left.png"))
        expect(page.get_by_text(re.compile(r"left\.png: [1-9]\d? %"))).to_be_visible(timeout=120000)
        page.close()
        until = time.monotonic() + 120
        while status_of_picture(picture) == 200 or "left.png" not in log.read_text():
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        assert status_of_picture(picture) == 404
        assert log.read_text().splitlines()[1:] == [
            "small.png done", "large.png given up", "left.png given up",
        ]  # fmt: skip
        browser.close()


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium: apt-get install chromium")
@pytest.mark.slow
def test_twenty_visitors_each_get_their_own(page_address: str, tmp_path: pathlib.Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    paths = []
    for number in range(20):
        paths.append(tmp_path / f"photo{number}.png")
        write_photo(paths[-1], Photo(np.full((16 + 2 * number, 24, 3), 10 * number, np.uint8)))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        pages = [browser.new_context().new_page() for _ in paths]
        for page in pages:
            page.goto(page_address)
        for page, path in zip(pages, paths, strict=True):
            page.set_input_files("input[type=file]", str(path))
        for number, (page, path) in enumerate(zip(pages, paths, strict=True)):
            size = f"24x{16 + 2 * number} -> 48x{32 + 4 * number}"
            expect(page.get_by_text(f"{path.name}: {size}")).to_be_visible(timeout=120000)
            page.wait_for_function(
                f"document.querySelector('.pair img.after').naturalHeight == {32 + 4 * number}"
            )
        for number, page in enumerate(pages):  # and after all have theirs
            with page.expect_download() as download:
                page.get_by_role("button", name="Download", exact=True).click()
            assert download.value.suggested_filename == f"photo{number}_out.png"
        browser.close()
