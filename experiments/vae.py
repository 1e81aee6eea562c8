"""Variational autoencoders (Kingma & Welling 2014): perceptrons, convolutions, or linear (probabilistic PCA).

    python -m experiments.vae                        # 4,000 real MNIST digits
    python -m experiments.vae --data idx:FOLDER      # any MNIST-family files
    python -m experiments.vae iwae                   # the same network, importance-weighted
    python -m experiments.vae latent2                # two latents, the plane of which the report shows
    python -m experiments.vae patches --data npy:X   # small colour images; a bound in bits per dimension
    python -m experiments.vae ppca                   # a linear VAE beside its exact likelihood
    python -m experiments.vae paper --data tfds:mnist

The run folder's report shows samples, reconstructions and latent traversals, the test ELBO and the
100-sample importance-weighted bound.

Expected: a test bound above -110 nats. Measured: ELBO -108.6 ± 1.4, 100-sample bound -105.2 ± 1.4 nats
(± standard error over 500 digits); 49 s on 2 CPU cores.
"""

import dataclasses
import functools
import pathlib
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.recipes import images
from vaesr import data, evaluators, metrics, objectives, reports, runs, training
from vaesr.distributions import example_keys
from vaesr.models.hierarchical_vae import HierarchicalVAE
from vaesr.models.pixel_outputs import OF_LEVELS
from vaesr.models.vae import VAE

_SAMPLES_SEED = 1  # the same samples at every evaluation
_BINARISED = {
    "none": "grey or colour, as they are",
    "dynamic": "binarised anew at every step",
    "fixed": "binarised once",
    "threshold": "binary, grey > 0.5",
}


@dataclasses.dataclass(frozen=True)
class UpperConfig:
    """Latent layers above the first, for a network of dense layers."""

    # Dimensions of each layer; none is the plain VAE.
    latents: tuple[int, ...] = ()
    # Widths of the dense layers between two latent layers.
    hidden: tuple[int, ...] = (100, 100)
    # q(z_l | z_{l-1}) from the data up, or q(z_l | z_{l+1}, x) from the top down.
    inference: Literal["bottom_up", "top_down"] = "bottom_up"


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """What is maximised."""

    # The evidence lower bound, or the importance-weighted bound of `samples` samples.
    kind: Literal["elbo", "iwae"] = "elbo"
    # Samples of q(z | x) per example.
    samples: int = 1
    # The encoder's gradient: plain; doubly reparameterised ("iwae"); or sticking the landing.
    gradient: Literal["pathwise", "dreg", "stl"] = "pathwise"
    # Weight of the KL (beta-VAE).
    beta: float = 1.0
    # Steps over which the weight of the KL grows from 0.
    kl_warmup: int = 0
    # Nats per latent below which the KL is not lowered further.
    free_bits: float = 0.0
    # Binary pixels of grey ones: drawn anew at every step, drawn once per image, or grey > 0.5; "auto" is
    # "dynamic" for Bernoulli pixels and "none" for the others.
    binarisation: Literal["auto", "dynamic", "fixed", "threshold", "none"] = "auto"
    # Standard deviation of the pixels' likelihood "gaussian".
    scale: float = 0.1

    def __post_init__(self) -> None:
        runs.check_least(self, 1, "samples", prefix="objective.")
        runs.check_least(self, 0, "beta", "kl_warmup", "free_bits", prefix="objective.")
        if self.gradient == "dreg" and self.kind != "iwae":
            raise ValueError("--objective.gradient dreg needs --objective.kind iwae; for the ELBO it is stl.")
        if self.kind == "iwae" and (self.beta != 1.0 or self.kl_warmup or self.free_bits):
            raise ValueError(
                "--objective.beta, --objective.kl-warmup and --objective.free-bits need --objective.kind "
                "elbo: the importance-weighted bound has no KL of its own."
            )
        if self.free_bits and self.gradient == "stl":
            raise ValueError("--objective.free-bits needs --objective.gradient pathwise: stl samples the KL.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """A VAE on one set of small images."""

    RENAMED: ClassVar[dict[str, str]] = {
        "model.upper_latents": "upper.latents",
        "model.upper_hidden": "upper.hidden",
        "model.inference": "upper.inference",
        "model.scale": "objective.scale",
    }

    # Network, whose first latent layer is the only one where there are no upper ones.
    model: Annotated[VAE, runs.Fixed("image_shape")] = VAE()
    # Further latent layers.
    upper: UpperConfig = UpperConfig()
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
        runs.check_least(self, 1, "bound_samples", "eval_limit")
        likelihood, binarisation = self.model.likelihood, self.objective.binarisation
        if likelihood in OF_LEVELS and binarisation not in ("auto", "none"):
            raise ValueError(
                f"--model.likelihood {likelihood} needs --objective.binarisation none, got {binarisation}."
            )
        if self.upper.latents and self.model.architecture != "mlp":
            raise ValueError("--upper.latents needs --model.architecture mlp.")
        if self.upper.inference != "bottom_up" and not self.upper.latents:
            raise ValueError(f"--upper.inference {self.upper.inference} needs --upper.latents.")
        if self.upper.latents and self.objective.free_bits and self.upper.inference == "bottom_up":
            raise ValueError("--objective.free-bits needs --upper.inference top_down: bottom_up samples KLs.")
        if self.upper.latents and self.objective.gradient != "pathwise":
            raise ValueError("--upper.latents needs --objective.gradient pathwise.")


# Ten latents and weight decay: with 20 latents and no decay, 4,000 training images leave holes in the latent
# space, and a tenth of the samples come out as noise.
_DEFAULT = Config(
    data="embedded:digits",
    steps=5000,
    batch_size=128,
    model=VAE(latent=10, hidden=(400, 200), activation="silu"),
    optim=training.OptimConfig(name="adamw", lr=1e-3, schedule="cosine", weight_decay=0.1),
)
# Burda et al. 2016, section 5: 3280 epochs in stages of 1, 3, ..., 3^7, here of the 54,000 images that are
# not for validation.
_IWAE_PAPER = dataclasses.replace(
    _DEFAULT, data="tfds:mnist", steps=3280 * 2700, batch_size=20, eval_every=27_000, checkpoint_every=27_000,
    log_every=900, bound_samples=5000, model=VAE(latent=50, hidden=(200, 200)),
    objective=ObjectiveConfig(kind="iwae", samples=50),
    optim=training.OptimConfig(lr=1e-3, schedule="stages", final=0.1, eps=1e-4),
)  # fmt: skip
_BENCH = dataclasses.replace(
    _DEFAULT, data="random:60000x28x28x1", dtype="float32", model=VAE(),
    objective=ObjectiveConfig(binarisation="none"), optim=training.OptimConfig(lr=1e-4),
)  # fmt: skip
PRESETS = {
    "smoke": dataclasses.replace(
        _DEFAULT, steps=20, batch_size=16, eval_every=20, checkpoint_every=20, log_every=10,
        bound_samples=5, eval_limit=64, model=VAE(latent=4, hidden=(32,)),
    ),
    "default": _DEFAULT,
    # Two latents: the report shows the whole plane of them.
    "latent2": dataclasses.replace(
        _DEFAULT, model=VAE(latent=2, hidden=(400, 200), activation="silu")
    ),
    "conv": dataclasses.replace(
        _DEFAULT, model=VAE(architecture="conv", latent=20, hidden=(32, 64), activation="silu")
    ),
    # 8-bit images of 32x32 pixels, such as --data npy:FILE or folder:FOLDER: bits per dimension that compare.
    "patches": dataclasses.replace(
        _DEFAULT, batch_size=64, bound_samples=20,
        model=VAE("conv", 128, (64, 128), activation="silu", likelihood="logistic_mixture"),
        optim=training.OptimConfig(lr=1e-3, schedule="cosine", clip_norm=1e4),
    ),
    # The default's network and steps with 50 samples.
    "iwae": dataclasses.replace(
        _DEFAULT, objective=ObjectiveConfig(kind="iwae", samples=50, gradient="dreg")
    ),
    # Probabilistic PCA: the ELBO's maximum is the exact likelihood, which `evaluate_test` computes beside it.
    "ppca": dataclasses.replace(
        _DEFAULT, data="embedded:digits8x8", steps=20000, batch_size=512,
        eval_every=5000, checkpoint_every=5000, dtype="float32",
        model=VAE(
            architecture="linear", latent=10, hidden=(), likelihood="gaussian_learned", precision="highest"
        ),
        objective=ObjectiveConfig(binarisation="none"),
        optim=training.OptimConfig(lr=1e-2, schedule="cosine"),
    ),
    # Kingma & Welling 2014, section 5: 500 tanh units, Adagrad there; 1000 epochs of 60,000 images.
    "paper": dataclasses.replace(
        _DEFAULT, data="tfds:mnist", steps=600_000, batch_size=100, eval_every=6000, checkpoint_every=6000,
        bound_samples=5000, model=VAE(), optim=training.OptimConfig(lr=1e-3),
    ),
    "iwae_paper": _IWAE_PAPER,
    # What benchmarks measure: the papers' networks on grey images.
    "bench": _BENCH,
    "bench_iwae": dataclasses.replace(
        _BENCH, model=_IWAE_PAPER.model,
        objective=ObjectiveConfig(kind="iwae", samples=50, binarisation="none"),
    ),
    "bench_dreg": dataclasses.replace(
        _BENCH, model=_IWAE_PAPER.model,
        objective=ObjectiveConfig(kind="iwae", samples=50, gradient="dreg", binarisation="none"),
    ),
    "iwae_paper_2layer": dataclasses.replace(
        _IWAE_PAPER, model=VAE(latent=100, hidden=(200, 200)), upper=UpperConfig(latents=(50,))
    ),
}  # fmt: skip


def build(config: Config) -> runs.Experiment:
    """Wire data, network, objective and evaluation."""
    bank = images.open_images(config)
    model = _model(config, bank.pixels.shape[1:])
    encode, decode = images.bind(model, "encode"), images.bind(model, "decode")
    # One Gaussian layer is drawn by the objective; of several, each depends on the one drawn before.
    draw = images.bind(model, "draw") if config.upper.latents else None
    likelihood = _likelihood(config)
    binarisation = _binarisation(config)

    measure = images.compile_bound(model, likelihood, binarisation, draw=draw)
    evaluate = functools.partial(evaluators.mean_bounds, bank, measure)
    posteriors = None  # of one Gaussian layer only: its means are the codes of the images
    if draw is None:
        posteriors = functools.partial(
            evaluators.posteriors, bank, jax.jit(encode), binarisation=binarisation
        )
    # The best checkpoint is the best by what is trained.
    trained_samples = config.objective.samples if config.objective.kind == "iwae" else 1
    is_ppca = config.model.architecture == "linear" and config.model.likelihood == "gaussian_learned"

    def evaluate_test(params: dict[str, Any], variables: Any) -> dict[str, float]:
        results = evaluate(
            params["vae"], "test", samples=config.bound_samples, drawings=images.drawings(binarisation),
            errors=True,
        )  # fmt: skip
        if posteriors is not None:
            mean_q, _ = posteriors(params["vae"], "test")
            results["active_units"] = float(metrics.active_units(mean_q))
        if is_ppca and binarisation == "none":
            exact = evaluators.exact_pca_log_likelihood(bank, "train", latent=config.model.latent)
            results |= _against_ppca(exact, evaluate(params["vae"], "train", samples=1000))
        return results

    return runs.Experiment(
        model=runs.describe_model(model),
        init=lambda key: ({"vae": images.initial(model, key)}, {}),
        players={
            "vae": training.Player(
                _objective(config, encode, decode, draw, likelihood),
                training.make_optimizer(config.optim, steps=config.steps),
            )
        },
        sampler=data.ImageSampler(bank, "train", config.batch_size),
        evaluate=lambda params, variables: evaluate(
            params["vae"], "validation", samples=trained_samples, limit=config.eval_limit
        ),
        best_by=f"bound_{trained_samples}_nats" if trained_samples > 1 else "elbo_nats",
        evaluate_test=evaluate_test,
        figures=_figures(bank, model, config, posteriors),
    )


def _model(config: Config, image_shape: tuple[int, int, int]) -> VAE | HierarchicalVAE:
    model = config.model.clone(image_shape=image_shape, dtype=jnp.dtype(config.compute_dtype))
    upper = config.upper
    if not upper.latents:
        return model
    return HierarchicalVAE(
        latents=(model.latent, *upper.latents), hidden=(model.hidden, *[upper.hidden] * len(upper.latents)),
        inference=upper.inference, image_shape=image_shape, likelihood=model.likelihood,
        activation=model.activation, precision=model.precision, dtype=model.dtype,
    )  # fmt: skip


def _objective(
    config: Config,
    encode: objectives.Encode,
    decode: objectives.Decode,
    draw: objectives.Draw | None,
    likelihood: objectives.Likelihood,
) -> objectives.Objective:
    settings = config.objective
    common = {
        "draw": draw,
        "samples": settings.samples,
        "gradient": settings.gradient,
        "binarisation": _binarisation(config),
    }
    if settings.kind == "iwae":
        return objectives.iwae(encode, decode, likelihood, **common)
    return objectives.elbo(
        encode, decode, likelihood, beta=_beta(settings), free_bits_nats=settings.free_bits, **common
    )


def _likelihood(config: Config) -> objectives.Likelihood:
    model = config.model
    return images.likelihood_of(model.likelihood, mixtures=model.mixtures, scale=config.objective.scale)


def _binarisation(config: Config) -> str:
    return images.binarisation_of(config.objective.binarisation, config.model.likelihood)


def _beta(config: ObjectiveConfig) -> Any:
    if not config.kl_warmup:
        return config.beta
    return optax.linear_schedule(0.0, config.beta, config.kl_warmup)


def _against_ppca(exact: float, trained: dict[str, float]) -> dict[str, float]:
    """How far the trained linear VAE is from the exact maximum of the likelihood."""
    elbo = trained["elbo_nats"]
    return {
        "train_elbo_nats": elbo,
        "train_exact_log_likelihood_nats": exact,
        "train_gap_percent": 100 * (exact - elbo) / abs(exact),
    }


def _figures(bank: data.Bank, model: Any, config: Config, posteriors: Any) -> Any:
    """The function that draws samples and reconstructions; the latents too, where there are `posteriors`."""
    binarisation = _binarisation(config)
    mean_image, reconstruct = images.bind(model, "mean_image"), images.bind(model, "reconstruct")
    to_image = jax.jit(lambda params, z: jnp.clip(mean_image(params, z), 0.0, 1.0))
    through_code = jax.jit(lambda params, images: jnp.clip(reconstruct(params, images), 0.0, 1.0))
    decode, likelihood = images.bind(model, "decode"), _likelihood(config)
    draw_pixels = jax.jit(lambda params, z, keys: likelihood.sample(decode(params, z), keys))
    of_images = f"validation images ({_BINARISED[binarisation]})"

    def draw(params: dict[str, Any], variables: Any, directory: pathlib.Path, step: int) -> None:
        render = functools.partial(to_image, params["vae"])
        z = jax.random.normal(jax.random.key(_SAMPLES_SEED), (100, model.latent))
        reports.save_grid(
            directory / "1_samples.png",
            render(z),
            columns=10,
            caption="Samples: z from the prior, the mean of p(x | z).",
        )
        if config.model.likelihood in OF_LEVELS:
            keys = example_keys(jax.random.key(_SAMPLES_SEED), jnp.arange(len(z)))
            reports.save_grid(
                directory / "7_draws.png",
                draw_pixels(params["vae"], z, keys),
                columns=10,
                caption="The same z, every pixel drawn from p(x | z) by itself: what the likelihood is of.",
            )
        batch = next(evaluators.split_batches(bank, "validation", limit=config.eval_limit))
        held = np.asarray(batch["mask"], bool)
        shown = evaluators.measured_images(batch, binarisation=binarisation)[held][:20]
        if posteriors is not None:
            mean_q, log_var_q = posteriors(params["vae"], "validation", limit=config.eval_limit)
            labels = evaluators.split_labels(bank, "validation", limit=config.eval_limit)
            evaluators.save_latent_figures(directory, render, mean_q, log_var_q, labels, of_images=of_images)
        reports.save_image(
            directory / "2_reconstructions.png",
            reports.reconstruction_figure(shown, through_code(params["vae"], shown)),
            caption=f"{of_images.capitalize()} over their reconstructions, the mean of p(x | z).",
        )

    return draw


if __name__ == "__main__":
    runs.main(PRESETS, build)
