"""Training steps, ours against the same networks in torch."""

import pathlib
import tempfile
from collections.abc import Iterator

from benchmarks import timing
from benchmarks.options import Options
from benchmarks.suites import train_edsr, train_vae


def cases(options: Options) -> Iterator[timing.Case]:
    """The suite's cases, built one at a time.

    Args:
        options: the run's settings.

    Yields:
        VAE, IWAE, EDSR baseline and, on an accelerator, EDSR as in the paper.
    """
    for model, build in (("vae", train_vae.vae_case), ("iwae", train_vae.iwae_case)):
        if options.wants(model):
            with tempfile.TemporaryDirectory() as folder:
                yield build(options, pathlib.Path(folder))
    if options.wants("edsr"):
        yield train_edsr.edsr_case(options, paper=False)
    if "edsr_paper" in options.models or (options.accelerator and not options.models):
        yield train_edsr.edsr_case(options, paper=True)
