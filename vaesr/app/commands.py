"""What the subcommands of `vaesr` do with their parsed arguments."""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import re
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vaesr import inference
from vaesr.app import batch, zero_shot
from vaesr.app.arguments import output_path
from vaesr.app.status import Status
from vaesr.files.arrays import read_npz
from vaesr.files.atomic import atomic_file, cache_root, write_atomically
from vaesr.files.images import ImageFileError, read_photo
from vaesr.imaging import imresize
from vaesr.imaging.colour import BT601_LUMA
from vaesr.inference.networks import load_network
from vaesr.inference.tiling import bind_upscaler
from vaesr.models import Autoencoder, CodeAutoencoder, NoiseAutoencoder
from vaesr.pretrained import PUBLISHED
from vaesr.reports.grids import save_grid
from vaesr.runs.load import Run, load_run

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_MANY = 1024
_DEFAULT_NETWORK = "RealESRGAN_x4plus"


def upscale(args: argparse.Namespace) -> int:
    """Carries out `vaesr upscale`; returns the exit code."""
    if args.image and args.input:
        given = " ".join(args.image)
        raise batch.UsageError(f"the input is given twice, {given!r} and -i {args.input!r}: give one")
    if not (args.image or args.input):
        raise batch.UsageError("give image files, a folder or a glob pattern in quotes")
    knobs = {"suffix": args.suffix, "extension": args.ext, "skip_existing": args.skip_existing}
    jobs = batch.plan_jobs(args.image or args.input, args.output, recursive=args.recursive, **knobs)
    kept = sum(job.done for job in jobs)
    if kept:
        print(f"{kept} of {len(jobs)} results are there already: skipped")
    if kept == len(jobs):
        return 0
    if args.devices:
        _choose_devices(args.devices)
    if args.model_name in zero_shot.NAMES and not args.model_path:
        return _upscale_zero_shot(args, jobs)
    for flag in ("kernel", "noise", "steps"):
        if getattr(args, flag) is not None:
            raise batch.UsageError(f"--{flag} is for -n zssr and -n kernelgan, which train for each photo")
    with Status(quiet=args.quiet) as status:
        status.stage("reading weights")
        network = load_network(_network_of(args), which=args.which, residual_scale=args.residual_scale)
        if args.denoise is not None:
            network = _denoising(network, args)
        if not args.quiet:
            _introduce(network, status)
        factor = args.outscale or bind_upscaler(network).scale
        batch.fit_formats(jobs, factor, suffix=args.suffix)
        large = batch.check_sizes(jobs, factor)
        if large and not args.yes:
            _ask(large, status)
        failed = batch.upscale_files(
            network,
            jobs,
            scale=args.outscale,
            tile=args.tile,
            tile_pad=args.tile_pad,
            self_ensemble=args.self_ensemble,
            precision="float32" if args.fp32 else "float16" if args.fp16 else "own",
            alpha="bicubic" if args.alpha_upsampler == "bicubic" else "network",
            crf=args.crf,
            metadata=args.metadata,
            say=(lambda line: None) if args.quiet else None,
            status=status,
            on_error=traceback.print_exception if args.debug else None,
        )
    return batch.report(args.command, [(str(job.source), why) for job, why in failed], len(jobs) - kept)


def _upscale_zero_shot(args: argparse.Namespace, jobs: list[batch.Job]) -> int:
    """`vaesr upscale` with a network for each photo."""
    zero_shot.check(
        args, ("denoise", "denoise_path", "tile", "tile_pad", "self_ensemble", "residual_scale", "fp16")
    )
    estimate = args.model_name == "kernelgan"
    if estimate and args.kernel is not None:
        raise batch.UsageError("-n kernelgan estimates the kernel that --kernel gives: take -n zssr")
    kernel = zero_shot.read_kernel(args.kernel) if args.kernel is not None else None
    factor = 2.0 if args.outscale is None else args.outscale
    zero_shot.network_scale(factor, estimate=estimate)
    batch.fit_formats(jobs, factor, suffix=args.suffix)
    with Status(quiet=args.quiet) as status:
        large = batch.check_sizes(jobs, factor)
        if large and not args.yes:
            _ask(large, status)
        failed = zero_shot.upscale_files(
            jobs,
            estimate=estimate,
            scale=args.outscale,
            kernel=kernel,
            noise=args.noise,
            steps=args.steps or 3000,
            metadata=args.metadata,
            status=status,
            say=(lambda line: None) if args.quiet else None,
            on_error=traceback.print_exception if args.debug else None,
        )
    total = sum(not job.done for job in jobs)
    return batch.report(args.command, [(str(job.source), why) for job, why in failed], total)


def _choose_devices(numbers: Sequence[int]) -> None:
    """Must come before JAX looks for devices."""
    if numbers == (-1,):
        jax.config.update("jax_platforms", "cpu")
        return
    jax.config.update("jax_cuda_visible_devices", ",".join(map(str, numbers)))
    jax.config.update("jax_rocm_visible_devices", ",".join(map(str, numbers)))
    if jax.default_backend() == "cpu":
        print(f"-g {','.join(map(str, numbers))}: JAX finds no GPU here, the CPU computes", file=sys.stderr)


def _network_of(args: argparse.Namespace) -> str:
    """What -m and -n name: with both a file of that name in the folder, as ncnn's programs have them."""
    if not args.model_path:
        return str(args.model_name or _DEFAULT_NETWORK)
    if not args.model_name:
        return str(args.model_path)
    folder = pathlib.Path(args.model_path).expanduser()
    if not folder.is_dir() or (folder / "config.json").exists():
        raise batch.UsageError(f"-n names a file in the folder -m, but {args.model_path!r} is no such folder")
    for ending in ("", ".param", ".pth", ".pt", ".safetensors"):
        path = folder / (args.model_name + ending)
        if path.exists():
            return str(path)
    raise batch.UsageError(f"-n: {str(folder)!r} holds no {args.model_name}.param, .pth, .pt or .safetensors")


def _introduce(network: Run, status: Status) -> None:
    """Says whose weights they are, the first time that they are used."""
    origin = network.config.get("origin")
    if origin is None:
        return
    mark = cache_root() / "introduced" / origin.get("sha256", origin.get("weights", ""))
    if not mark.exists():
        status.say(_origin(origin))
        with contextlib.suppress(OSError):
            write_atomically(mark, b"")


def _ask(question: str, status: Status) -> None:
    """Goes on only if whoever sits at the terminal says so."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise batch.UsageError(f"-s: {question}; give --yes if that is meant")
    status.say(f"{question}. Go on? [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise batch.UsageError("nothing was done")


def _denoising(network: Run, args: argparse.Namespace) -> Run:
    """The network mixed with one that keeps noise, as Real-ESRGAN's -dn does for realesr-general-x4v3."""
    other = args.denoise_path
    if other is None:
        if not args.model_path:
            raise batch.UsageError("-dn mixes two networks: give --model-path, and --denoise-path")
        path = pathlib.Path(args.model_path).expanduser()
        beside = path.with_name(re.sub(r"-(x\d+v\d+)", r"-wdn-\1", path.name))
        if beside == path or not beside.exists():
            raise batch.UsageError(
                f"-dn needs a network that keeps noise: beside {path.name} with -wdn, or --denoise-path"
            )
        other = beside
    keeps = load_network(other, which=args.which, residual_scale=args.residual_scale)
    mixed = inference.interpolate(keeps.params, network.params, args.denoise)
    return dataclasses.replace(network, params=mixed, _compiled={})


def export(args: argparse.Namespace) -> int:
    """Carries out `vaesr export`; returns the exit code."""
    output = output_path(args.output, (".onnx", ".stablehlo"))
    run = load_network(args.network, which=args.which, residual_scale=args.residual_scale)
    if "origin" in run.config:
        print(_origin(run.config["origin"]))
    difference = inference.write_export(
        run, output, scale=args.scale, size=args.size, layout=args.layout, platforms=args.platforms
    )
    print(
        f"{output}: {output.stat().st_size / 2**20:.1f} MiB; its results are within {difference:.1g} of "
        f"the network's"
    )
    return 0


def demo(args: argparse.Namespace) -> int:
    """Carries out `vaesr demo`; returns the exit code."""
    from vaesr.app.demo import serve  # for which the other commands need not wait

    # As given: run folders of many experiments are all called "default".
    sources = {name: name for name in (*args.model_path, *PUBLISHED)}
    for path in args.model_path:
        bind_upscaler(load_network(path))  # refused now, not when a visitor chooses it
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((args.host, args.port))
        except OSError as error:
            raise OSError(f"cannot listen at {args.host}:{args.port}: {error.strerror or error}") from error
    serve(sources, host=args.host, port=args.port, browser=not args.no_browser)
    return 0


def _origin(origin: dict[str, Any]) -> str:
    """Whose weights they are, in a line."""
    if "sha256" in origin:
        return f"{origin['file']}: {origin['network']}, sha256 {origin['sha256']}"
    return f"{origin['weights']}: {origin['origin']}, from {origin['package']}; licence: {origin['licence']}"


def sample(args: argparse.Namespace) -> int:
    """Carries out `vaesr sample`; returns the exit code."""
    output = output_path(args.output, (*_PICTURES, ".npy"))
    array = output_path(args.npy, (".npy",)) if args.npy else None
    run = load_network(args.run, which=args.which)
    discrete = isinstance(run.model, CodeAutoencoder)
    if not discrete and (args.label is not None or args.top_k or args.classifier):
        raise ValueError(f"--label, --top-k and --classifier need the run of a VQ-VAE; {run.path} is none")
    if args.readjust:
        # Whatever samples are drawn, they are drawn with the same statistics.
        run = inference.readjust(run, args.temperature, passes=args.readjust)
    if discrete:
        pictures = _sample_codes(run, args)
    else:
        pictures = inference.sample(run, args.count, seed=args.seed, temperature=args.temperature)
    if array is not None:
        _save_npy(array, pictures)
    _save_images(output, pictures, args.columns)
    return 0


def _sample_codes(run: Run, args: argparse.Namespace) -> np.ndarray:
    """Images from a run's priors, those that a classifier rejects left out."""
    knobs = {"seed": args.seed, "label": args.label, "temperature": args.temperature, "top_k": args.top_k}
    if not args.classifier:
        return inference.sample_images(run, args.count, **knobs)[0]
    classifier = load_run(args.classifier)
    more = int(np.ceil(args.count / args.keep))
    pictures, labels = inference.sample_images(run, more, **knobs)
    if labels is None:
        raise ValueError(f"--classifier needs priors that know classes; those of {run.path} don't")
    kept = inference.reject_samples(
        pictures, labels, lambda images: np.asarray(jax.nn.log_softmax(classifier.apply(images))), args.keep
    )
    return pictures[kept][: args.count]


def encode(args: argparse.Namespace) -> int:
    """Carries out `vaesr encode`; returns the exit code."""
    if args.decode:
        output = output_path(args.output, (*_PICTURES, ".npy"))
        run = load_network(args.run, which=args.which)
        discrete = isinstance(run.model, CodeAutoencoder)
        kind = "codes_0" if discrete else "noise" if isinstance(run.model, NoiseAutoencoder) else "mean_q"
        codes = _read_codes(pathlib.Path(args.decode).expanduser(), kind)
        decoded = inference.decode_maps(run, codes) if discrete else inference.decode(run, codes[0])
        _save_images(output, decoded, args.columns)
        return 0
    output = output_path(args.output, (".npz",))
    run = load_network(args.run, which=args.which)
    failed: list[tuple[str, str]] = []
    if args.data:
        pictures, names, labels = _from_source(args.data, args.split)
        total = len(names)
    else:
        pictures, names, failed, total = _from_files(args.input, run, args.resize)
        labels = None
    if names:
        content: dict[str, Any] = dict(_encoded(run, pictures))
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in content.items())
        content["name"] = np.array(names)
        if labels is not None:
            content["label"] = labels
        origin = {"run": str(run.path), "step": run.step, "data": args.data or args.input}
        content["origin"] = np.array(json.dumps(origin))
        with atomic_file(output) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **content)
        print(f"{len(names)} images -> {output}: {shapes}")
    return batch.report(args.command, failed, total)


def _encoded(run: Run, pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Posteriors of a VAE, the noise of a deep one, code maps of a VQ-VAE."""
    if isinstance(run.model, CodeAutoencoder):
        return {f"codes_{i}": level for i, level in enumerate(inference.encode_maps(run, pictures))}
    if isinstance(run.model, NoiseAutoencoder):
        return {"noise": inference.encode_noise(run, pictures)}
    mean_q, log_var_q = inference.encode(run, pictures)
    return {"mean_q": mean_q, "log_var_q": log_var_q}


def _from_source(spec: str, split: str) -> tuple[np.ndarray, list[str], np.ndarray | None]:
    from vaesr.data import open_bank

    bank = open_bank(spec)
    chosen = np.arange(len(bank)) if split == "all" else np.sort(bank.split(split))
    labels = None if bank.labels is None else np.asarray(bank.labels)[chosen]
    return bank.pixels[chosen], [bank.names[index] for index in chosen], labels


def _from_files(
    pattern: str, run: Run, resize: bool
) -> tuple[np.ndarray, list[str], list[tuple[str, str]], int]:
    if not isinstance(run.model, Autoencoder | CodeAutoencoder):
        raise ValueError(f"{run.path} holds the network {type(run.model).__name__}; encoding needs a VAE")
    sources = batch.find_inputs(pattern)
    pictures, names, failed = [], [], []
    for source in sources:
        try:
            pictures.append(_fit(read_photo(source).pixels, tuple(run.model.image_shape), resize))
            names.append(str(source))
        except ImageFileError as error:
            failed.append((str(source), str(error)))
    return np.array(pictures), names, failed, len(sources)


def _fit(pixels: np.ndarray, shape: tuple[int, ...], resize: bool) -> np.ndarray:
    """Brings a photo to the model's channels (transparency on black) and, if wanted, to its size."""
    values = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    if values.shape[2] in (2, 4):
        values = values[..., :-1] * values[..., -1:]
    if values.shape[2] == 3 and shape[2] == 1:
        values = (values @ np.array(BT601_LUMA, np.float32))[..., None]
    elif values.shape[2] == 1 and shape[2] == 3:
        values = np.repeat(values, 3, axis=2)
    if values.shape[:2] != tuple(shape[:2]):
        if not resize:
            height, width = values.shape[:2]
            raise ImageFileError(f"is {width}x{height}, the model takes {shape[1]}x{shape[0]}; add --resize")
        values = np.clip(np.asarray(imresize(values, size=shape[:2])), 0.0, 1.0)
    return values


def _read_codes(path: pathlib.Path, wanted: str) -> tuple[np.ndarray, ...]:
    """A VAE's codes by their name, or a VQ-VAE's code maps by that of the first."""
    try:
        archive = read_npz(path)
        if wanted != "codes_0":
            return (archive[wanted],)
        levels = sum(name.startswith("codes_") for name in archive)
        return tuple(archive[f"codes_{level}"] for level in range(max(levels, 1)))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {str(path)!r}") from None
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{str(path)!r} holds no codes of such a run from `vaesr encode` ({wanted} is missing)"
        ) from error


def _save_images(path: pathlib.Path, pictures: np.ndarray, columns: int | None) -> None:
    if path.suffix.lower() == ".npy":
        _save_npy(path, pictures)
        return
    shown = pictures[:_MANY]
    save_grid(path, shown, columns=columns)
    more = f" (the first {_MANY} of {len(pictures)}; write .npy for all)" if len(pictures) > _MANY else ""
    print(f"{len(shown)} images -> {path}{more}")


def _save_npy(path: pathlib.Path, pictures: np.ndarray) -> None:
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.save(file, pictures)
    print(f"{list(pictures.shape)} float32 -> {path}")
