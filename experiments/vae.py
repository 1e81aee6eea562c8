"""Variational autoencoders (Kingma & Welling 2014): perceptrons, convolutions, or linear (probabilistic PCA).

    python -m experiments.vae                        # 5,000 real MNIST digits, about 2 minutes on 2 CPU cores
    python -m experiments.vae --data idx:FOLDER      # any MNIST-family files
    python -m experiments.vae ppca                   # a linear VAE beside its exact likelihood
    python -m experiments.vae paper --data tfds:mnist

The run folder's report shows samples, reconstructions and latent traversals, the test ELBO and the
100-sample importance-weighted bound.
"""

import dataclasses
import functools
import math
import pathlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import base
from vaesr import data, inference, objectives, reports, training
from vaesr.models.vae import VAE

# Every evaluation draws the same noise, so that the numbers of two checkpoints compare.
_EVAL_SEED = 1
_EVAL_BATCH = 250


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network; image size and channels come from the data."""

    # Encoder and decoder: dense layers, strided and sub-pixel convolutions, or linear maps.
    architecture: Literal["mlp", "conv", "linear"] = "mlp"
    # Latent dimensions.
    latent: int = 20
    # Widths of the encoder's layers; the decoder mirrors them.
    hidden: tuple[int, ...] = (500,)
    # p(x | z): Bernoulli pixels, or Gaussian ones of fixed or learned scale.
    likelihood: Literal["bernoulli", "gaussian", "gaussian_learned"] = "bernoulli"
    # Activation of the hidden layers.
    activation: Literal["tanh", "relu", "silu", "gelu"] = "tanh"
    # Precision of float32 matrix products; "default" is TF32 on GPUs and bfloat16 on TPUs.
    precision: Literal["default", "high", "highest"] = "default"
    # Standard deviation of the "gaussian" likelihood.
    scale: float = 0.1


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """What is maximised."""

    # The evidence lower bound, or the importance-weighted bound of `samples` samples.
    kind: Literal["elbo", "iwae"] = "elbo"
    # Samples of q(z | x) per example.
    samples: int = 1
    # Weight of the KL (beta-VAE).
    beta: float = 1.0
    # Steps over which the weight of the KL grows from 0.
    kl_warmup: int = 0
    # Nats per latent below which the KL is not lowered further.
    free_bits: float = 0.0
    # Draw binary pixels from the grey values: anew at every step, or not at all.
    binarisation: Literal["dynamic", "none"] = "dynamic"

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("beta", 0), ("kl_warmup", 0), ("free_bits", 0)):
            value = getattr(self, name)
            if value < least:
                flag = name.replace("_", "-")
                raise ValueError(f"--objective.{flag} must be at least {least}, got {value}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(base.RunConfig):
    """A VAE on one set of small images."""

    # Network.
    model: ModelConfig = ModelConfig()
    # Training objective.
    objective: ObjectiveConfig = ObjectiveConfig()
    # Optimizer.
    optim: training.OptimConfig = training.OptimConfig()
    # Samples per example of the importance-weighted bound at the end.
    bound_samples: int = 100
    # Examples of the validation split that each evaluation reads.
    eval_limit: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("bound_samples", "eval_limit"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}.")


# Ten latents and weight decay: with 20 latents and no decay, 4,000 training images leave holes in the latent
# space, and a tenth of the samples come out as noise.
_DEFAULT = Config(
    data="embedded:digits",
    steps=5000,
    batch_size=128,
    model=ModelConfig(latent=10, hidden=(400, 200), activation="silu"),
    optim=training.OptimConfig(name="adamw", lr=1e-3, schedule="cosine", weight_decay=0.1),
)
PRESETS = {
    "smoke": dataclasses.replace(
        _DEFAULT, steps=20, batch_size=16, eval_every=20, checkpoint_every=20, log_every=10,
        bound_samples=5, eval_limit=64, model=ModelConfig(latent=4, hidden=(32,)),
    ),
    "default": _DEFAULT,
    # Probabilistic PCA: the ELBO's maximum is the exact likelihood, which `finish` computes beside it.
    "ppca": dataclasses.replace(
        _DEFAULT, data="embedded:digits8x8", steps=20000, batch_size=512,
        eval_every=5000, checkpoint_every=5000, dtype="float32",
        model=ModelConfig(
            architecture="linear", latent=10, hidden=(), likelihood="gaussian_learned", precision="highest"
        ),
        objective=ObjectiveConfig(binarisation="none"),
        optim=training.OptimConfig(lr=1e-2, schedule="cosine"),
    ),
    # Kingma & Welling 2014, section 5: 500 tanh units, Adagrad there; 1000 epochs of 60,000 images.
    "paper": dataclasses.replace(
        _DEFAULT, data="tfds:mnist", steps=600_000, batch_size=100, eval_every=6000, checkpoint_every=6000,
        bound_samples=5000, model=ModelConfig(), optim=training.OptimConfig(lr=1e-3),
    ),
}  # fmt: skip


def build(config: Config) -> base.Experiment:
    """Wire data, network, objective and evaluation.

    Args:
        config: see `Config`.

    Returns:
        The experiment.
    """
    bank = data.open_bank(config.data, strict=config.strict)
    if bank.kind != "fixed":
        raise base.UserError(f"a VAE needs images of one size; {config.data} holds photos of many sizes.")
    image_shape = bank.pixels.shape[1:]
    sampler = data.ImageSampler(bank, "train", config.batch_size)
    model = _model(config, image_shape)
    encode = lambda params, x: model.apply({"params": params}, x, method="encode")  # noqa: E731
    decode = lambda params, z: model.apply({"params": params}, z, method="decode")  # noqa: E731
    likelihood = _likelihood(config.model)
    binary = config.objective.binarisation == "dynamic"
    if config.objective.kind == "iwae":
        objective = objectives.iwae(
            encode, decode, likelihood, samples=config.objective.samples, stochastic_binarisation=binary
        )
    else:
        objective = objectives.elbo(
            encode, decode, likelihood,
            samples=config.objective.samples, beta=_beta(config.objective),
            free_bits_nats=config.objective.free_bits, stochastic_binarisation=binary,
        )  # fmt: skip

    def init(key: jax.Array) -> tuple[dict[str, Any], Any]:
        images = jnp.zeros((1, *image_shape), jnp.float32)
        return {"vae": model.init(key, images)["params"]}, {}

    measure = _measure(functools.partial(objectives.evaluate_bound, encode, decode, likelihood), binary)
    evaluate = functools.partial(_evaluate, bank, measure)
    is_ppca = config.model.architecture == "linear" and config.model.likelihood == "gaussian_learned"

    def finish(params: dict[str, Any], variables: Any) -> dict[str, float]:
        metrics = evaluate(params["vae"], "test", samples=config.bound_samples, limit=None)
        if is_ppca and not binary:
            metrics |= _against_ppca(bank, config, evaluate(params["vae"], "train", samples=1000, limit=None))
        return metrics

    return base.Experiment(
        model=inference.describe_model(model),
        init=init,
        players={
            "vae": training.Player(objective, training.make_optimizer(config.optim, steps=config.steps))
        },
        sampler=sampler,
        evaluate=lambda params, variables: evaluate(
            params["vae"], "validation", samples=1, limit=config.eval_limit
        ),
        score="elbo_nats",
        finish=finish,
        figures=_figures(bank, model, encode),
    )


def _model(config: Config, image_shape: tuple[int, int, int]) -> VAE:
    fields = dataclasses.asdict(config.model)
    fields.pop("scale")
    return VAE(image_shape=image_shape, dtype=jnp.dtype(config.compute_dtype), **fields)


def _likelihood(config: ModelConfig) -> objectives.Likelihood:
    if config.likelihood == "bernoulli":
        return objectives.BernoulliLikelihood()
    if config.likelihood == "gaussian":
        return objectives.GaussianLikelihood(config.scale)
    return objectives.LearnedGaussianLikelihood()


def _beta(config: ObjectiveConfig) -> Any:
    if not config.kl_warmup:
        return config.beta
    return optax.linear_schedule(0.0, config.beta, config.kl_warmup)


def _measure(bound: Any, binary: bool) -> Any:
    """Compile the sums of a batch's bounds; the same noise for an example every time."""

    @functools.partial(jax.jit, static_argnames="samples")
    def measure(params: Any, batch: dict[str, jax.Array], *, samples: int) -> dict[str, jax.Array]:
        key, images, position = jax.random.key(_EVAL_SEED), batch["image"], batch["position"]
        if binary:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, 1), position)
            images = objectives.binarise(images, keys)
        estimate = bound(
            params, images, key=jax.random.fold_in(key, 0), samples=samples, position=position,
            chunk=min(samples, 50),
        )  # fmt: skip
        return {name: (value * batch["mask"]).sum() for name, value in estimate._asdict().items()}

    return measure


def _evaluate(
    bank: data.Bank, measure: Any, params: Any, split: str, *, samples: int, limit: int | None
) -> dict[str, float]:
    """Mean bounds over a split."""
    totals: dict[str, float] = {}
    count = 0
    for number, batch in enumerate(data.evaluation_batches(bank, split, _EVAL_BATCH, limit=limit)):
        count += int(batch["mask"].sum())
        batch["position"] = number * _EVAL_BATCH + np.arange(_EVAL_BATCH, dtype=np.int32)
        for name, value in measure(params, batch, samples=samples).items():
            totals[name] = totals.get(name, 0.0) + float(value)
    means = {name: total / count for name, total in totals.items()}
    pixels = math.prod(bank.pixels.shape[1:])
    shown = {name: means[name] for name in ("elbo_nats", "kl_nats", "reconstruction_nats")}
    shown["bits_per_dim"] = -means["elbo_nats"] / (pixels * math.log(2.0))
    if samples > 1:
        shown[f"bound_{samples}_nats"] = means["bound_nats"]
        shown["effective_samples"] = means["effective_samples"]
    return shown


def _against_ppca(bank: data.Bank, config: Config, trained: dict[str, float]) -> dict[str, float]:
    """The exact maximum of the likelihood on the training split (Tipping & Bishop 1999, equation 8)."""
    images = np.concatenate(
        [b["image"][np.asarray(b["mask"], bool)] for b in data.evaluation_batches(bank, "train", _EVAL_BATCH)]
    )
    x = images.reshape(len(images), -1).astype(np.float64)
    d, k = x.shape[1], config.model.latent
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    variance = eigenvalues[k:].mean()
    log_determinant = np.log(eigenvalues[:k]).sum() + (d - k) * np.log(variance)
    exact = -0.5 * (d * np.log(2 * np.pi) + log_determinant + d)
    elbo = trained["elbo_nats"]
    return {
        "train_elbo_nats": elbo,
        "train_exact_log_likelihood_nats": float(exact),
        "train_gap_percent": float(100 * (exact - elbo) / abs(exact)),
    }


def _figures(bank: data.Bank, model: VAE, encode: Any) -> Any:
    """The function that draws samples, reconstructions, traversals and the first two latents."""
    to_code = jax.jit(encode)
    to_image = jax.jit(
        lambda params, z: jnp.clip(model.apply({"params": params}, z, method="mean_image"), 0.0, 1.0)
    )

    def draw(params: dict[str, Any], variables: Any, directory: pathlib.Path, step: int) -> None:
        render = functools.partial(to_image, params["vae"])
        z = jax.random.normal(jax.random.key(_EVAL_SEED), (100, model.latent))
        reports.save_grid(
            directory / "1_samples.png",
            render(z),
            columns=10,
            caption="Samples: z from the prior, the mean of p(x | z).",
        )
        held_out = next(data.evaluation_batches(bank, "validation", 500))
        mean_q, log_var_q = to_code(params["vae"], held_out["image"])
        pairs = reports.reconstruction_figure(held_out["image"][:20], render(mean_q[:20]))
        caption = "Validation images over their reconstructions."
        reports.save_image(directory / "2_reconstructions.png", pairs, caption=caption)
        # The latents that carry most information, along which there is something to see.
        kl = 0.5 * (jnp.square(mean_q) + jnp.exp(log_var_q) - 1.0 - log_var_q).mean(axis=0)
        order = np.argsort(-np.asarray(kl))
        traversal = reports.latent_traversal(
            render, np.asarray(mean_q[0]), dimensions=[int(i) for i in order[:8]]
        )
        caption = (
            "One image's code, one latent at a time moved through the prior; most informative latents first."
        )
        reports.save_image(directory / "3_traversals.png", traversal, caption=caption)
        if model.latent >= 2:
            plane = reports.latent_scatter(np.asarray(mean_q)[:, order[:2]], held_out.get("label"))
            caption = "Posterior means of validation images in the two most informative latents, by label."
            reports.save_image(directory / "4_latents.png", plane, caption=caption)

    return draw


if __name__ == "__main__":
    base.main("experiments.vae", PRESETS, build)
