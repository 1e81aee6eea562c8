"""Bayesian neural networks: Bayes by Backprop (Blundell et al. 2015) beside an ensemble and MC dropout.

    python -m experiments.bnn                                  # 4,000 real MNIST digits
    python -m experiments.bnn --data idx:FOLDER                # any MNIST-family files
    python -m experiments.bnn regression                       # a curve with error bars
    python -m experiments.bnn paper --data tfds:mnist --model.hidden 800 800
    python -m experiments compare runs/bnn/seed0 runs/bnn/seed1  # mean and spread over seeds

All methods see the same batches in one run. The report compares error, likelihood, calibration and the
detection of foreign images, and shows what a pruned Bayesian network still knows.

Expected: a better likelihood than one network's. Measured: five seeds, NLL 0.146 ± 0.006, error 3.9 ± 0.2 %,
ECE 0.019 (one network 0.173 ± 0.007, 4.9 %, 0.019; ensemble 0.168, 4.5 %, 0.017; MC dropout 0.151 ± 0.003,
4.3 %, 0.019); each seed 180 to 290 s on one CPU core.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax

from experiments.recipes import images
from vaesr import data, distributions, evaluators, layers, objectives, runs, training
from vaesr.models.classifier import Classifier

# Every evaluation draws the same weights, so that the numbers of two checkpoints compare.
_EVAL_SEED = 1
_CURVE = "curve:blundell"


@dataclasses.dataclass(frozen=True)
class BayesConfig:
    """Posterior, prior and the bound that the Bayesian network maximises."""

    # Prior: a Gaussian of `scale` / sqrt(fan-in); of `scale`; of `scale` / sqrt(fan-in) around the
    # posterior's mean; or the paper's mixture of `scale` and `narrow`.
    prior: Literal["fan_in", "gaussian", "tied", "mixture"] = "fan_in"
    # Standard deviation of the prior.
    scale: float = 1.0
    # "mixture": standard deviation of the narrow part.
    narrow: float = math.exp(-6.0)
    # "mixture": share of the wide part.
    wide_share: float = 0.5
    # First standard deviation of the weights, times sqrt(fan-in).
    initial_scale: float = 0.1
    # Noise on the layers' outputs, on the weights with signs of each example, or on the weights.
    how: Literal["local", "flipout", "weights"] = "local"
    # Draws of the weights per step.
    samples: int = 1
    # Weight of the KL; below 1 the posterior is sharper than Bayes' rule makes it.
    kl_weight: float = 1.0
    # Steps over which the weight of the KL grows from 0.
    kl_warmup: int = 0
    # Spread the KL over an epoch's batches evenly, or halving from each to the next.
    kl_spread: Literal["even", "halving"] = "even"

    def __post_init__(self) -> None:
        runs.check_least(self, 1, "samples", prefix="bayes.")
        runs.check_least(self, 0, "kl_weight", "kl_warmup", prefix="bayes.")
        for name in ("scale", "narrow", "initial_scale"):
            if not getattr(self, name) > 0:
                flag = name.replace("_", "-")
                raise ValueError(f"--bayes.{flag} must be above 0, got {getattr(self, name)}.")
        if not 0 < self.wide_share < 1:
            raise ValueError(f"--bayes.wide-share must lie in (0, 1), got {self.wide_share}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """A Bayesian network and those it is compared with, on labelled images or on a curve."""

    # Which networks are trained; member 0 of the ensemble is the deterministic one of the tables.
    methods: tuple[Literal["bnn", "ensemble", "dropout"], ...] = ("bnn", "ensemble", "dropout")
    # Network that all methods share.
    model: Annotated[Classifier, runs.Fixed("input_shape", "outputs", "dropout")] = Classifier()
    # Bayesian network.
    bayes: BayesConfig = BayesConfig()
    # Optimizer of the Bayesian network.
    optim: training.OptimConfig = training.OptimConfig()
    # Networks in the ensemble.
    members: int = 5
    # Share of the hidden units that MC dropout drops.
    dropout: float = 0.2
    # Optimizer of the ensemble.
    point_optim: training.OptimConfig = training.OptimConfig()
    # Steps over which the ensemble's "cosine" ends, at most `steps`: networks without uncertainty overfit
    # sooner. 0: all.
    point_steps: int = 0
    # Optimizer of MC dropout, which regularises itself.
    dropout_optim: training.OptimConfig = training.OptimConfig()
    # Steps over which its "cosine" ends, at most `steps`. 0: all.
    dropout_steps: int = 0
    # Checkpoint that is tested: of the best validation likelihood of the first method, or the last one, when
    # every method's training has ended.
    select: Literal["best", "last"] = "best"
    # Draws of weights or masks that a prediction averages; 20 in place of 100 cost 0.003 nats of NLL.
    draws: int = 100
    # Times that the test split is predicted, each with other draws: figures are means, beside their spread.
    repeats: int = 1
    # Source of images that are foreign to the networks; "auto" takes the embedded digits, and for these
    # patches of the embedded photos; "none" leaves them out.
    ood: str = "auto"
    # Examples of the validation split that each evaluation reads.
    eval_limit: int = 10_000
    # Training points of the regression.
    points: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        runs.check_least(self, 1, "members", "draws", "repeats", "eval_limit", "points")
        for name in ("point", "dropout"):
            steps, schedule = getattr(self, f"{name}_steps"), getattr(self, f"{name}_optim").schedule
            if steps < 0 or (steps and schedule != "cosine"):
                raise ValueError(
                    f"--{name}-steps must be at least 0 and needs --{name}-optim.schedule cosine, "
                    f"got {steps} and {schedule}; --{name}-steps 0 is for all steps."
                )
        if self.point_optim.clip_norm:
            raise ValueError(
                "--point-optim.clip-norm must be 0: one norm over all members would couple them."
            )
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"--methods must name one or more different methods, got {self.methods}.")


_COSINE = training.OptimConfig(lr=1e-3, schedule="cosine")
# Tuned on the digits' validation split by the likelihood of the last step, twelve trials each: prior's scale,
# the KL's weight and the first deviation; weight decay, rate and length; what is dropped and these three.
# At its full weight the KL of all weights outweighs 4,000 labels: 22 % of validation errors in place of 4.
_DEFAULT = Config(
    data="embedded:digits",
    steps=6000,
    batch_size=128,
    eval_every=1500,
    checkpoint_every=1500,
    model=Classifier(hidden=(200, 200)),
    bayes=BayesConfig(kl_weight=0.01),
    optim=dataclasses.replace(_COSINE, lr=2e-3),
    dropout=0.35,
    point_optim=dataclasses.replace(_COSINE, name="adamw", weight_decay=2.0),
    point_steps=4000,
    dropout_optim=dataclasses.replace(_COSINE, name="adamw", weight_decay=1.0),
    select="last",
    repeats=5,
)
_BENCH = dataclasses.replace(
    _DEFAULT, data="random:60000x28x28x1", dtype="float32", methods=("bnn",), ood="none",
    model=Classifier(hidden=(400, 400), input_scale=255 / 126),
    bayes=BayesConfig(prior="gaussian"), optim=training.OptimConfig(lr=1e-4),
)  # fmt: skip
PRESETS = {
    "smoke": dataclasses.replace(
        _DEFAULT, steps=20, batch_size=16, eval_every=20, checkpoint_every=20, log_every=10, eval_limit=64,
        members=2, draws=2, repeats=2, select="best", model=Classifier(hidden=(16,)),
        optim=training.OptimConfig(), dropout_optim=training.OptimConfig(),
        point_optim=training.OptimConfig(), point_steps=0,
    ),
    "default": _DEFAULT,
    # Tuned on the validation split of Fashion-MNIST: --data idx:FOLDER.
    "fashion": dataclasses.replace(
        _DEFAULT, steps=14_000, eval_every=2000, checkpoint_every=2000,
        bayes=BayesConfig(prior="gaussian", scale=1.0, kl_weight=0.05),
        dropout=0.2, dropout_optim=_COSINE, point_steps=0,
        point_optim=dataclasses.replace(_COSINE, name="adamw", weight_decay=0.3),
    ),
    # Blundell et al. 2015, section 5.2: the curve of figure 5.
    "regression": dataclasses.replace(
        _DEFAULT, data=_CURVE, steps=8000, batch_size=100, dropout=0.1, draws=200, select="best", repeats=1,
        model=Classifier(hidden=(50, 50), input_shift=0.25, input_scale=4.0),
        bayes=BayesConfig(scale=3.0),
        optim=dataclasses.replace(_COSINE, lr=3e-3), point_optim=_COSINE, point_steps=0,
        dropout_optim=_COSINE,
    ),
    # Blundell et al. 2015, section 5.1: 600 epochs of 50,000 digits; --model.hidden 800 800 or 1200 1200.
    "paper": dataclasses.replace(
        _DEFAULT, data="tfds:mnist", steps=234_000, eval_every=3900, checkpoint_every=3900, draws=10,
        select="best", repeats=1, dropout=0.5, model=Classifier(hidden=(400, 400), input_scale=255 / 126),
        bayes=BayesConfig(prior="mixture", initial_scale=1.0, how="weights", kl_spread="halving"),
        optim=training.OptimConfig(name="sgd", lr=0.1, b1=0.0),
        point_optim=training.OptimConfig(name="sgd", lr=0.1, b1=0.0), point_steps=0,
        dropout_optim=training.OptimConfig(name="sgd", lr=0.1, b1=0.0),
    ),
    # What benchmarks measure: the paper's network alone.
    "bench": _BENCH,
    "bench_weights": dataclasses.replace(_BENCH, bayes=BayesConfig(prior="gaussian", how="weights")),
}  # fmt: skip


def build(config: Config) -> runs.Experiment:
    """Wire data, networks, objectives and evaluation."""
    return _curve(config) if config.data == _CURVE else _images(config)


@dataclasses.dataclass(frozen=True)
class _Method:
    """One player: its network's forward pass `[S, B, ...]`, initial parameters, objective and draws."""

    forward: Any
    init: Callable[[jax.Array, jax.Array], Any]
    player: training.Player
    draws: int


def _methods(
    config: Config, model: Classifier, nll: Any, size: int, *, inputs: str, outputs: Any = lambda x: x
) -> dict[str, _Method]:
    """The players that were asked for; `outputs` says what the network's numbers mean."""
    dropout = model.clone(dropout=config.dropout)
    forwards = {
        "bnn": layers.bayesian_apply(model, how=config.bayes.how),
        "ensemble": layers.ensemble_apply(model),
        "dropout": layers.dropout_apply(dropout),
    }
    plain = lambda key, x: model.init(key, x)["params"]  # noqa: E731
    inits = {
        "bnn": lambda key, x: distributions.mean_field(
            plain(key, x), scale=_by_fan_in(config.bayes.initial_scale)
        ),
        "ensemble": lambda key, x: jax.vmap(plain, (0, None))(jax.random.split(key, config.members), x),
        "dropout": plain,
    }
    optims = {"bnn": config.optim, "ensemble": config.point_optim, "dropout": config.dropout_optim}
    lengths = {"bnn": 0, "ensemble": config.point_steps, "dropout": config.dropout_steps}
    methods = {}
    for name in config.methods:
        forward = _then(outputs, forwards[name])
        if name == "bnn":
            objective = _bayesian(config, forward, nll, size, inputs)
            # Predictions of many inputs share their draws, so that a drawn curve is smooth.
            forward = _then(outputs, layers.bayesian_apply(model, how="weights"))
        else:
            objective = objectives.supervised(forward, nll, player=name, inputs=inputs)
        length = min(lengths[name] or config.steps, config.steps)
        player = training.Player(objective, training.make_optimizer(optims[name], steps=length))
        draws = config.members if name == "ensemble" else config.draws
        methods[name] = _Method(forward, inits[name], player, draws)
    return methods


def _then(outputs: Any, forward: Any) -> Any:
    return lambda *args, **kwargs: outputs(forward(*args, **kwargs))


def _by_fan_in(scale: float) -> Callable[[Any, jax.Array], float]:
    """`scale` over the root of the number of inputs of a unit; a bias has one."""
    return lambda path, leaf: scale / math.sqrt(math.prod(leaf.shape[:-1]) or 1)


def _bayesian(config: Config, forward: Any, nll: Any, size: int, inputs: str) -> objectives.Objective:
    bayes = config.bayes
    priors: dict[str, Callable[[], Any]] = {
        "fan_in": lambda: distributions.GaussianPrior(_by_fan_in(bayes.scale)),
        "gaussian": lambda: distributions.GaussianPrior(bayes.scale),
        "tied": lambda: lambda q: distributions.GaussianPrior(_by_fan_in(bayes.scale), mean=q["mean"]),
        "mixture": lambda: distributions.ScaleMixturePrior(bayes.wide_share, bayes.scale, bayes.narrow),
    }
    warm = bayes.kl_warmup
    batches = max(size // config.batch_size, 1)
    return objectives.bayesian(
        forward, nll,
        dataset_size=size,
        prior=priors[bayes.prior](),
        samples=bayes.samples,
        kl_form="sampled" if bayes.prior == "mixture" else "closed",
        kl_weight=optax.linear_schedule(0.0, bayes.kl_weight, warm) if warm else bayes.kl_weight,
        minibatch_weights=objectives.blundell_weights(batches) if bayes.kl_spread == "halving" else None,
        inputs=inputs,
    )  # fmt: skip


def _init(methods: dict[str, _Method], example: jax.Array) -> Callable[[jax.Array], Any]:
    def init(key: jax.Array) -> tuple[dict[str, Any], Any]:
        keys = jax.random.split(key, len(methods))
        return {n: m.init(k, example) for (n, m), k in zip(methods.items(), keys, strict=True)}, {}

    return init


def _model(config: Config, shape: tuple[int, ...], outputs: int) -> Classifier:
    dtype = jnp.dtype(config.compute_dtype)
    return config.model.clone(input_shape=shape, outputs=outputs, dtype=dtype)


def _experiment(
    config: Config,
    model: Classifier,
    methods: dict[str, _Method],
    shape: tuple[int, ...],
    sampler: Any,
    evaluator: evaluators.ClassificationEvaluator | evaluators.CurveEvaluator,
    *,
    shown: str,
) -> runs.Experiment:
    """The methods and their evaluator; `shown` names the method whose likelihood chooses the checkpoint."""
    # Which network `load_run` gives, and how its parameters are kept.
    kept = {"bnn": "posterior", "ensemble": "stacked", "dropout": "plain"}[config.methods[0]]
    return runs.Experiment(
        model=runs.describe_model(model) | {"player": config.methods[0], "params": kept},
        init=_init(methods, jnp.zeros((1, *shape), jnp.float32)),
        players={name: method.player for name, method in methods.items()},
        sampler=sampler,
        evaluate=evaluator.evaluate,
        best_by=f"-{shown}_nll_nats" if config.select == "best" else None,
        evaluate_test=evaluator.evaluate_test,
        figures=evaluator.figures,
    )


# --- Classification of images ---


def _images(config: Config) -> runs.Experiment:
    bank = images.open_images(config)
    if bank.labels is None:
        raise runs.UserError(f"--data must have labels for classification; {config.data} has none.")
    shape = bank.pixels.shape[1:]
    sampler = data.ImageSampler(bank, "train", config.batch_size)
    model = _model(config, shape, int(bank.labels.max()) + 1)
    methods = _methods(config, model, objectives.classification_nll, sampler.size, inputs="image")
    evaluator = evaluators.ClassificationEvaluator(
        bank, {name: _predict(method) for name, method in methods.items()},
        limit=config.eval_limit, foreign=_foreign_source(config), repeats=config.repeats,
    )  # fmt: skip
    shown = "deterministic" if config.methods[0] == "ensemble" else config.methods[0]
    return _experiment(config, model, methods, shape, sampler, evaluator, shown=shown)


def _predict(method: _Method) -> evaluators.Predict:
    @jax.jit
    def predict(params: Any, images: jax.Array, position: jax.Array, repeat: int = 0) -> jax.Array:
        keys = jax.random.split(jax.random.key(_EVAL_SEED + repeat), method.draws)
        return jax.nn.log_softmax(method.forward(params, images, keys=keys, position=position))

    return predict


def _foreign_source(config: Config) -> str | None:
    if config.ood == "auto":
        return "embedded:photos" if config.data.startswith("embedded:digits") else "embedded:digits"
    return None if config.ood == "none" else config.ood


# --- Regression ---


def _curve(config: Config) -> runs.Experiment:
    points = data.blundell_curve(config.points, seed=config.seed)
    sampler = data.ArraySampler(points, config.batch_size)
    model = _model(config, (1,), 2)
    nll = objectives.regression_nll
    methods = _methods(config, model, nll, sampler.size, inputs="x", outputs=_mean_and_log_scale)
    forwards = {name: (method.forward, method.draws) for name, method in methods.items()}
    evaluator = evaluators.CurveEvaluator(points, forwards, seed=config.seed)
    return _experiment(config, model, methods, (1,), sampler, evaluator, shown=config.methods[0])


def _mean_and_log_scale(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What two numbers an example mean; the scale of the noise is bounded, else it explodes off the data."""
    return outputs[..., 0], jnp.log(0.01 + 0.2 * jax.nn.sigmoid(outputs[..., 1]))


if __name__ == "__main__":
    runs.main(PRESETS, build)
