"""Gradient estimators of E_q[f]: bias and variance measured, and VAEs trained with each of them side by side.

    python -m experiments.estimators                 # 4,000 real MNIST digits
    python -m experiments.estimators paper           # more samples, dimensions and steps

Every VAE starts from the same weights and sees the same batches; only the gradient of its encoder differs:
reparameterised (pathwise), or score function without a baseline, with a moving average, with the mean over
the other samples, or with the optimal baseline. The report shows the ELBOs, what each estimator's gradient is
worth at the trained network, and bias and variance on f = Σ z², where they are known in closed form.

Expected: pathwise best, the score function without a baseline worst. Measured: ELBO -117.1 ± 1.5 nats
pathwise, -139.3 ± 1.6 by the plain score function; 8 min on one CPU core.
"""

import dataclasses
import functools
import pathlib
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments.recipes import images
from vaesr import data, distributions, evaluators, objectives, reports, runs, training
from vaesr.distributions import MovingAverage, Normal
from vaesr.evaluators import estimators as study
from vaesr.models.vae import VAE

_DECAY = 0.99


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """What is measured on functions with known gradients."""

    # Dimensions of z.
    dimensions: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    # Samples a gradient estimate is averaged over, at `dimension`.
    samples: tuple[int, ...] = (2, 4, 8, 16, 32)
    # Dimension while the samples are varied.
    dimension: int = 8
    # Independent gradients that means and variances are taken of; fewer where they would take too long.
    repeats: int = 20_000

    def __post_init__(self) -> None:
        if min(self.dimensions) < 1 or self.dimension < 1:
            raise ValueError(f"--study.dimensions must be at least 1, got {self.dimensions}.")
        if min(self.samples) < 2:
            raise ValueError(f"--study.samples must be at least 2, for the baselines, got {self.samples}.")
        if self.repeats < 100:
            raise ValueError(f"--study.repeats must be at least 100, got {self.repeats}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """VAEs that differ in the gradient of their encoder, and a study of the estimators alone."""

    RENAMED: ClassVar[dict[str, str]] = {"latent": "model.latent", "hidden": "model.hidden"}

    # Estimators to train with.
    estimators: tuple[str, ...] = ("pathwise", "score", "moving_average", "leave_one_out", "optimal")
    # Samples of q(z | x) per example, the same for all.
    samples: int = 4
    # Network of every VAE; the size of images comes from the data, pixels are Bernoulli.
    model: Annotated[VAE, runs.Fixed("image_shape", "likelihood", "mixtures")] = VAE(
        latent=10, hidden=(200,), activation="silu"
    )
    # Optimizer of every VAE.
    optim: training.OptimConfig = training.OptimConfig()
    # The study.
    study: StudyConfig = StudyConfig()
    # Gradients at the trained network that the signal-to-noise ratio is taken of.
    probe_repeats: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = set(self.estimators) - set(study.ESTIMATORS)
        if unknown or not self.estimators or len(set(self.estimators)) < len(self.estimators):
            raise ValueError(
                f"--estimators must be different ones of {', '.join(study.ESTIMATORS)}, "
                f"got {' '.join(self.estimators)}."
            )
        if self.samples < 2:
            raise ValueError(f"--samples must be at least 2, for the baselines, got {self.samples}.")
        if self.probe_repeats < 2:
            raise ValueError(f"--probe-repeats must be at least 2, got {self.probe_repeats}.")


_DEFAULT = Config(
    data="embedded:digits",
    steps=4000,
    batch_size=100,
    eval_every=500,
    optim=training.OptimConfig(lr=1e-3, schedule="cosine"),
)
PRESETS = {
    "smoke": dataclasses.replace(
        _DEFAULT, steps=20, batch_size=16, eval_every=20, checkpoint_every=20, log_every=10, samples=2,
        model=VAE(latent=3, hidden=(16,), activation="silu"), probe_repeats=4,
        estimators=("pathwise", "moving_average", "leave_one_out"),
        study=StudyConfig(dimensions=(2,), samples=(2,), dimension=2, repeats=100),
    ),
    "default": _DEFAULT,
    "paper": dataclasses.replace(
        _DEFAULT, data="tfds:mnist", steps=100_000, eval_every=5000, checkpoint_every=5000,
        model=VAE(latent=20, hidden=(500,), activation="silu"), estimators=tuple(study.ESTIMATORS),
        probe_repeats=1000,
        study=StudyConfig(
            dimensions=(1, 2, 4, 8, 16, 32, 64, 128), samples=(2, 4, 8, 16, 32, 64), repeats=100_000
        ),
    ),
    # What benchmarks measure.
    "bench": dataclasses.replace(_DEFAULT, data="random:10000x28x28x1", dtype="float32"),
}  # fmt: skip


def build(config: Config) -> runs.Experiment:
    """Wire data, one VAE per estimator, and the study."""
    bank = images.open_images(config)
    model = config.model.clone(image_shape=bank.pixels.shape[1:], dtype=jnp.dtype(config.compute_dtype))
    encode, decode = images.bind(model, "encode"), images.bind(model, "decode")
    likelihood = objectives.BernoulliLikelihood()
    optimizer = training.make_optimizer(config.optim, steps=config.steps)
    players = {
        name: training.Player(
            objectives.estimated_elbo(
                encode, decode, likelihood,
                estimator=study.ESTIMATORS[name], player=name, samples=config.samples,
                baseline_decay=_DECAY if name == "moving_average" else None, binarisation="dynamic",
            ),
            optimizer,
        )
        for name in config.estimators
    }  # fmt: skip

    def init(key: jax.Array) -> tuple[dict[str, Any], Any]:
        params = images.initial(model, key)
        # Copies: the donated state must not hold one buffer twice.
        copies = {name: jax.tree.map(jnp.copy, params) for name in config.estimators}
        return copies, {name: {"baseline": MovingAverage.create()} for name in config.estimators}

    measure = images.compile_bound(model, likelihood, "dynamic")

    def evaluate(params: dict[str, Any], variables: Any, split: str = "validation") -> dict[str, float]:
        test = split == "test"
        how: dict[str, Any] = {"drawings": images.drawings("dynamic") if test else 1, "errors": test}
        results, elbos = {}, []
        for name, own in params.items():
            found = evaluators.mean_bounds(bank, measure, own, split, samples=1, **how)
            found = {metric: value for metric, value in found.items() if "elbo" in metric}
            results |= {f"{name}/{metric}": value for metric, value in found.items()}
            elbos.append(found)
        return results | max(elbos, key=lambda found: found["elbo_nats"])

    return runs.Experiment(
        model=runs.describe_model(model) | {"player": config.estimators[0]},
        init=init,
        players=players,
        sampler=data.ImageSampler(bank, "train", config.batch_size),
        evaluate=evaluate,
        best_by="elbo_nats",
        evaluate_test=lambda params, variables: evaluate(params, variables, "test"),
        figures=_figures(config, bank, encode, decode, likelihood),
    )


# --- figures --------------------------------------------------------------------------------------------


def _figures(config: Config, bank: data.Bank, encode: Any, decode: Any, likelihood: Any) -> Any:
    """The function that draws samples, curves, the probe and, once, the study."""
    chosen = [name for name in config.estimators if name != "moving_average"]
    probes = {
        name: jax.jit(functools.partial(_probe, config, encode, decode, likelihood, name)) for name in chosen
    }

    def draw(params: dict[str, Any], variables: Any, directory: pathlib.Path, step: int) -> None:
        rows = reports.read_metrics(directory.parent)
        rows = [row for row in rows if row.get("split") == "validation"]
        if len(rows) > 1:
            reports.plot_panels([_curves(rows, config)], directory / "1_training.png", caption=_CURVES)
        held_out = next(data.evaluation_batches(bank, "validation", 64))["image"]
        ratios = {name: probe(params[config.estimators[0]], held_out) for name, probe in probes.items()}
        words = "; ".join(f"{study.LABELS[name]} {float(ratio):.3g}" for name, ratio in ratios.items())
        z = jax.random.normal(jax.random.key(1), (10, config.model.latent))
        means = [likelihood.mean(decode(params[name], z)) for name in config.estimators]
        grid = np.concatenate([np.asarray(mean) for mean in means])
        picture = reports.labelled_grid(
            grid, columns=10, row_labels=[study.LABELS[name] for name in config.estimators]
        )
        caption = (
            f"Samples of the same ten codes. Signal-to-noise ratio of the gradient by q's means: {words}."
        )
        reports.save_image(directory / "2_samples.png", picture, caption=caption)
        if not (directory / "3_study.png").exists():  # it doesn't depend on the training
            reports.plot_panels(
                study.panels(**dataclasses.asdict(config.study)), directory / "3_study.png", caption=_STUDY
            )

    return draw


_CURVES = "Validation ELBO of VAEs with the same weights at first, batches and number of samples."
_STUDY = (
    "Gradient by one mean of E[f(z)], z ~ N(1, 1) in D dimensions; dashed: closed forms. Bars: two standard "
    "errors. Pathwise gradients don't see jumps; a baseline that holds the own sample shrinks the gradient."
)


def _curves(rows: list[dict[str, Any]], config: Config) -> reports.Panel:
    lines = [
        reports.Line(
            study.LABELS[n], [r["step"] for r in rows], [r.get(f"{n}/elbo_nats", np.nan) for r in rows]
        )
        for n in config.estimators
    ]
    return reports.Panel(f"{config.samples} samples a step", "step", "validation ELBO, nats", lines)


def _probe(
    config: Config, encode: Any, decode: Any, likelihood: Any, name: str, params: Any, images: jax.Array
) -> jax.Array:
    """Norm of the mean gradient by q's means over the root of its total variance, for one batch."""
    bits = objectives.binarise_batch({"image": images}, binarisation="threshold", key=jax.random.key(0))
    q = Normal(*encode(params, bits))

    def gradient(key: jax.Array) -> jax.Array:
        keys = distributions.example_keys(key, jnp.arange(images.shape[0]))

        def value(q: Normal) -> jax.Array:
            f = lambda z: -likelihood.nll(decode(params, z), bits)  # noqa: E731
            return study.ESTIMATORS[name](f, q, keys, samples=config.samples).mean()

        return jax.grad(value)(q).mean

    repeats = config.probe_repeats
    found = jax.lax.map(gradient, jax.random.split(jax.random.key(2), repeats))
    variance = found.var(axis=0, ddof=1).sum()
    # The mean of R noisy gradients has itself a share 1/R of their variance.
    signal = jnp.square(found.mean(axis=0)).sum() - variance / repeats
    return jnp.sqrt(jnp.maximum(signal, 0.0) / variance)


if __name__ == "__main__":
    runs.main(PRESETS, build)
