"""The rate/distortion curve (Alemi et al. 2018, "Fixing a broken ELBO"): VAEs of many betas, trained at once.

    python -m experiments.rate_distortion             # 4,000 MNIST digits
    python -m experiments.rate_distortion --betas 0.5 1 2
    python -m experiments.rate_distortion paper --data tfds:mnist

The VAEs differ in the weight of the KL alone. Their parameters are stacked and the training step is mapped
over them: one compiled program. Each is one point of the plane of rate (what its code costs) and distortion
(what the code does not explain); the ELBO is minus their sum, so a beta of 1 should come out best, and a beta
far above it should give up the code. The report shows the plane, and samples and reconstructions per beta.

Expected: the best ELBO at a beta of 1. Measured: seven betas at once, -109.7 ± 1.3 nats at beta 1; 172 s on
one CPU core.
"""

import dataclasses
import functools
import pathlib
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments.recipes import images
from vaesr import data, evaluators, objectives, reports, runs, training
from vaesr.models.vae import VAE

_SAMPLES_SEED = 1
_SHOWN = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """VAEs that differ in the weight of the KL."""

    RENAMED: ClassVar[dict[str, str]] = {"latent": "model.latent", "hidden": "model.hidden"}

    # Weights of the KL, one VAE each.
    betas: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    # Network of every VAE; the size of images comes from the data, pixels are Bernoulli.
    model: Annotated[VAE, runs.Fixed("image_shape", "likelihood", "mixtures")] = VAE(
        latent=16, hidden=(256, 128), activation="silu"
    )
    # Optimizer of every VAE.
    optim: training.OptimConfig = training.OptimConfig()
    # Examples of the validation split that each evaluation reads.
    eval_limit: int = 2000
    # Samples of q(z | x) per example of the final measurement.
    eval_samples: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.betas or min(self.betas) < 0 or len(set(self.betas)) < len(self.betas):
            raise ValueError(f"--betas must be different numbers of at least 0, got {self.betas}.")
        runs.check_least(self, 1, "eval_limit", "eval_samples")
        if self.optim.clip_norm:
            raise ValueError("--optim.clip-norm must be 0: one norm over all VAEs would couple them.")


_DEFAULT = Config(
    data="embedded:digits",
    steps=4000,
    batch_size=100,
    eval_every=1000,
    checkpoint_every=1000,
    optim=training.OptimConfig(name="adamw", lr=1e-3, schedule="cosine", weight_decay=0.1),
)
PRESETS = {
    "smoke": dataclasses.replace(
        _DEFAULT, betas=(0.5, 2.0), steps=20, batch_size=16, eval_every=20, checkpoint_every=20, log_every=10,
        model=VAE(latent=4, hidden=(32,), activation="silu"), eval_limit=64, eval_samples=2,
    ),
    "default": _DEFAULT,
    # 100 epochs of MNIST; Alemi et al. train larger encoders, decoders and priors the same way.
    "paper": dataclasses.replace(
        _DEFAULT, data="tfds:mnist", steps=60_000, eval_every=6000, checkpoint_every=6000,
        betas=(0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0, 1.1, 1.3, 1.7, 2.5, 4.0, 7.0, 10.0),
        model=VAE(latent=64, hidden=(512, 512), activation="silu"),
        optim=training.OptimConfig(lr=1e-3, schedule="cosine"),
    ),
    # What benchmarks measure.
    "bench": dataclasses.replace(_DEFAULT, data="random:10000x28x28x1", dtype="float32"),
}  # fmt: skip


def build(config: Config) -> runs.Experiment:
    """Wire data, the stacked VAEs, their objective and evaluation."""
    bank = images.open_images(config)
    model = config.model.clone(image_shape=bank.pixels.shape[1:], dtype=jnp.dtype(config.compute_dtype))

    def init(key: jax.Array) -> tuple[dict[str, Any], Any]:
        params = images.initial(model, key)
        # All start from the same weights: what differs at the end is due to beta.
        stacked = jax.tree.map(lambda x: jnp.repeat(x[None], len(config.betas), axis=0), params)
        return {"vaes": stacked}, {}

    evaluator = _Study(config, bank, model)
    return runs.Experiment(
        model=runs.describe_model(model) | {"params": "stacked"},
        init=init,
        players={
            "vaes": training.Player(
                stacked_objective(model, config.betas),
                training.make_optimizer(config.optim, steps=config.steps),
            )
        },
        sampler=data.ImageSampler(bank, "train", config.batch_size),
        evaluate=evaluator.evaluate,
        best_by="elbo_nats",
        evaluate_test=evaluator.evaluate_test,
        figures=evaluator.draw,
    )


def stacked_objective(model: VAE, betas: tuple[float, ...], *, player: str = "vaes") -> objectives.Objective:
    """Build the objective of several VAEs at once: the sum of their negative ELBOs, each with its beta.

    A sum, so that each VAE gets the gradient it would get alone. All share one network and see the same
    images, bits and noise. Every leaf of `params[player]` is `[R, ...]`, one entry per beta; the metric
    `elbo_nats` is the mean over the VAEs.
    """
    encode, decode = images.bind(model, "encode"), images.bind(model, "decode")

    def one(params: Any, beta: jax.Array, batch: Any, key: jax.Array, step: jax.Array) -> Any:
        objective = objectives.elbo(
            encode, decode, objectives.BernoulliLikelihood(),
            beta=lambda _: beta, player=player, binarisation="dynamic",
        )  # fmt: skip
        loss, aux = objective({player: params}, {}, batch, key=key, step=step)
        return loss, aux.metrics["elbo_nats"]

    def objective(
        params: Any, variables: Any, batch: Any, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, objectives.Aux]:
        over_vaes = jax.vmap(one, in_axes=(0, 0, None, None, None))
        losses, elbos = over_vaes(params[player], jnp.asarray(betas, jnp.float32), batch, key, step)
        return losses.sum(), objectives.Aux({"elbo_nats": elbos.mean()}, variables)

    return objective


class _Study:
    """Measures all VAEs and keeps the last figures for the picture."""

    def __init__(self, config: Config, bank: data.Bank, model: VAE) -> None:
        self.config, self.bank, self.model = config, bank, model
        measure = images.compile_bound(model, objectives.BernoulliLikelihood(), "dynamic")
        self._measure = functools.partial(_map_over_vaes, measure)
        mean_image = images.bind(model, "mean_image")
        self._decode = jax.jit(jax.vmap(mean_image, in_axes=(0, None)))
        self._reconstruct = jax.jit(
            jax.vmap(lambda p, x: mean_image(p, images.bind(model, "encode")(p, x)[0]), in_axes=(0, None))
        )
        self.points, self.split = np.zeros((len(config.betas), 2)), "validation"

    def evaluate(self, params: dict[str, Any], variables: Any) -> dict[str, float]:
        """The ELBO of each VAE on the validation split, and their mean, which chooses the best checkpoint."""
        self._locate(params, "validation", samples=1, limit=self.config.eval_limit)
        elbos = -self.points.sum(axis=1)
        named = zip(self.config.betas, elbos, strict=True)
        return {"elbo_nats": float(elbos.mean())} | {
            f"beta_{b:g}/elbo_nats": float(elbo) for b, elbo in named
        }

    def evaluate_test(self, params: dict[str, Any], variables: Any) -> dict[str, float]:
        """Rate, distortion and ELBO of each VAE on the test split, with their standard errors."""
        samples, drawings = self.config.eval_samples, images.drawings("dynamic")
        found = self._locate(params, "test", samples=samples, drawings=drawings)
        rates, distortions = found["kl_nats"], found["reconstruction_nats"]
        shown = {"elbo_nats": -(rates + distortions).mean(axis=0)}
        for beta, rate, distortion in zip(self.config.betas, rates, distortions, strict=True):
            shown[f"beta_{beta:g}/rate_nats"] = rate
            shown[f"beta_{beta:g}/distortion_nats"] = distortion
            shown[f"beta_{beta:g}/elbo_nats"] = -rate - distortion
        return evaluators.means_with_errors(shown)

    def _locate(self, params: dict[str, Any], split: str, **how: Any) -> dict[str, np.ndarray]:
        """Rate and distortion of every VAE, `[R, 2]`; returns what they are the means of."""
        found = evaluators.bounds_of_images(self.bank, self._measure, params["vaes"], split, **how)
        both = np.stack([found["kl_nats"], found["reconstruction_nats"]], axis=1)
        self.points, self.split = both.mean(axis=-1), split
        return found

    def draw(self, params: dict[str, Any], variables: Any, directory: pathlib.Path, step: int) -> None:
        """The plane, samples and reconstructions."""
        labels = [f"β = {beta:g}" for beta in self.config.betas]
        reports.save_image(
            directory / "1_rate_distortion.png",
            reports.rate_distortion_figure(self.points[:, 0], self.points[:, 1], labels),
            caption=f"Rate and distortion on the {self.split} split (binarised anew at every step), one VAE "
            "per beta; dashed lines join equal ELBOs.",
        )
        z = jax.random.normal(jax.random.key(_SAMPLES_SEED), (_SHOWN, self.model.latent))
        samples = np.asarray(self._decode(params["vaes"], z))
        reports.save_image(
            directory / "2_samples.png",
            reports.labelled_grid(samples.reshape(-1, *samples.shape[2:]), columns=_SHOWN, row_labels=labels),
            caption="Samples: the same z from the prior in every row, the mean of p(x | z).",
        )
        batch = next(evaluators.split_batches(self.bank, "validation", limit=_SHOWN))
        images = np.asarray(evaluators.measured_images(batch, binarisation="dynamic"))[:_SHOWN]
        again = np.asarray(self._reconstruct(params["vaes"], images))
        rows = np.concatenate([images, again.reshape(-1, *again.shape[2:])])
        reports.save_image(
            directory / "3_reconstructions.png",
            reports.labelled_grid(rows, columns=_SHOWN, row_labels=["image", *labels]),
            caption="Validation images and what each VAE makes of them: the higher beta, the less of the "
            "image is in the code.",
        )


@functools.partial(jax.jit, static_argnames=("measure", "samples"))
def _map_over_vaes(measure: Any, params: Any, batch: Any, **how: Any) -> dict[str, jax.Array]:
    """`measure` of every VAE: `[R, B]` each."""
    return jax.vmap(functools.partial(measure, **how), in_axes=(0, None))(params, batch)


if __name__ == "__main__":
    runs.main(PRESETS, build)
