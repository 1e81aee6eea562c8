"""A page to look with: `vaesr demo`. Built with NiceGUI, served from this machine, for this machine."""

import asyncio
import dataclasses
import functools
import importlib
import io
import pathlib
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vaesr.app import batch
from vaesr.app.guard import Guard
from vaesr.files import images
from vaesr.files.atomic import scratch_folder
from vaesr.files.extras import extra, pillow
from vaesr.inference.tiling import bind_upscaler
from vaesr.inference.upscalers import load_upscaler
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
        """Begins without results; `sources` are what `load_upscaler` takes, by the name that is shown."""
        self.sources = dict(sources)
        self.results: dict[str, Result] = {}
        self._one_at_a_time = threading.Lock()
        self._load = functools.lru_cache(maxsize=2)(load_upscaler)

    def network(self, name: str) -> Run:
        """Gives the network of a key of `sources`, from memory if it was used lately.

        A ValueError if it cannot be read, or is no upscaler; an OSError if it cannot be read or fetched.
        """
        run = self._load(self.sources[name])
        bind_upscaler(run)
        return run

    def upscale(
        self, name: str, data: bytes, network: str, *, scale: float | None = None, progress: Any = None
    ) -> str:
        """Upscales an uploaded file as `vaesr upscale` does, and returns the result's key in `results`.

        Only the last part of the file's name counts. `network` is a key of `sources`; scale None is the
        network's; `progress` is called as `progress(share)` with what is done, 0 to 1; what it raises ends
        the work. A ValueError says why the file cannot be upscaled, an OSError that the network cannot be
        read or fetched.
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
            if job.bits == 16 or jax.default_backend() == "cpu":
                run = run.precise()
            report = (lambda done, tiles: progress(done / tiles)) if progress else None
            try:
                old, new, notes = batch.upscale_photo(run, job, scale=scale, progress=report)
            except images.ImageFileError as error:
                raise ValueError(f"{source.name} {error}") from error
            before, after = images.read_photo(source).pixels, images.read_photo(job.target).pixels
            shown = {"before": _shown(before, after.shape), "after": _shown(after)}
            line = f"{source.name}: {old[1]}x{old[0]} -> {new[1]}x{new[0]} in "
            line += f"{time.perf_counter() - began:.1f} s" + "".join(f"; {note}" for note in notes if note)
            data = job.target.read_bytes()
            result = Result(job.target.name, data, shown, (new[0], new[1]), line)
        for key in [k for k, kept in self.results.items() if kept.made < result.made - _SECONDS_KEPT]:
            self.forget(key)
        key = secrets.token_urlsafe(12)
        self.results[key] = result
        return key

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
    sources: Mapping[str, str], *, host: str = "127.0.0.1", port: int = 8080, browser: bool = True
) -> None:
    """Serves the page until it is interrupted; prints its address.

    The first of the sources (see `Studio`) is chosen at first. With a host other than this machine's own,
    whoever reaches it may use the page.
    """
    nicegui = extra("nicegui", "the page needs NiceGUI", "demo")
    studio = Studio(sources)
    _add_files(nicegui.app, studio)
    # A form is a little longer than its file.
    nicegui.app.add_middleware(Guard, host=host, largest=_LARGEST_UPLOAD + 2**20)
    print(f"http://{host}:{port} (Ctrl-C ends it)", flush=True)
    nicegui.ui.run(
        functools.partial(_page, nicegui, studio),
        host=host,
        port=port,
        title="vaesr",
        show=browser,
        reload=False,
        favicon="🔍",
        show_welcome_message=False,
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


def _page(nicegui: Any, studio: Studio) -> None:
    ui = nicegui.ui
    ui.add_head_html(_STYLE + _SCRIPT)
    state: dict[str, Any] = {"file": None, "key": None}
    gone = threading.Event()

    def leave() -> None:
        gone.set()
        studio.forget(state["key"])

    ui.context.client.on_delete(leave)

    with ui.row().classes("w-full items-center gap-4"):
        ui.label("vaesr").classes("text-2xl font-bold")
        network = ui.select(list(studio.sources), value=next(iter(studio.sources)), label="Network").classes(
            "w-64"
        )
        scale = ui.select({0: "its own", 2: "x2", 3: "x3", 4: "x4"}, value=0, label="Enlarge").classes("w-28")
        upload = ui.upload(
            label="A photo: choose it, or drop it here",
            auto_upload=True,
            max_file_size=_LARGEST_UPLOAD,
        ).props("flat bordered accept=image/*")
        again = ui.button("Upscale again").props("outline")
        again.disable()
        keep = ui.button("Download").props("color=positive")
        keep.disable()
    status = ui.label("Nothing leaves this machine.").classes("text-gray-600").mark("status")
    bar = ui.linear_progress(value=0, show_value=False).props("instant-feedback")
    bar.visible = False
    stage = ui.column().classes("w-full gap-1")

    def download() -> None:
        result = studio.results.get(state["key"])
        if result is None:
            ui.notify("there is no such result any more: upscale again", type="warning")
        else:
            ui.download.content(result.data, result.name)

    def show(result: Result, key: str) -> None:
        stage.clear()
        fit = f"min(100%, {result.size[1]}px)"
        pictures = "".join(
            f'<img class="{which}" draggable="false" alt="{which}" src="/result/{key}/{which}.png">'
            for which in ("before", "after")
        )
        with stage:
            with ui.row().classes("w-full items-center gap-2"):
                ui.label("before")
                ui.html(
                    '<input class="cut" type="range" min="0" max="100" step="0.1" value="50" '
                    'aria-label="border of before and after">',
                    sanitize=False,
                ).classes("grow")
                ui.label("after")
                for zoom in (1, 2, 4, 8):
                    ui.button(f"{zoom}x", on_click=functools.partial(set_zoom, zoom)).props("dense flat")
            ui.html(
                f'<div class="stage"><div class="pair checked" style="--fit:{fit}">{pictures}'
                '<div class="line"></div></div></div>',
                sanitize=False,
            ).classes("w-full")

    def set_zoom(zoom: int) -> None:
        ui.run_javascript(
            f"document.querySelectorAll('.pair').forEach(e => e.style.setProperty('--zoom', {zoom}))"
        )

    async def work() -> None:
        name, data = state["file"]
        for knob in (upload, again, keep):
            knob.disable()
        bar.value, bar.visible = 0, True
        status.text = f"{name}: {network.value} at work ..."
        share = [0.0]

        def progress(done: float) -> None:
            if gone.is_set():
                raise GoneError
            share[0] = done

        timer = ui.timer(0.2, lambda: bar.set_value(share[0]))
        call = functools.partial(
            studio.upscale,
            name,
            data,
            network.value,
            scale=scale.value or None,
            progress=progress,
        )
        try:
            key = await asyncio.get_running_loop().run_in_executor(None, call)
        except GoneError:
            return
        except Exception as error:  # whatever it is, the page must say it
            status.text = str(error) or type(error).__name__
            ui.notify(status.text, type="negative", multi_line=True)
        else:
            studio.forget(state["key"])
            state["key"] = key
            if gone.is_set():
                leave()
                return
            show(studio.results[key], key)
            status.text = studio.results[key].line + _origin_line(studio.network(network.value))
            keep.enable()
        finally:
            timer.cancel()
            if not gone.is_set():
                bar.visible = False
                upload.enable()
                again.enable()

    async def uploaded(event: Any) -> None:
        state["file"] = (event.file.name, await event.file.read())
        upload.reset()
        await work()

    upload.on_upload(uploaded)
    upload.on_rejected(lambda: ui.notify("images of up to 200 MiB, please", type="negative"))
    again.on_click(work)
    keep.on_click(download)


def _origin_line(run: Run) -> str:
    origin = run.config.get("origin", {})
    words = [str(origin[name]) for name in ("origin", "licence") if name in origin]
    return f" - weights: {'; '.join(words)}" if words else ""
