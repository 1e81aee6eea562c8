"""Upscaling whole photos and in tiles, as `vaesr upscale` does, beside torch and ncnn.

Throughput is in megapixels of the input a second: the tables' "images" are megapixels here. The networks
have the published weights where their package is installed, which ncnn needs; torch takes any. A photo that
does not fit the memory whole goes through the peers in the first windows asked for, or the command's.
"""

import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import flops, timing, trainings
from benchmarks.options import Options
from benchmarks.peers import torch_common
from vaesr.imaging import tiled_apply
from vaesr.inference.tiling import BoundUpscaler, auto_tile, bind_upscaler, memory_budget, with_margin
from vaesr.inference.upscaling import upscale
from vaesr.models.edsr import EDSR
from vaesr.models.rrdb import RRDBNet
from vaesr.models.srvgg import SRVGGNetCompact
from vaesr.runs.load import Run

# Published weights, or "" where there are none; the network; and what a CPU's core upscales in seconds.
_NETWORKS: dict[str, tuple[str, Any, tuple[int, int]]] = {
    "rrdb23": ("RealESRGAN_x4plus", RRDBNet(), (128, 128)),
    "rrdb6": ("RealESRGAN_x4plus_anime_6B", RRDBNet(blocks=6), (256, 256)),
    "srvgg": ("realesr-animevideov3", SRVGGNetCompact(convs=16), (256, 256)),
    "edsr_baseline": ("", EDSR(scale=2, channels=64, blocks=16), (256, 256)),
}
# Operations of a photo from which a call on a CPU's core takes many seconds.
_SLOW = 1e12
# Outputs are compared on the photo's first so many pixels a side.
_PART = 128


class _Job(NamedTuple):
    """A network and a photo, as the peers get them.

    Attributes:
        name: the network's.
        run: its weights, in float32.
        part: `[1, h, w, 3]`, what outputs are compared on.
        reference: `[H, W, 3]`, the network's of the part.
        repeated: makes a side's `run` of a function `[1, h, w, 3]` floats -> `[1, H, W, 3]` bytes.
        megapixels: of the whole photo.
        options: the run's settings.
    """

    name: str
    run: Run
    part: np.ndarray
    reference: np.ndarray
    repeated: Callable[[Callable[[Any], np.ndarray]], Callable[[int], None]]
    megapixels: float
    options: Options


def names() -> list[str]:
    """What can be asked for: the networks."""
    return list(_NETWORKS)


def cases(options: Options) -> Iterator[timing.Case]:
    """Every network on every size: whole, in tiles where the photo is larger than one, and peers.

    `options.sizes` stand in place of the suite's own.
    """
    small: list[Any] = []
    for name, (weights, model, size) in _NETWORKS.items():
        if not options.wants(name):
            continue
        if options.smoke:
            weights, model, size = "", trainings.shrunk(model), (40, 48)
            if model in small:  # of networks of one kind the first
                continue
            small.append(model)
        sizes = options.sizes or (((256, 256), (1080, 1920)) if options.accelerator else (size,))
        run = _network(weights, model)
        for height, width in sizes:
            case, job = _ours(name, run, _photo(height, width), options)
            for peer, add in (("torch", _add_torch), ("ncnn", _add_ncnn)):
                if peer in options.peers:
                    add(case, job)
            yield case


def _network(weights: str, model: Any) -> Run:
    """The published network where its weights are at hand, else one of random weights."""
    from vaesr.inference.networks import load_network

    if weights and _published_files(weights):
        return load_network(weights)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    rng = np.random.default_rng(0)

    def fill(leaf: Any) -> np.ndarray:
        spread = (1.0 / max(1, int(np.prod(leaf.shape[:-1])))) ** 0.5
        return rng.normal(0, spread, leaf.shape).astype(np.float32)

    return Run(pathlib.Path("random"), model, {"generator": jax.tree.map(fill, shapes)}, {}, {"model": {}}, 0)


def _published_files(weights: str) -> str:
    """Path of ncnn's two files without their endings, or "" where the package is not installed."""
    import importlib.util

    from vaesr.pretrained import PUBLISHED

    spec = importlib.util.find_spec(PUBLISHED[weights].package.replace("-", "_"))
    places = list(spec.submodule_search_locations or []) if spec else []
    return str(pathlib.Path(places[0]) / "models" / PUBLISHED[weights].stem) if places else ""


def _photo(height: int, width: int) -> np.ndarray:
    """Smooth with edges, uint8 `[H, W, 3]`."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(size=(height // 8 + 2, width // 8 + 2, 3)).repeat(8, 0).repeat(8, 1)
    image = (coarse + np.roll(coarse, 3, 0) + np.roll(coarse, 5, 1))[:height, :width] / 3
    return np.rint(image * 255).astype(np.uint8)


def _ours(name: str, run: Run, photo: np.ndarray, options: Options) -> tuple[timing.Case, _Job]:
    """A case with our sides, and what the peers need."""
    exact = run
    if options.accelerator:
        run = run.with_dtype(jnp.bfloat16)
    net = with_margin(bind_upscaler(run), None)
    height, width = photo.shape[:2]
    fits = height * width * net.bytes_per_pixel <= 2 * memory_budget()
    megapixels = height * width / 1e6
    one = photo[None].astype(np.float32) / 255
    work = _work(exact, one.shape)
    kind = jnp.dtype(getattr(run.model, "dtype", jnp.float32)).name
    title = f"{name} x{net.scale}, {width}x{height}, {kind}, megapixels"
    slow = not options.accelerator and work > _SLOW
    case = timing.Case(
        "tiles", title, [], {"passed": True, "output": 0.0, "losses": 0.0}, long=True, slow=slow
    )
    first: np.ndarray | None = None
    for cut in options.tiles if not options.smoke else ("whole", "16", "auto"):
        tile = {"whole": 0, "auto": None}[cut] if cut in ("whole", "auto") else int(cut)
        side_name = f"vaesr tile {tile}" if tile else f"vaesr {cut}"
        if tile == 0 and not fits:
            case.absent.append((side_name, "needs more than half of the memory"))
        elif tile and max(height, width) <= tile + 2 * (net.halo or 0):
            case.absent.append((side_name, "one window holds the whole photo"))
        else:
            call = functools.partial(upscale, run, photo, tile=tile)
            side = timing.Side(side_name, "vaesr", _repeat(call), megapixels)
            if slow and len(options.tiles) == 1:
                _compile(run, net, photo, tile)
            elif first is None:
                first = call()
            else:
                side.note = _differences(case, net, call(), first, options)
            side.work_per_step = work if tile == 0 else None
            case.sides.append(side)

    # What does not fit goes through the peers in our first side's windows.
    cut = options.tiles[0]
    tile_of_peers = None
    if not fits:
        tile_of_peers = (int(cut), int(cut)) if cut.isdecimal() else auto_tile(height, width, net)

    def repeated(call: Callable[[Any], np.ndarray]) -> Callable[[int], None]:
        if tile_of_peers is None:
            return _repeat(functools.partial(call, one))
        knobs: Any = {"scale": net.scale, "tile": tile_of_peers, "halo": net.halo or 0}
        return _repeat(functools.partial(tiled_apply, call, one[0], **knobs))

    part = one[:, :_PART, :_PART]
    reference = np.asarray(bind_upscaler(exact.precise()).apply(part))[0]
    return case, _Job(name, exact, part, reference, repeated, megapixels, options)


def _compile(run: Run, net: BoundUpscaler, photo: np.ndarray, tile: int | None) -> None:
    """Runs one window, where the whole photo takes minutes."""
    inner = auto_tile(*photo.shape[:2], net) if tile is None else (tile, tile)
    rows, columns = (side + 2 * (net.halo or 0) for side in inner or photo.shape[:2])
    upscale(run, photo[:rows, :columns], tile=0)


def _differences(
    case: timing.Case, net: BoundUpscaler, out: np.ndarray, first: np.ndarray, options: Options
) -> str:
    """How far a result in tiles is from the first side's; words for the side, and the case's equality."""
    difference = np.abs(out.astype(np.float32) - first.astype(np.float32)) / 255
    most, mean = float(difference.max()), float(difference.mean())
    # Equal but for rounding to 8 bits (and bfloat16's), or, where the margin is below the radius, nearly.
    near = mean < 1 / 255 if net.feather else most < (3.5 if options.accelerator else 1.5) / 255
    assert case.parity is not None
    case.parity["passed"] = bool(case.parity["passed"] and near)
    return f"differs from {case.sides[0].name} by {most:.2g}, in the mean by {mean:.2g}"


def _work(run: Run, shape: tuple[int, ...]) -> float:
    """Operations of the whole photo by plain convolutions."""
    forms: Any = {"conv_form": "direct"}
    model: Any = run.model.clone(**forms)
    return flops.count(model.apply, run.collections, jax.ShapeDtypeStruct(shape, jnp.float32)).total


def _repeat(call: Callable[[], Any]) -> Callable[[int], None]:
    def run(calls: int) -> None:
        for _ in range(calls):
            call()

    return run


def _compare(case: timing.Case, found: np.ndarray, wanted: np.ndarray, most: float) -> None:
    assert case.parity is not None
    difference = float(np.abs(found - wanted).max())
    case.parity["output"] = max(case.parity["output"], difference)
    case.parity["passed"] = bool(case.parity["passed"] and difference <= most)


def _add_torch(case: timing.Case, job: _Job) -> None:
    if not torch_common.available():
        case.absent.append(("torch", torch_common.ABSENT))
        return
    torch = torch_common.load(job.options.threads)
    device = torch_common.device()
    kind = torch.bfloat16 if job.options.accelerator else torch.float32

    def through(network: Any, memory_format: Any, image: np.ndarray, kind: Any) -> Any:
        x = torch.from_numpy(image).to(device).permute(0, 3, 1, 2)
        with torch.inference_mode():
            return network(x.to(dtype=kind, memory_format=memory_format)).permute(0, 2, 3, 1).float()

    def bytes_out(network: Any, memory_format: Any, image: np.ndarray) -> np.ndarray:
        """As ours: bytes, on the host."""
        y = through(network, memory_format, image, kind)
        return np.asarray(y.clamp(0, 1).mul(255).round().to(torch.uint8).cpu())

    with torch_common.exact():
        network = _torch_network(job.run)
        found = through(network, torch.contiguous_format, job.part, torch.float32)[0].cpu().numpy()
    _compare(case, found, job.reference, 1e-4 * max(1.0, float(np.abs(job.reference).max())))
    formats = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    for mode, compiled in torch_common.modes(job.options):
        for words, memory_format in formats.items():
            name = f"torch {mode} {words}"
            if case.slow and words == "contiguous":
                case.absent.append((name, "slower than channels_last on every smaller photo"))
                continue
            network = _torch_network(job.run).to(dtype=kind, memory_format=memory_format)
            call: Any = network if compiled is None else torch.compile(network, mode=compiled)
            run = job.repeated(functools.partial(bytes_out, call, memory_format))
            if case.slow and compiled is not None:
                run(1)  # which compiles
            case.sides.append(timing.Side(name, "torch", run, job.megapixels))


def _torch_network(run: Run) -> Any:
    """The same network in torch, on its device."""
    from benchmarks.peers import torch_sr

    network = torch_sr.load(torch_sr.counterpart(run.model), torch_common.host(run.collections["params"]))
    return network.to(torch_common.device()).eval()


def _add_ncnn(case: timing.Case, job: _Job) -> None:
    try:
        import ncnn
    except ImportError:
        case.absent.append(("ncnn", "ncnn is not installed"))
        return
    weights = _NETWORKS[job.name][0]
    files = _published_files(weights) if weights else ""
    if job.options.accelerator or job.options.smoke or not files:
        absent = "has no such network, or its package is not installed"
        case.absent.append(("ncnn", "runs on CPUs here" if job.options.accelerator else absent))
        return
    net = ncnn.Net()
    net.opt.use_vulkan_compute, net.opt.num_threads = False, job.options.threads or 1
    # float32 as the others; its Winograd convolutions stay on.
    for half in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{half}", False)
    net.load_param(f"{files}.param")
    net.load_model(f"{files}.bin")

    def call(image: np.ndarray) -> np.ndarray:
        planes = np.ascontiguousarray(image[0].transpose(2, 0, 1))  # which ncnn.Mat does not keep alive
        extractor = net.create_extractor()
        extractor.input("data", ncnn.Mat(planes).clone())
        out = np.array(extractor.extract("output")[1]).transpose(1, 2, 0)
        return np.rint(out.clip(0, 1) * 255).astype(np.uint8)[None]

    _compare(case, call(job.part)[0].astype(np.float32) / 255, job.reference.clip(0, 1), 1.6 / 255)
    case.sides.append(timing.Side("ncnn", "ncnn", job.repeated(call), job.megapixels))
