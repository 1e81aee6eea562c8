"""Training steps, ours against the same networks in torch."""

import functools
import pathlib
import tempfile
from collections.abc import Callable, Iterator

from benchmarks import timing
from benchmarks.options import Options
from benchmarks.suites import train_bnn, train_edsr, train_pixelsnail, train_sr, train_vae, train_vqvae


def cases(options: Options) -> Iterator[timing.Case]:
    """The suite's cases, built one at a time.

    Args:
        options: the run's settings.

    Yields:
        VAE, IWAE, Bayesian net, VQ-VAE, VQ-VAE-2, PixelSNAIL, EDSR baseline, on an accelerator also EDSR as
        in the paper, RCAN, RRDB, and the full steps of SRGAN and ESRGAN.
    """
    builders: list[tuple[str, Callable[[Options, pathlib.Path], timing.Case]]] = [
        ("vae", train_vae.vae_case),
        ("iwae", train_vae.iwae_case),
        ("bnn", functools.partial(train_bnn.bnn_case, how="local")),
        ("bnn", functools.partial(train_bnn.bnn_case, how="weights")),
    ]
    for model, build in builders:
        if options.wants(model):
            with tempfile.TemporaryDirectory() as folder:
                yield build(options, pathlib.Path(folder))
    for name, levels in (("vqvae", 1), ("vqvae2", 2)):
        if options.wants(name):
            yield train_vqvae.vqvae_case(options, levels=levels)
    if options.wants("pixelsnail"):
        yield train_pixelsnail.pixelsnail_case(options)
    if options.wants("edsr"):
        yield train_edsr.edsr_case(options, paper=False)
    if "edsr_paper" in options.models or (options.accelerator and not options.models):
        yield train_edsr.edsr_case(options, paper=True)
    for model in ("rcan", "rrdb"):
        if options.wants(model):
            yield train_sr.pixel_case(options, model)
    for model in ("srgan", "esrgan"):
        if options.wants(model):
            yield train_sr.gan_case(options, model)
