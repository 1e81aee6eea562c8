"""Variational autoencoders (Kingma & Welling 2014): perceptrons, convolutions, or linear (probabilistic PCA).

    python -m experiments.vae                        # 5,000 real MNIST digits, about 2 minutes on 2 CPU cores
    python -m experiments.vae --data idx:FOLDER      # any MNIST-family files
    python -m experiments.vae iwae                   # the same network, importance-weighted
    python -m experiments.vae latent2                # two latents, the plane of which the report shows
    python -m experiments.vae patches --data npy:X   # small colour images; a bound in bits per dimension
    python -m experiments.vae ppca                   # a linear VAE beside its exact likelihood
    python -m experiments.vae paper --data tfds:mnist

The run folder's report shows samples, reconstructions and latent traversals, the test ELBO and the
100-sample importance-weighted bound.
"""

import dataclasses
import functools
import pathlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import base
from vaesr import data, inference, metrics, objectives, reports, training
from vaesr.distributions import example_keys
from vaesr.models.hierarchical_vae import HierarchicalVAE
from vaesr.models.vae import VAE

_SAMPLES_SEED = 1  # the same samples at every evaluation
_OF_LEVELS = ("discretised_logistic", "discretised_gaussian", "logistic_mixture")
_BINARISED = {
    "none": "grey or colour, as they are",
    "dynamic": "binarised anew at every step",
    "fixed": "binarised once",
    "threshold": "binary, grey > 0.5",
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network; image size and channels come from the data."""

    # Encoder and decoder: dense layers, strided and sub-pixel convolutions, or linear maps.
    architecture: Literal["mlp", "conv", "linear"] = "mlp"
    # Latent dimensions.
    latent: int = 20
    # Widths of the encoder's layers; the decoder mirrors them.
    hidden: tuple[int, ...] = (500,)
    # Dimensions of further latent layers above the first, for "mlp"; none is the plain VAE.
    upper_latents: tuple[int, ...] = ()
    # Widths of the dense layers between two latent layers.
    upper_hidden: tuple[int, ...] = (100, 100)
    # With upper latents: q(z_l | z_{l-1}) from the data up, or q(z_l | z_{l+1}, x) from the top down.
    inference: Literal["bottom_up", "top_down"] = "bottom_up"
    # p(x | z): Bernoulli pixels; Gaussian ones of fixed or learned scale; or 8-bit levels, whose bits per
    # dimension compare: a discretised logistic or Gaussian per channel, a mixture of logistics per pixel.
    likelihood: Literal[
        "bernoulli", "gaussian", "gaussian_learned",
        "discretised_logistic", "discretised_gaussian", "logistic_mixture",
    ] = "bernoulli"  # fmt: skip
    # Components of "logistic_mixture".
    mixtures: int = 10
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

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("beta", 0), ("kl_warmup", 0), ("free_bits", 0)):
            value = getattr(self, name)
            if value < least:
                flag = name.replace("_", "-")
                raise ValueError(f"--objective.{flag} must be at least {least}, got {value}.")
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
        likelihood, binarisation = self.model.likelihood, self.objective.binarisation
        if likelihood in _OF_LEVELS and binarisation not in ("auto", "none"):
            raise ValueError(
                f"--model.likelihood {likelihood} needs --objective.binarisation none, got {binarisation}."
            )
        if self.model.upper_latents and self.model.architecture != "mlp":
            raise ValueError("--model.upper-latents needs --model.architecture mlp.")
        if self.model.inference != "bottom_up" and not self.model.upper_latents:
            raise ValueError(f"--model.inference {self.model.inference} needs --model.upper-latents.")
        if self.model.upper_latents and self.objective.free_bits and self.model.inference == "bottom_up":
            raise ValueError("--objective.free-bits needs --model.inference top_down: bottom_up samples KLs.")
        if self.model.upper_latents and self.objective.gradient != "pathwise":
            raise ValueError("--model.upper-latents needs --objective.gradient pathwise.")


# Ten latents and weight decay: with 20 latents and no decay, 4,000 training images leave holes in the latent
# space, and a tenth of the samples come out as noise.
_DEFAULT = Config(
    data="embedded:digits",
    steps=5000,
    batch_size=128,
    model=ModelConfig(latent=10, hidden=(400, 200), activation="silu"),
    optim=training.OptimConfig(name="adamw", lr=1e-3, schedule="cosine", weight_decay=0.1),
)
# Burda et al. 2016, section 5: 3280 epochs in stages of 1, 3, ..., 3^7, here of the 54,000 images that are
# not for validation.
_IWAE_PAPER = dataclasses.replace(
    _DEFAULT, data="tfds:mnist", steps=3280 * 2700, batch_size=20, eval_every=27_000, checkpoint_every=27_000,
    log_every=900, bound_samples=5000, model=ModelConfig(latent=50, hidden=(200, 200)),
    objective=ObjectiveConfig(kind="iwae", samples=50),
    optim=training.OptimConfig(lr=1e-3, schedule="stages", final=0.1, eps=1e-4),
)  # fmt: skip
PRESETS = {
    "smoke": dataclasses.replace(
        _DEFAULT, steps=20, batch_size=16, eval_every=20, checkpoint_every=20, log_every=10,
        bound_samples=5, eval_limit=64, model=ModelConfig(latent=4, hidden=(32,)),
    ),
    "default": _DEFAULT,
    # Two latents: the report shows the whole plane of them.
    "latent2": dataclasses.replace(
        _DEFAULT, model=ModelConfig(latent=2, hidden=(400, 200), activation="silu")
    ),
    "conv": dataclasses.replace(
        _DEFAULT, model=ModelConfig(architecture="conv", latent=20, hidden=(32, 64), activation="silu")
    ),
    # 8-bit images of 32x32 pixels, such as --data npy:FILE or folder:FOLDER: bits per dimension that compare.
    "patches": dataclasses.replace(
        _DEFAULT, batch_size=64, bound_samples=20,
        model=ModelConfig("conv", 128, (64, 128), activation="silu", likelihood="logistic_mixture"),
        optim=training.OptimConfig(lr=1e-3, schedule="cosine", clip_norm=1e4),
    ),
    # The default's network and steps with 50 samples.
    "iwae": dataclasses.replace(
        _DEFAULT, objective=ObjectiveConfig(kind="iwae", samples=50, gradient="dreg")
    ),
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
    "iwae_paper": _IWAE_PAPER,
    "iwae_paper_2layer": dataclasses.replace(
        _IWAE_PAPER, model=ModelConfig(latent=100, hidden=(200, 200), upper_latents=(50,))
    ),
}  # fmt: skip


def build(config: Config) -> base.Experiment:
    """Wire data, network, objective and evaluation.

    Args:
        config: see `Config`.

    Returns:
        The experiment.
    """
    bank = base.open_images(config)
    image_shape = bank.pixels.shape[1:]
    sampler = data.ImageSampler(bank, "train", config.batch_size)
    model = _model(config, image_shape)
    hierarchical = isinstance(model, HierarchicalVAE)
    encode, decode = base.bind(model, "encode"), base.bind(model, "draw" if hierarchical else "decode")
    likelihood = _likelihood(config.model)
    binarisation = _binarisation(config)
    objective = _objective(config, encode, decode, likelihood, binarisation)

    def init(key: jax.Array) -> tuple[dict[str, Any], Any]:
        images = jnp.zeros((1, *image_shape), jnp.float32)
        return {"vae": model.init(key, images)["params"]}, {}

    bound = objectives.evaluate_hierarchical_bound if hierarchical else objectives.evaluate_bound
    bound = functools.partial(bound, encode, decode, likelihood)
    measure = inference.compile_bound(bound, binarisation=binarisation)
    evaluate = functools.partial(inference.mean_bounds, bank, measure)
    posteriors = functools.partial(inference.posteriors, bank, jax.jit(encode), binarisation=binarisation)
    # The best checkpoint is the best by what is trained.
    judged = config.objective.samples if config.objective.kind == "iwae" else 1
    is_ppca = config.model.architecture == "linear" and config.model.likelihood == "gaussian_learned"

    def finish(params: dict[str, Any], variables: Any) -> dict[str, float]:
        results = evaluate(params["vae"], "test", samples=config.bound_samples)
        if not hierarchical:
            mean_q, _ = posteriors(params["vae"], "test")
            results["active_units"] = float(metrics.active_units(mean_q))
        if is_ppca and binarisation == "none":
            exact = inference.exact_pca_log_likelihood(bank, "train", latent=config.model.latent)
            results |= _against_ppca(exact, evaluate(params["vae"], "train", samples=1000))
        return results

    return base.Experiment(
        model=inference.describe_model(model),
        init=init,
        players={
            "vae": training.Player(objective, training.make_optimizer(config.optim, steps=config.steps))
        },
        sampler=sampler,
        evaluate=lambda params, variables: evaluate(
            params["vae"], "validation", samples=judged, limit=config.eval_limit
        ),
        score=f"bound_{judged}_nats" if judged > 1 else "elbo_nats",
        finish=finish,
        figures=_figures(bank, model, config, posteriors),
    )


def _model(config: Config, image_shape: tuple[int, int, int]) -> VAE | HierarchicalVAE:
    fields = dataclasses.asdict(config.model)
    common = {name: fields[name] for name in ("likelihood", "activation", "precision")}
    common |= {"image_shape": image_shape, "dtype": jnp.dtype(config.compute_dtype)}
    model = config.model
    if model.upper_latents:
        return HierarchicalVAE(
            latents=(model.latent, *model.upper_latents),
            hidden=(model.hidden, *[model.upper_hidden] * len(model.upper_latents)),
            inference=model.inference,
            **common,
        )
    own = {name: fields[name] for name in ("architecture", "latent", "hidden", "mixtures")}
    return VAE(**own, **common)


def _objective(
    config: Config, encode: Any, decode: Any, likelihood: objectives.Likelihood, binarisation: str
) -> objectives.Objective:
    """The training objective; `decode` is the model's `draw` where it has several latent layers."""
    settings = config.objective
    common = {"samples": settings.samples, "binarisation": binarisation}
    if not config.model.upper_latents:
        common["gradient"] = settings.gradient
    if settings.kind == "iwae":
        iwae = objectives.hierarchical_iwae if config.model.upper_latents else objectives.iwae
        return iwae(encode, decode, likelihood, **common)
    elbo = objectives.hierarchical_elbo if config.model.upper_latents else objectives.elbo
    return elbo(encode, decode, likelihood, beta=_beta(settings), free_bits_nats=settings.free_bits, **common)


def _likelihood(config: ModelConfig) -> objectives.Likelihood:
    if config.likelihood == "bernoulli":
        return objectives.BernoulliLikelihood()
    if config.likelihood == "gaussian":
        return objectives.GaussianLikelihood(config.scale)
    if config.likelihood == "discretised_logistic":
        return objectives.DiscretisedLogisticLikelihood()
    if config.likelihood == "discretised_gaussian":
        return objectives.DiscretisedGaussianLikelihood()
    if config.likelihood == "logistic_mixture":
        return objectives.LogisticMixtureLikelihood(config.mixtures)
    return objectives.LearnedGaussianLikelihood()


def _binarisation(config: Config) -> str:
    if config.objective.binarisation != "auto":
        return config.objective.binarisation
    return "dynamic" if config.model.likelihood == "bernoulli" else "none"


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
    """The function that draws samples and reconstructions, of a plain VAE its latents too."""
    binarisation = _binarisation(config)
    hierarchical = isinstance(model, HierarchicalVAE)
    mean_image, reconstruct = base.bind(model, "mean_image"), base.bind(model, "reconstruct")
    to_image = jax.jit(lambda params, z: jnp.clip(mean_image(params, z), 0.0, 1.0))
    decode, likelihood = base.bind(model, "decode"), _likelihood(config.model)
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
        if config.model.likelihood in _OF_LEVELS:
            keys = example_keys(jax.random.key(_SAMPLES_SEED), jnp.arange(len(z)))
            reports.save_grid(
                directory / "7_draws.png",
                draw_pixels(params["vae"], z, keys),
                columns=10,
                caption="The same z, every pixel drawn from p(x | z) by itself: what the likelihood is of.",
            )
        batch = next(inference.split_batches(bank, "validation", limit=config.eval_limit))
        held = np.asarray(batch["mask"], bool)
        shown = inference.measured_images(batch, binarisation=binarisation)[held][:20]
        if hierarchical:
            again = jnp.clip(reconstruct(params["vae"], shown), 0.0, 1.0)
        else:
            mean_q, log_var_q = posteriors(params["vae"], "validation", limit=config.eval_limit)
            labels = inference.split_labels(bank, "validation", limit=config.eval_limit)
            again = render(mean_q[: len(shown)])
            inference.save_latent_figures(directory, render, mean_q, log_var_q, labels, of_images=of_images)
        reports.save_image(
            directory / "2_reconstructions.png",
            reports.reconstruction_figure(shown, again),
            caption=f"{of_images.capitalize()} over their reconstructions, the mean of p(x | z).",
        )

    return draw


if __name__ == "__main__":
    base.main("experiments.vae", PRESETS, build)
