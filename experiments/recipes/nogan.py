"""NoGAN, three trainings: the U-Net alone with features, a critic alone, both for a short time in turns."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from experiments.recipes import adversarial, restoration
from vaesr import data, evaluators, losses, objectives, reports, runs, training
from vaesr.data.degraded import Degradation
from vaesr.models.critic import Critic
from vaesr.models.resnet import ResNetBody
from vaesr.models.unet import UNet
from vaesr.pretrained import read_resnet

GENERATOR, CRITIC = "generator", "critic"


@dataclasses.dataclass(frozen=True)
class CriticConfig:
    """The critic's training alone."""

    # Training steps.
    steps: int
    # Optimizer.
    optim: training.OptimConfig
    # Steps between evaluations and checkpoints.
    eval_every: int = 500
    # Critic.
    model: Critic = Critic()

    def __post_init__(self) -> None:
        runs.check_least(self, 1, "steps", "eval_every", prefix="critic.")
        restoration.check_sizes("critic.model", self.model)
        if not 0 <= self.model.dropout < 1:
            raise ValueError(f"--critic.model.dropout must lie in [0, 1), got {self.model.dropout}.")


@dataclasses.dataclass(frozen=True)
class JointConfig:
    """The joint phase: short, in turns."""

    # Steps, the critic's and the generator's together.
    steps: int
    # Generator's optimizer.
    optim: training.OptimConfig
    # Critic's learning rate by the generator's.
    critic_rate: float = 5.0
    # Steps between evaluations, pictures and checkpoints.
    eval_every: int = 100
    # The critic's loss below which the generator moves, once.
    threshold: float = 0.65
    # Weight of the generator's adversarial loss.
    adversarial_weight: float = 1.0
    # Weight of the loss of the first stage, or of the squared error.
    restoration_weight: float = 1.5
    # What holds the generator: the first stage's loss, or the squared error.
    restoration: Literal["features", "mse"] = "features"

    def __post_init__(self) -> None:
        for name in ("steps", "eval_every", "critic_rate", "threshold"):
            if not getattr(self, name) > 0:
                flag = name.replace("_", "-")
                raise ValueError(f"--joint.{flag} must be above 0, got {getattr(self, name)}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(adversarial.Config):
    """A U-Net that restores photographs; the shared flags are the first stage's."""

    RENAMED: ClassVar[dict[str, str]] = {
        "judge": "perceptual_metric",
        **{f"critic.{name}": f"critic.model.{name}" for name in ("channels", "blocks", "dropout", "dense")},
    }

    # U-Net.
    model: Annotated[UNet, runs.Fixed("keep_luma")] = UNet(self_attention=True, output_range=(-3.0, 3.0))
    # Second stage: the critic alone.
    critic: CriticConfig
    # Third stage: both.
    joint: JointConfig
    # Make photos so many times smaller first: patches then show more of them.
    shrink: int = 1
    # torchvision's file of the encoder's weights, such as resnet34-b627a593.pth; none starts from scratch.
    encoder: pathlib.Path | None = None
    # Weights of the features before VGG's third, fourth and fifth pooling. fastai's 5, 15, 2 are for VGG16
    # with batch norm; these give plain VGG16's larger features about the same share of the loss.
    feature_weights: tuple[float, float, float] = (0.15, 0.37, 0.5)
    # Weights of their Gram matrices; none leaves them out. fastai's are 5000 times the squared weights above.
    style_weights: tuple[float, float, float] | None = (66.0, 620.0, 2670.0)
    # Stop after the first stage; --resume --no-only-generator goes on.
    only_generator: bool = runs.changeable(False)

    @property
    def side(self) -> int:
        """Pixels a side of what the networks see in training."""
        return self.patch * self.scale

    def allowed_scales(self) -> tuple[int, ...]:
        """The scales that the network takes."""
        return (1, 2, 3, 4, 8)

    def __post_init__(self) -> None:
        super().__post_init__()
        runs.check_least(self, 1, "shrink")
        if self.encoder is not None and self.init_from is not None:
            raise ValueError("--encoder and --init-from both say what the generator starts from: give one.")
        least = 4 * 2 ** (self.critic.model.blocks + 1)
        if self.side < least:
            raise ValueError(
                f"--patch {self.patch} makes images of {self.side} pixels; the critic takes {least} and more."
            )


@dataclasses.dataclass(frozen=True)
class Task:
    """What the stages have in common.

    Attributes:
        degradation: what is to be undone.
        keep_luma: the network adds chroma alone.
        extra_metrics: metrics beside PSNR and SSIM.
        root: the first stage's run folder.
    """

    degradation: Degradation
    keep_luma: bool
    extra_metrics: dict[str, evaluators.Metric]
    root: pathlib.Path


def make_generator(task: Task, config: Config) -> UNet:
    """The U-Net of a configuration."""
    # "loop": on CPUs, convolution gradients inside the `lax.cond` of a turn are as slow as inside loops.
    return config.model.clone(
        dtype=jnp.dtype(config.compute_dtype), keep_luma=task.keep_luma, conv_form="loop",
        axis_name="data" if config.parallel == "pmap" else None,
    )  # fmt: skip


def make_critic(config: Config) -> Critic:
    """The critic of a configuration."""
    return config.critic.model.clone(dtype=jnp.dtype(config.compute_dtype), conv_form="loop")


# Losses are measured in ImageNet's units by the authors, whose networks see such images.
_UNIT = 0.226


def plan(
    config: Config, *, degradation: Degradation, keep_luma: bool, extra_metrics: dict[str, evaluators.Metric]
) -> Iterator[runs.Step]:
    """Generator alone, critic alone, both; `config.workdir` is set.

    `degradation` is what is to be undone; with `keep_luma` the network adds chroma alone; `extra_metrics` are
    those beside PSNR and SSIM, of which LPIPS chooses the checkpoints where it is one.
    """
    assert config.workdir is not None
    task = Task(degradation, keep_luma, extra_metrics, config.workdir)
    yield runs.Stage("", config, functools.partial(build_generator, task))
    if config.only_generator:
        return
    alone, joint = (adversarial.own_config(config, stage) for stage in (config.critic, config.joint))
    yield runs.Stage("critic", alone, functools.partial(build_critic, task))
    joint = dataclasses.replace(joint, log_every=min(10, config.joint.steps))
    yield runs.Stage("joint", joint, functools.partial(build_joint, task))
    yield functools.partial(compare, task, config)


def compare(task: Task, config: Config) -> None:
    """The turns of the joint phase, and both generators on the test photos; into the first stage's report."""
    figures = task.root / "figures"
    rows = [r for r in reports.read_metrics(task.root / "joint") if r["split"] == "train"]
    rows = [r for r in rows if "critic/loss" in r]
    steps, threshold = [r["step"] for r in rows], [config.joint.threshold] * len(rows)
    panels = [
        reports.Panel(
            "the generator moves below the line", "step", "critic's loss",
            (
                reports.Line("mean of the last steps", steps, [r["critic/loss"] for r in rows]),
                reports.Line("threshold", steps, threshold, dashed=True),
            ),
        ),
        reports.Panel(
            "whose turn it is", "step", "generator's share of steps",
            (reports.Line("mean of the last steps", steps, [r["generator/moved"] for r in rows]),),
        ),
    ]  # fmt: skip
    words = (
        "The joint phase: the critic moves until its loss is below the threshold, then the generator, once."
    )
    reports.save_image(figures / "1_turns.png", reports.plot_panels(panels), caption=words)
    bank = data.open_bank(config.data, strict=config.strict)
    evaluator = _evaluator(task, config, bank, "")
    upscalers = {}
    for name, folder in (("generator alone", task.root), ("NoGAN", task.root / "joint")):
        run = runs.load_run(folder)
        upscalers[name] = evaluator.upscaler(run.params, run.variables)
    # A number in the picture's corner is seen in whole photos, a texture in details of large ones.
    whole = task.keep_luma or config.test_crop <= adversarial.WHOLE
    adversarial.save_strips(
        evaluator, upscalers, figures, pairs=evaluator.test, name="2_test_{}.png", whole=whole
    )
    reports.write_report(task.root)


def _loss_parts(config: Config) -> tuple[dict[str, Any], Any, str]:
    """The feature loss as keyword arguments, its network's variables, and what it is in words."""
    trunk, features, words = adversarial.load_features(config, "before_pooling")
    count = len(trunk.taps)
    apply: Any = trunk.apply
    content = objectives.feature_content(
        apply, weights=config.feature_weights[:count],
        style_weights=config.style_weights[:count] if config.style_weights else None,
    )  # fmt: skip
    return {"pixel_weight": 1 / _UNIT, "content": content}, features, words


def _sampler(task: Task, config: Config, bank: data.Bank) -> data.DegradedSampler:
    return data.DegradedSampler(
        bank, "train", config.batch_size, scale=config.scale, patch=config.patch,
        degradation=task.degradation, shrink=config.shrink,
    )  # fmt: skip


def _evaluator(task: Task, config: Config, bank: data.Bank, label: str) -> evaluators.PhotoEvaluator:
    return evaluators.PhotoEvaluator(
        bank, restoration.unmapped(make_generator(task, config)), player=GENERATOR, label=label,
        eval_crop=config.eval_crop, test_crop=config.test_crop, extra_metrics=task.extra_metrics,
        degradation=task.degradation, shrink=config.shrink,
    )  # fmt: skip


def build_generator(task: Task, config: Config) -> runs.Experiment:
    """The first stage: the U-Net with pixel, feature and Gram losses."""
    bank = data.open_bank(config.data, strict=config.strict)
    model = make_generator(task, config)
    parts, features, words = _loss_parts(config)
    evaluator = _evaluator(task, config, bank, "generator")
    start = restoration.start_from(config.init_from, GENERATOR) if config.init_from else None
    if config.encoder is not None:
        start = _encoder_from(config.encoder, model)
    init, begin = adversarial.with_features(
        lambda key: restoration.initial({GENERATOR: (model, (32, 32))}, key), start, features, words
    )
    objective = objectives.restoration(objectives.in_training(model.apply), player=GENERATOR, **parts)
    return runs.Experiment(
        model=runs.describe_model(restoration.unmapped(model)) | {"trained_with": words},
        init=init,
        players={
            GENERATOR: training.Player(objective, training.make_optimizer(config.optim, steps=config.steps))
        },
        sampler=_sampler(task, config, bank),
        evaluate=evaluator.evaluate,
        best_by=_best_by(task),
        evaluate_test=evaluator.evaluate_test,
        figures=functools.partial(_figures, evaluator, task),
        ema_decay=config.ema_decay or None,
        warm_start=begin,
    )


def _encoder_from(path: pathlib.Path, model: UNet) -> Any:
    """A warm start of the U-Net's encoder alone."""
    if not path.is_file():
        raise runs.UserError(f"--encoder {path}: there is no such file; give torchvision's, or leave it out.")
    body = ResNetBody(model.blocks, model.bottleneck, model.channels)
    weights, digest = read_resnet(path, body)

    def start(params: dict[str, Any], variables: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        print(f"encoder: {path.name}, sha256 {digest}", flush=True)
        own, stats = params[GENERATOR], variables[GENERATOR]["batch_stats"]
        own = {**own, "encoder": weights["params"]}
        stats = {**stats, "encoder": weights["batch_stats"]}
        variables = {**variables, GENERATOR: {**variables[GENERATOR], "batch_stats": stats}}
        return {**params, GENERATOR: own}, variables

    return start


def _best_by(task: Task) -> str:
    """What chooses a checkpoint: the perceptual distance where there is one."""
    return "-lpips_alex" if "lpips_alex" in task.extra_metrics else "ssim_y"


def build_critic(task: Task, config: Config) -> runs.Experiment:
    """The second stage: the critic against the first stage's results; `config` is the stage's own."""
    bank = data.open_bank(config.data, strict=config.strict)
    model, critic = make_generator(task, config), make_critic(config)
    first = runs.load_run(task.root)
    frozen = jax.tree.map(jnp.asarray, first.collections)
    side = (config.side, config.side)

    def init(key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        params, variables = restoration.initial({CRITIC: (critic, side)}, key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), frozen)
        return params, {**variables, objectives.FROZEN: zeros}

    objective = objectives.critic_alone(_still(model), objectives.in_training(critic.apply), player=CRITIC)
    logits = jax.jit(lambda collections, x: critic.apply(collections, x))

    def measure(params: dict[str, Any], variables: Any, split: str) -> dict[str, float]:
        pairs = evaluators.photo_pairs(
            bank, split, scale=config.scale, longest=max(config.eval_crop, config.side),
            degradation=task.degradation, shrink=config.shrink,
        )  # fmt: skip
        collections = {"params": params[CRITIC], **variables[CRITIC]}
        found = []
        for pair in pairs:
            x_sr = jnp.clip(first.apply(pair.lr[None]), 0, 1)
            real, fake = logits(collections, pair.hr[None]), logits(collections, x_sr)
            loss = losses.standard_discriminator_loss(real, fake)[0] / 2
            found.append((float(loss), float((real > 0).mean() + (fake < 0).mean()) / 2))
        columns = zip(("critic_loss", "accuracy"), zip(*found, strict=True), strict=True)
        return evaluators.means_with_errors(dict(columns))

    return runs.Experiment(
        model=runs.describe_model(critic),
        init=init,
        players={
            CRITIC: training.Player(
                objective, training.make_optimizer(config.critic.optim, steps=config.steps)
            )
        },
        sampler=_sampler(task, config, bank),
        evaluate=lambda params, variables: measure(params, variables, "validation"),
        best_by="-critic_loss",
        evaluate_test=lambda params, variables: measure(params, variables, "test"),
        figures=lambda params, variables, directory, step: None,
        warm_start=lambda params, variables: (params, {**variables, objectives.FROZEN: frozen}),
    )


def build_joint(task: Task, config: Config) -> runs.Experiment:
    """The third stage: critic and generator in turns; `config` is the stage's own."""
    bank = data.open_bank(config.data, strict=config.strict)
    model, critic = make_generator(task, config), make_critic(config)
    parts, features, words = _loss_parts(config)
    joint = config.joint
    if joint.restoration == "mse":
        parts = {"pixel_loss": losses.mse_loss, "pixel_weight": 1 / _UNIT**2}
    weight = joint.restoration_weight
    parts = {**parts, "pixel_weight": weight * parts["pixel_weight"], "content_weight": weight}
    both = objectives.nogan(
        objectives.in_training(model.apply), _still(model), objectives.in_training(critic.apply),
        _still(critic), threshold=joint.threshold, axis_name="data" if config.parallel == "pmap" else None,
        adversarial_weight=joint.adversarial_weight, players=(CRITIC, GENERATOR), **parts,
    )  # fmt: skip
    rates = {
        GENERATOR: joint.optim,
        CRITIC: dataclasses.replace(joint.optim, lr=joint.optim.lr * joint.critic_rate),
    }
    evaluator = _evaluator(task, config, bank, "NoGAN")

    def initial(key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        side = (config.side, config.side)
        params, variables = restoration.initial({CRITIC: (critic, side), GENERATOR: (model, (32, 32))}, key)
        return params, {**variables, objectives.TURN: jnp.array(False)}

    def start(params: dict[str, Any], variables: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        params, variables = restoration.start_from(task.root, GENERATOR)(params, variables)
        return restoration.start_from(task.root / "critic", CRITIC)(params, variables)

    init, begin = adversarial.with_features(initial, start, features, words)
    turns = objectives.turns(players=(CRITIC, GENERATOR))
    return runs.Experiment(
        model=runs.describe_model(restoration.unmapped(model)) | {"trained_with": words},
        init=init,
        players={
            name: training.Player(
                objective, training.make_optimizer(rates[name], steps=config.steps), turns[name]
            )
            for name, objective in both.items()
        },
        sampler=_sampler(task, config, bank),
        evaluate=evaluator.evaluate,
        best_by=_best_by(task),
        evaluate_test=evaluator.evaluate_test,
        figures=functools.partial(_joint_figures, evaluator, task),
        warm_start=begin,
    )


def _figures(
    evaluator: evaluators.PhotoEvaluator, task: Task, params: Any, variables: Any, directory: pathlib.Path,
    step: int,
) -> None:  # fmt: skip
    """Input and the generator's; what is judged in colour is drawn whole, with the PSNR of RGB."""
    upscalers = {evaluator.label: evaluator.upscaler(params, variables)}
    adversarial.save_strips(evaluator, upscalers, directory, whole=task.keep_luma)


def _joint_figures(
    evaluator: evaluators.PhotoEvaluator, task: Task, params: Any, variables: Any, directory: pathlib.Path,
    step: int,
) -> None:  # fmt: skip
    """Input, generator alone, and this step's: pictures of every evaluation stay, to choose by eye."""
    before = runs.load_run(task.root)
    upscalers = {
        "generator alone": lambda lr: before.apply(lr[None])[0],
        f"step {step}": evaluator.upscaler(params, variables),
    }
    name = f"validation_{{}}_step_{step:06d}.png"
    adversarial.save_strips(evaluator, upscalers, directory, name=name, limit=2, whole=task.keep_luma)


def _still(model: Any) -> Any:
    """Out of training; for the losses the whole output counts, so chroma is not transplanted."""
    model = model.clone(keep_luma=False) if isinstance(model, UNet) else model
    return lambda collections, images: model.apply(collections, images)
