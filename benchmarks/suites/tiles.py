"""Upscaling whole photos and in tiles, as `vaesr upscale` does, beside torch and ncnn.

Throughput is in megapixels of the input a second: the tables' "images" are megapixels here. The networks have
the published weights where their package is installed, which ncnn needs; torch takes any.
"""

import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import flops, timing
from benchmarks.options import Options
from benchmarks.peers import torch_common
from vaesr.inference.networks import Network, network_of, with_margin
from vaesr.inference.runs import Run
from vaesr.inference.upscaling import upscale
from vaesr.models.edsr import EDSR
from vaesr.models.rrdb import RRDBNet
from vaesr.models.srvgg import SRVGGNetCompact

# Published weights, or "" where there are none; the network; and what a CPU's core upscales in seconds.
_NETWORKS: dict[str, tuple[str, Any, tuple[int, int]]] = {
    "rrdb23": ("RealESRGAN_x4plus", RRDBNet(), (128, 128)),
    "rrdb6": ("RealESRGAN_x4plus_anime_6B", RRDBNet(blocks=6), (256, 256)),
    "srvgg": ("realesr-animevideov3", SRVGGNetCompact(convs=16), (256, 256)),
    "edsr_baseline": ("", EDSR(scale=2, channels=64, blocks=16), (256, 256)),
}
_SMOKE: dict[str, Any] = {
    "rrdb6": RRDBNet(channels=8, growth=4, blocks=1),
    "srvgg": SRVGGNetCompact(channels=8, convs=2),
    "edsr_baseline": EDSR(scale=2, channels=8, blocks=1),
}
_TILES = (128, 512)


def cases(options: Options) -> Iterator[timing.Case]:
    """The suite's cases.

    Args:
        options: the run's settings; `sizes` in place of the suite's own.

    Yields:
        Every network on every size: whole, in tiles where the photo is larger than one, and peers.
    """
    for name, (weights, model, size) in _NETWORKS.items():
        if not options.wants(name) or (options.smoke and name not in _SMOKE):
            continue
        if options.smoke:
            weights, model, size = "", _SMOKE[name], (40, 48)
        sizes = options.sizes or (((256, 256), (1080, 1920)) if options.accelerator else (size,))
        run = _network(weights, model)
        for height, width in sizes:
            yield _case(name, run, _photo(height, width), options)


def _network(weights: str, model: Any) -> Run:
    """The published network where its weights are at hand, else one of random weights."""
    from vaesr.inference.others import load_upscaler

    if weights and _published_files(weights):
        return load_upscaler(weights)
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


def _case(name: str, run: Run, photo: np.ndarray, options: Options) -> timing.Case:
    exact = run
    if options.accelerator:
        run = run.with_dtype(jnp.bfloat16)
    net = network_of(run)
    height, width = photo.shape[:2]
    megapixels = height * width / 1e6
    one = photo[None].astype(np.float32) / 255
    work = _work(exact, one.shape)
    whole = functools.partial(upscale, run, photo, tile=0)
    wanted = whole()
    kind = jnp.dtype(getattr(run.model, "dtype", jnp.float32)).name
    title = f"{name} x{net.scale}, {width}x{height}, {kind}, megapixels"
    sides = [timing.Side("vaesr whole", "vaesr", _repeat(whole), megapixels, work_per_step=work)]
    parity: dict[str, Any] = {"passed": True, "output": 0.0, "losses": 0.0}
    for tile in _TILES if not options.smoke else (16,):
        if max(height, width) <= tile + 2 * _margin(net):
            continue
        tiled = functools.partial(upscale, run, photo, tile=tile)
        difference = np.abs(tiled().astype(np.float32) - wanted.astype(np.float32)) / 255
        most, mean = float(difference.max()), float(difference.mean())
        note = f"differs from the whole by {most:.2g}, in the mean by {mean:.2g}"
        # Equal but for rounding to 8 bits (and bfloat16's), or, where the margin is below the radius, nearly.
        levels = 3.5 if options.accelerator else 1.5
        exact_tiles = net.halo is not None and _margin(net) >= net.halo
        parity["passed"] &= most < levels / 255 if exact_tiles else mean < 1 / 255
        sides.append(timing.Side(f"vaesr tile {tile}", "vaesr", _repeat(tiled), megapixels, note=note))
    sides.append(
        timing.Side("vaesr auto", "vaesr", _repeat(functools.partial(upscale, run, photo)), megapixels)
    )
    case = timing.Case("tiles", title, sides, parity)
    reference = np.asarray(network_of(exact.precise()).apply(one))[0]
    if "torch" in options.peers:
        _add_torch(case, name, exact, one, reference, megapixels, options)
    if "ncnn" in options.peers:
        _add_ncnn(case, name, one[0], reference, megapixels, options)
    return case


def _margin(net: Network) -> int:
    return with_margin(net, None).halo or 0


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


def _compare(parity: dict[str, Any], found: np.ndarray, wanted: np.ndarray, most: float) -> None:
    difference = float(np.abs(found - wanted).max())
    parity["output"] = max(parity["output"], difference)
    parity["passed"] = bool(parity["passed"] and difference <= most)


def _add_torch(
    case: timing.Case,
    name: str,
    run: Run,
    image: np.ndarray,
    reference: np.ndarray,
    megapixels: float,
    options: Options,
) -> None:
    if not torch_common.available():
        case.absent.append(("torch", "torch is not installed"))
        return
    torch = torch_common.load(options.threads)
    kind = torch.bfloat16 if options.accelerator else torch.float32
    given = torch.from_numpy(image.transpose(0, 3, 1, 2).copy()).to(torch_common.device())

    def through(network: Any, x: Any) -> Any:
        with torch.inference_mode():
            return network(x)

    def bytes_out(network: Any, x: Any) -> np.ndarray:
        """As ours: bytes, on the host."""
        y = through(network, x)[0].float().clamp(0, 1).mul(255).round().to(torch.uint8)
        return np.asarray(y.permute(1, 2, 0).cpu())

    with torch_common.exact():
        found = through(_torch_network(name, run), given)[0].float().cpu().numpy().transpose(1, 2, 0)
    _compare(case.parity or {}, found, reference, 1e-4 * max(1.0, float(np.abs(reference).max())))
    formats = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    for mode, compiled in torch_common.modes(options):
        for words, memory_format in formats.items():
            network = _torch_network(name, run).to(dtype=kind, memory_format=memory_format)
            x = given.to(dtype=kind, memory_format=memory_format)
            call: Any = network if compiled is None else torch.compile(network, mode=compiled)
            run_it = _repeat(functools.partial(bytes_out, call, x))
            case.sides.append(timing.Side(f"torch {mode} {words}", "torch", run_it, megapixels))


def _torch_network(name: str, run: Run) -> Any:
    """The same network in torch, on its device."""
    from benchmarks.peers import torch_edsr, torch_sr

    model: Any = run.model
    params = jax.tree.map(np.asarray, run.collections["params"])
    if isinstance(model, EDSR):
        network = torch_edsr.build(
            scale=model.scale,
            channels=model.channels,
            blocks=model.blocks,
            residual_scale=model.residual_scale,
        )
        torch_edsr.load_params(network, params)
    elif isinstance(model, RRDBNet):
        network = torch_sr.load(
            torch_sr.RRDBNet(model.scale, model.channels, model.growth, model.blocks), params
        )
    else:
        network = torch_sr.load(torch_sr.SRVGG(model.scale, model.channels, model.convs), params)
    return network.to(torch_common.device()).eval()


def _add_ncnn(
    case: timing.Case,
    name: str,
    image: np.ndarray,
    reference: np.ndarray,
    megapixels: float,
    options: Options,
) -> None:
    try:
        import ncnn
    except ImportError:
        case.absent.append(("ncnn", "ncnn is not installed"))
        return
    files = "" if options.smoke or not _NETWORKS[name][0] else _published_files(_NETWORKS[name][0])
    if not files or options.accelerator:
        reason = "runs on CPUs here" if files else "has no such network, or its package is not installed"
        case.absent.append(("ncnn", reason))
        return
    net = ncnn.Net()
    net.opt.use_vulkan_compute, net.opt.num_threads = False, options.threads or 1
    # float32 as the others; its Winograd convolutions stay on.
    for half in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{half}", False)
    net.load_param(f"{files}.param")
    net.load_model(f"{files}.bin")
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))

    def call() -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("data", ncnn.Mat(planes).clone())
        out = np.array(extractor.extract("output")[1]).transpose(1, 2, 0)
        return np.rint(out.clip(0, 1) * 255).astype(np.uint8)

    _compare(case.parity or {}, call().astype(np.float32) / 255, reference.clip(0, 1), 1.6 / 255)
    case.sides.append(timing.Side("ncnn", "ncnn", _repeat(call), megapixels))
