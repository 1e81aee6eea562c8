"""VQ-VAE (van den Oord et al. 2017) and the autoregressive prior of its codes, in one command.

    python -m experiments.vqvae                        # 5,000 real MNIST digits, some minutes on 2 CPU cores
    python -m experiments.vqvae --data idx:FOLDER      # full Fashion-MNIST or any MNIST-family files
    python -m experiments.vqvae paper                  # the paper's network, CIFAR-10
    vaesr sample --run runs/vqvae/default -o samples.png

First the autoencoder is trained; then every image is encoded once, the prior is trained on the codes, and
images are sampled. `--resume` goes on wherever a run stopped. The report shows reconstructions, how often
each code occurs, and samples; it compares the error with a PCA of the same number of bits, and the prior's
bits per code with those of codes of equal length and of a code by frequency.
"""

import dataclasses

from experiments import stages, vq
from vaesr import training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(vq.Config):
    """A VQ-VAE and the prior of its codes."""


_DEFAULT = Config(
    data="embedded:digits",
    steps=6000,
    batch_size=64,
    eval_every=2000,
    checkpoint_every=2000,
    optim=training.OptimConfig(lr=1e-3, schedule="cosine"),
    model=vq.ModelConfig(codes=256, code_dim=32, channels=64, revive_below=0.05),
    prior=vq.PriorConfig(steps=6000, batch_size=64, channels=64, layers=8, eval_every=1000),
)
PRESETS = {
    "smoke": dataclasses.replace(
        _DEFAULT, steps=20, batch_size=16, eval_every=20, checkpoint_every=20, log_every=10, eval_limit=64,
        samples=10, model=vq.ModelConfig(codes=16, code_dim=4, channels=8, res_channels=8, res_blocks=1),
        prior=vq.PriorConfig(steps=20, batch_size=16, channels=8, layers=2, eval_every=20),
    ),
    "default": _DEFAULT,
    # van den Oord et al. 2017, section 4.1: 8 x 8 codes of 32 x 32 images, two residual blocks of 256 units,
    # 250,000 steps.
    "paper": dataclasses.replace(
        _DEFAULT, data="tfds:cifar10", steps=250_000, batch_size=128, eval_every=5000, checkpoint_every=5000,
        optim=training.OptimConfig(lr=2e-4),
        model=vq.ModelConfig(channels=256, res_channels=256, codes=512, code_dim=64, initial="uniform"),
        prior=vq.PriorConfig(
            steps=100_000, batch_size=128, channels=256, layers=12, kernel=5, eval_every=5000,
            optim=training.OptimConfig(lr=3e-4),
        ),
    ),
}  # fmt: skip


if __name__ == "__main__":
    stages.main("experiments.vqvae", PRESETS, vq.plan)
