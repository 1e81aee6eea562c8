"""A page to look with: `vaesr demo`. Built with NiceGUI, served from this machine, for this machine."""

import asyncio
import base64
import dataclasses
import functools
import importlib
import io
import pathlib
import secrets
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vaesr.app import batch
from vaesr.app.guard import Guard
from vaesr.data.embedded import SKIMAGE, package_file
from vaesr.files import images
from vaesr.files.atomic import scratch_folder
from vaesr.files.extras import extra, pillow
from vaesr.inference.networks import load_network
from vaesr.inference.tiling import bind_upscaler
from vaesr.runs.load import Run

# Browsers show no larger pictures; the download has all pixels.
_SHOWN = 4096
_LARGEST_UPLOAD = 200 * 2**20
_SECONDS_KEPT = 3600.0
_STYLE = """
<style>
  body { background: #f4f5f7 }
  .stage { overflow: auto; height: calc(100vh - 220px); min-height: 320px; background: #22262b;
           border-radius: 6px; cursor: ew-resize; width: 100% }
  .pair { position: relative; width: calc(var(--fit) * var(--zoom, 1)); margin: 0 auto }
  .pair img { display: block; width: 100%; user-select: none }
  .pair img.before { clip-path: inset(0 calc(100% - var(--cut, 50%)) 0 0) }
  .pair img.after { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--cut, 50%)) }
  .pair .line { position: absolute; top: 0; bottom: 0; left: var(--cut, 50%); width: 2px; margin-left: -1px;
                background: #fff; box-shadow: 0 0 4px #000; pointer-events: none }
  .cut { width: 100% }
  .checked { background: repeating-conic-gradient(#ccc 0% 25%, #fff 0% 50%) 50% / 20px 20px }
</style>
"""
_SCRIPT = """
<script>
  // The slider and the pointer over the picture move the border of "before" and "after".
  function cutAt(percent) {
    document.querySelectorAll('.pair').forEach(e => e.style.setProperty('--cut', percent + '%'));
    document.querySelectorAll('.cut').forEach(e => { e.value = percent; });
  }
  document.addEventListener('input', e => { if (e.target.matches('.cut')) cutAt(e.target.value); });
  document.addEventListener('pointermove', e => {
    const pair = e.target.closest && e.target.closest('.pair');
    if (!pair || !(e.buttons & 1)) return;
    const box = pair.getBoundingClientRect();
    cutAt(Math.min(100, Math.max(0, 100 * (e.clientX - box.left) / box.width)));
  });
</script>
"""


@dataclasses.dataclass(frozen=True)
class Result:
    """One upscaled photo: the file's name and bytes for the download, and what the page shows.

    `shown` is `{"before": ..., "after": ...}`, PNGs of at most `_SHOWN` pixels a side; `size` is
    `(height, width)`, and `line` what `vaesr upscale` says of it.
    """

    name: str
    data: bytes
    shown: dict[str, bytes]
    size: tuple[int, int]
    line: str
    made: float = dataclasses.field(default_factory=time.monotonic)


class GoneError(Exception):
    """Whoever asked has left."""


class Studio:
    """Loads networks, upscales one photo at a time, and keeps a result until it is forgotten, or an hour."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        """Begins without results; `sources` are what `load_network` takes, by the name that is shown."""
        self.sources = dict(sources)
        self.results: dict[str, Result] = {}
        self._one_at_a_time = threading.Lock()
        self._load = functools.lru_cache(maxsize=2)(load_network)

    def network(self, name: str) -> Run:
        """Gives the network of a key of `sources`, from memory if it was used lately.

        A ValueError if it cannot be read, or is no upscaler; an OSError if it cannot be read or fetched.
        """
        run = self._load(self.sources[name])
        bind_upscaler(run)
        return run

    def upscale(
        self,
        name: str,
        data: bytes,
        network: str,
        *,
        scale: float | None = None,
        progress: Any = None,
        on_compile: Any = None,
    ) -> str:
        """Upscales an uploaded file as `vaesr upscale` does, and returns the result's key in `results`.

        Only the last part of the file's name counts. `network` is a key of `sources`; scale None is the
        network's; `progress` is called as `progress(share)` with what is done, 0 to 1; what it raises ends
        the work; for `on_compile` see `Run`. A ValueError says why the file cannot be upscaled, an OSError
        that the network cannot be read or fetched.
        """
        began = time.perf_counter()
        with self._one_at_a_time, scratch_folder() as folder:
            if progress:
                progress(0.0)  # whoever waited may have left
            source = folder / (pathlib.PurePath(name.replace("\\", "/")).name or "photo")
            source.write_bytes(data)
            if source.suffix.lower() not in images.READABLE:
                raise ValueError(f"{source.name} is no image file ({', '.join(images.READABLE)})")
            jobs = batch.plan_jobs(str(source), str(folder / "out"))
            run, job = self.network(network), jobs[0]
            if large := batch.check_sizes(jobs, scale or bind_upscaler(run).scale):
                raise ValueError(f"too large for this page: {large}")
            if job.bits == 16 or jax.default_backend() == "cpu":
                run = run.precise()
            run = dataclasses.replace(run, on_compile=on_compile)
            report = (lambda done, tiles: progress(done / tiles)) if progress else None
            try:
                photo, made = batch.upscale_for_show(run, job, scale=scale, progress=report)
            except images.ImageFileError as error:
                raise ValueError(f"{source.name} {error}") from error
            old, new, notes = photo.pixels.shape, made.shape, photo.notes
            shown = {"before": _shown(photo.pixels, new), "after": _shown(made)}
            line = f"{source.name}: {old[1]}x{old[0]} -> {new[1]}x{new[0]} in "
            line += f"{time.perf_counter() - began:.1f} s" + "".join(f"; {note}" for note in notes if note)
            data = job.target.read_bytes()
            result = Result(job.target.name, data, shown, (new[0], new[1]), line)
        self.forget_old()
        key = secrets.token_urlsafe(12)
        self.results[key] = result
        return key

    def forget_old(self) -> None:
        """Lets go what was made an hour ago."""
        now = time.monotonic()
        for key in [k for k, kept in list(self.results.items()) if kept.made < now - _SECONDS_KEPT]:
            self.forget(key)

    def forget(self, key: str | None) -> None:
        """Lets a result go; nothing happens if it has gone."""
        self.results.pop(key or "", None)


def _shown(pixels: np.ndarray, like: Sequence[int] | None = None) -> bytes:
    """A PNG for the browser; the photo before is enlarged by bicubic to the size of the one after."""
    image_module = pillow("Image")
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    picture = image_module.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    height, width = (like or pixels.shape)[:2]
    shrink = min(1.0, _SHOWN / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    if picture.size != size:
        picture = picture.resize(size, image_module.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def serve(
    sources: Mapping[str, str],
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    browser: bool = True,
    patience: float = 30.0,
) -> None:
    """Serves the page until it is interrupted; prints its address.

    The first of the sources (see `Studio`) is chosen at first. With a host other than this machine's own,
    whoever reaches it may use the page. An upload that pauses for `patience` seconds is ended.
    """
    nicegui = extra("nicegui", "the page needs NiceGUI", "demo")
    studio = Studio(sources)
    nicegui.app.timer(60.0, studio.forget_old)
    _add_files(nicegui.app, studio)
    # A form is a little longer than its file.
    nicegui.app.add_middleware(Guard, host=host, largest=_LARGEST_UPLOAD + 2**20, patience=patience)
    print(f"http://{host}:{port} (Ctrl-C ends it)", flush=True)
    nicegui.ui.run(
        lambda: _Page(nicegui, studio),
        host=host,
        port=port,
        title="vaesr",
        show=browser,
        reload=False,
        favicon="🔍",
        show_welcome_message=False,
        uvicorn_logging_level="error",
    )


def _add_files(app: Any, studio: Studio) -> None:
    """Addresses of the results: pictures to show, and the file to keep."""
    response = importlib.import_module("fastapi").Response
    missing = {"content": "there is no such result any more", "status_code": 404}

    def shown(key: str, which: str) -> Any:
        result = studio.results.get(key)
        if result is None or which not in result.shown:
            return response(**missing)
        return response(result.shown[which], media_type="image/png")

    app.get("/result/{key}/{which}.png")(shown)


def sample_photo() -> tuple[str, bytes] | None:
    """Name and content of a small photo to try the page with, if a package that holds one is installed."""
    try:
        data = package_file(SKIMAGE, "chelsea.png")
    except FileNotFoundError:
        return None
    buffer = io.BytesIO()
    pillow("Image").open(io.BytesIO(data)).crop((110, 20, 290, 155)).save(buffer, format="PNG")
    return "chelsea.png", buffer.getvalue()


class _Page:
    """One visitor's page: photos wait in a row, results in another."""

    def __init__(self, nicegui: Any, studio: Studio) -> None:
        self.ui, self.studio = nicegui.ui, studio
        self.waiting: list[tuple[str, bytes]] = []
        self.last: list[tuple[str, bytes]] = []  # what "Upscale again" means
        self.keys: list[str] = []
        self.gone, self.cancelled = threading.Event(), threading.Event()
        self.working = False
        self.share, self.words, self.shown = 0.0, "", ""
        self._build()
        self.ui.context.client.on_delete(self._leave)

    def _build(self) -> None:
        ui, sources = self.ui, self.studio.sources
        ui.add_head_html(_STYLE + _SCRIPT)
        with ui.row().classes("w-full items-center gap-4"):
            ui.label("vaesr").classes("text-2xl font-bold")
            self.network = ui.select(list(sources), value=next(iter(sources)), label="Network").classes(
                "w-64"
            )
            factors = {0: "its own", 2: "x2", 3: "x3", 4: "x4"}
            self.scale = ui.select(factors, value=0, label="Enlarge").classes("w-28")
            self.upload = ui.upload(
                label="Photos: choose them, or drop them here",
                multiple=True,
                auto_upload=True,
                max_file_size=_LARGEST_UPLOAD,
                on_upload=self._uploaded,
                on_rejected=lambda: ui.notify("images of up to 200 MiB, please", type="negative"),
            ).props("flat bordered accept=image/*")
            self.again = ui.button("Upscale again", on_click=self._again).props("outline")
            self.cancel = ui.button("Cancel", on_click=self._cancel).props("outline color=negative")
            self.keep = ui.button("Download", on_click=self._download).props("color=positive")
            self.keep_all = ui.button("Download all", on_click=self._download_all).props("outline")
        self.status = ui.label("Nothing leaves this machine.").classes("text-gray-600").mark("status")
        self.bar = ui.linear_progress(value=0, show_value=False).props("instant-feedback")
        self.results = ui.row().classes("w-full items-center gap-1")
        self.stage = ui.column().classes("w-full gap-1")
        with self.stage:
            self._invite()
        ui.timer(0.2, self._tell)
        self._set_buttons()

    def _invite(self) -> None:
        """What there is to see before the first photo."""
        ui, sample = self.ui, sample_photo()
        with ui.column().classes("w-full items-center gap-3 welcome"):
            ui.label("Make a small photo large").classes("text-xl font-bold")
            ui.label("1. Choose a network: the first is for photos, anime and animevideo for drawings.")
            ui.label("2. Drop one photo or several above. The first takes longest: the network is compiled.")
            ui.label("3. Draw the border over the picture to compare, zoom, and keep what you like.")
            if sample is not None:
                address = f"data:image/png;base64,{base64.b64encode(sample[1]).decode()}"
                ui.html(f'<img alt="a cat, 180 pixels wide" src="{address}">', sanitize=False)
                ui.button("Try it with this photo", on_click=functools.partial(self._enqueue, [sample]))

    def _set_buttons(self) -> None:
        self.again.set_enabled(bool(self.last) and not self.working)
        self.cancel.set_visibility(self.working)
        self.keep.set_enabled(bool(self.keys))
        self.keep_all.set_visibility(len(self.keys) > 1)
        self.bar.set_visibility(self.working)

    def _leave(self) -> None:
        self.gone.set()
        for key in self.keys:
            self.studio.forget(key)

    def _tell(self) -> None:
        if self.working:
            self.bar.set_value(self.share)
            self.status.text = self.words

    async def _uploaded(self, event: Any) -> None:
        found = [(event.file.name, await event.file.read())]
        self.upload.reset()
        await self._enqueue(found)

    async def _again(self) -> None:
        await self._enqueue(list(self.last))

    def _cancel(self) -> None:
        self.waiting.clear()
        self.cancelled.set()

    async def _enqueue(self, photos: list[tuple[str, bytes]]) -> None:
        """One worker for all that this visitor sends, in that order."""
        if self.working:
            self.last += photos
            self.waiting += photos
            return
        self.last, self.waiting, self.working = list(photos), list(photos), True
        self.cancelled.clear()
        self._set_buttons()
        try:
            while self.waiting and not self.gone.is_set():
                self.cancelled.clear()  # which emptied the row: what stands in it now came later
                await self._work(*self.waiting.pop(0))
        finally:
            self.working = False
            if not self.gone.is_set():
                self._set_buttons()

    async def _work(self, name: str, data: bytes) -> None:
        network, more = self.network.value, len(self.waiting)
        self.share, title = 0.0, f"{name}{f' ({more} more wait)' if more else ''}: "
        self.words = f"{title}{network} is read, and waits for its turn ..."

        def progress(done: float) -> None:
            if self.gone.is_set() or self.cancelled.is_set():
                raise GoneError
            self.share = done
            if done:
                self.words = f"{title}{100 * done:.0f} %"

        def compiling(shape: Any) -> None:
            self.words = title + (f"{network} is compiled for this size ..." if shape else "computing ...")

        call = functools.partial(
            self.studio.upscale, name, data, network, scale=self.scale.value or None, progress=progress,
            on_compile=compiling,
        )  # fmt: skip
        try:
            key = await asyncio.get_running_loop().run_in_executor(None, call)
        except GoneError:
            if not self.gone.is_set():
                self.words = self.status.text = f"{name}: cancelled"
            return
        except Exception as error:  # whatever it is, the page must say it
            self.words = self.status.text = str(error) or type(error).__name__
            self.ui.notify(self.status.text, type="negative", multi_line=True)
            return
        self.keys.append(key)
        if self.gone.is_set():
            self._leave()
            return
        self._show(key)
        self._list()
        line = self.studio.results[key].line + _origin_line(self.studio.network(network))
        self.words = self.status.text = line
        self._set_buttons()

    def _list(self) -> None:
        """A button for each result, where there are several."""
        self.results.clear()
        with self.results:
            for key in self.keys if len(self.keys) > 1 else []:
                result = self.studio.results.get(key)
                if result is not None:
                    show = functools.partial(self._show, key)
                    self.ui.button(result.name, on_click=show).props("dense flat no-caps")

    def _missing(self) -> None:
        self.ui.notify("there is no such result any more: upscale again", type="warning")

    def _download(self) -> None:
        result = self.studio.results.get(self.shown)
        if result is None:
            self._missing()
        else:
            self.ui.download.content(result.data, result.name)

    def _download_all(self) -> None:
        found = [self.studio.results[key] for key in self.keys if key in self.studio.results]
        if not found:
            self._missing()
            return
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:  # images are compressed already
            for number, result in enumerate(found):
                twice = any(result.name == other.name for other in found[:number])
                archive.writestr(f"{number + 1}_{result.name}" if twice else result.name, result.data)
        self.ui.download.content(buffer.getvalue(), "vaesr.zip")

    def _show(self, key: str) -> None:
        ui, result = self.ui, self.studio.results.get(key)
        if result is None:
            self._missing()
            return
        self.shown = key
        self.stage.clear()
        fit = f"min(100%, {result.size[1]}px)"
        pictures = "".join(
            f'<img class="{which}" draggable="false" alt="{which}" src="/result/{key}/{which}.png">'
            for which in ("before", "after")
        )
        with self.stage:
            with ui.row().classes("w-full items-center gap-2"):
                ui.label("before")
                ui.html(
                    '<input class="cut" type="range" min="0" max="100" step="0.1" value="50" '
                    'aria-label="border of before and after">',
                    sanitize=False,
                ).classes("grow")
                ui.label("after")
                for zoom in (1, 2, 4, 8):
                    ui.button(f"{zoom}x", on_click=functools.partial(self._zoom, zoom)).props("dense flat")
            ui.html(
                f'<div class="stage"><div class="pair checked" style="--fit:{fit}">{pictures}'
                '<div class="line"></div></div></div>',
                sanitize=False,
            ).classes("w-full")

    def _zoom(self, zoom: int) -> None:
        self.ui.run_javascript(
            f"document.querySelectorAll('.pair').forEach(e => e.style.setProperty('--zoom', {zoom}))"
        )


def _origin_line(run: Run) -> str:
    origin = run.config.get("origin", {})
    words = [str(origin[name]) for name in ("origin", "licence") if name in origin]
    return f" - weights: {'; '.join(words)}" if words else ""
