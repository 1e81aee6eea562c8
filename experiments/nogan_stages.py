"""NoGAN, three trainings: the U-Net alone with features, a critic alone, both for a short time in turns."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from experiments import base, gan, sr, stages
from experiments.nogan import CRITIC, GENERATOR, Config, Task, make_critic, make_generator
from vaesr import data, inference, losses, objectives, reports, training
from vaesr.data.degraded import Degradation
from vaesr.models.resnet import ResNetBody
from vaesr.models.unet import UNet
from vaesr.pretrained import read_resnet

# Losses are measured in ImageNet's units by the authors, whose networks see such images.
_UNIT = 0.226


def plan(
    config: Config, *, degradation: Degradation, keep_luma: bool, opinions: dict[str, inference.Score]
) -> Iterator[stages.Stage]:
    """Generator alone, critic alone, both.

    Args:
        config: with `workdir` set.
        degradation: what is to be undone.
        keep_luma: the network adds chroma alone.
        opinions: metrics beside PSNR and SSIM; the first one chooses the joint phase's checkpoint.

    Yields:
        The trainings.
    """
    assert config.workdir is not None
    task = Task(degradation, keep_luma, opinions, config.workdir)
    yield stages.Stage("", config, functools.partial(build_generator, task))
    if config.only_generator:
        return
    alone = dataclasses.replace(
        config, steps=config.critic.steps, eval_every=config.critic.eval_every,
        checkpoint_every=config.critic.eval_every, log_every=min(config.log_every, config.critic.steps),
        ema_decay=0.0, init_from=None,
    )  # fmt: skip
    yield stages.Stage("critic", alone, functools.partial(build_critic, task))
    joint = dataclasses.replace(
        alone, steps=config.joint.steps, eval_every=config.joint.eval_every,
        checkpoint_every=config.joint.eval_every, log_every=min(10, config.joint.steps),
    )  # fmt: skip
    yield stages.Stage("joint", joint, functools.partial(build_joint, task))
    if jax.process_index() == 0:
        compare(task, config)


def compare(task: Task, config: Config) -> None:
    """The turns of the joint phase, and both generators on the test photos; into the first stage's report.

    Args:
        task: see `Task`.
        config: with `workdir` set.
    """
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
    study = _study(task, config, bank, "")
    upscalers = {}
    for name, folder in (("generator alone", task.root), ("NoGAN", task.root / "joint")):
        run = inference.load_run(folder)
        upscalers[name] = study.upscaler(run.params, run.variables)
    # A number in the picture's corner is seen in whole photos, a texture in details of large ones.
    whole = task.keep_luma or config.test_crop <= gan.WHOLE
    gan.save_strips(
        study.test, upscalers, figures, opinions=study.opinions, name="2_test_{}.png", whole=whole
    )
    reports.write_report(task.root)


def _loss_parts(config: Config) -> tuple[dict[str, Any], Any, str]:
    """The feature loss as keyword arguments, its network's variables, and what it is in words."""
    trunk, features, words = gan.load_features(config, "before_pooling")
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


def _study(task: Task, config: Config, bank: data.Bank, label: str) -> inference.PhotoStudy:
    return inference.PhotoStudy(
        bank, sr.unmapped(make_generator(task, config)), player=GENERATOR, label=label,
        eval_crop=config.eval_crop, test_crop=config.test_crop, opinions=task.opinions,
        degradation=task.degradation, shrink=config.shrink,
    )  # fmt: skip


def build_generator(task: Task, config: Config) -> base.Experiment:
    """The first stage: the U-Net with pixel, feature and Gram losses.

    Args:
        task: see `Task`.
        config: see `Config`.

    Returns:
        The experiment.
    """
    bank = data.open_bank(config.data, strict=config.strict)
    model = make_generator(task, config)
    parts, features, words = _loss_parts(config)
    study = _study(task, config, bank, "generator")
    start = sr.start_from(config.init_from, GENERATOR) if config.init_from else None
    if config.encoder is not None:
        start = _encoder_from(config.encoder, model)
    init, begin = gan.with_features(
        lambda key: sr.initial({GENERATOR: (model, (32, 32))}, key), start, features, words
    )
    objective = objectives.restoration(objectives.in_training(model.apply), player=GENERATOR, **parts)
    return base.Experiment(
        model=inference.describe_model(sr.unmapped(model)) | {"trained_with": words},
        init=init,
        players={
            GENERATOR: training.Player(objective, training.make_optimizer(config.optim, steps=config.steps))
        },
        sampler=_sampler(task, config, bank),
        evaluate=study.evaluate,
        score=_score(task),
        finish=study.finish,
        figures=functools.partial(_figures, study, task),
        ema_decay=config.ema_decay or None,
        warm_start=begin,
    )


def _encoder_from(path: pathlib.Path, model: UNet) -> Any:
    """A warm start of the U-Net's encoder alone."""
    if not path.is_file():
        raise base.UserError(f"--encoder {path}: there is no such file; give torchvision's, or leave it out.")
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


def _score(task: Task) -> str:
    """What chooses a checkpoint: the perceptual distance where there is one."""
    return "-lpips_alex" if "lpips_alex" in task.opinions else "ssim_y"


def build_critic(task: Task, config: Config) -> base.Experiment:
    """The second stage: the critic against the first stage's results.

    Args:
        task: see `Task`.
        config: the stage's own.

    Returns:
        The experiment.
    """
    bank = data.open_bank(config.data, strict=config.strict)
    model, critic = make_generator(task, config), make_critic(config)
    first = inference.load_run(task.root)
    frozen = jax.tree.map(jnp.asarray, first.collections)
    side = (config.side, config.side)

    def init(key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        params, variables = sr.initial({CRITIC: (critic, side)}, key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), frozen)
        return params, {**variables, objectives.FROZEN: zeros}

    objective = objectives.critic_alone(_still(model), objectives.in_training(critic.apply), player=CRITIC)
    judge = jax.jit(lambda collections, x: critic.apply(collections, x))

    def measure(params: dict[str, Any], variables: Any, split: str) -> dict[str, float]:
        pairs = inference.photo_pairs(
            bank, split, scale=config.scale, longest=max(config.eval_crop, config.side),
            degradation=task.degradation, shrink=config.shrink,
        )  # fmt: skip
        collections = {"params": params[CRITIC], **variables[CRITIC]}
        found = []
        for pair in pairs:
            x_sr = jnp.clip(first.apply(pair.lr[None]), 0, 1)
            real, fake = judge(collections, pair.hr[None]), judge(collections, x_sr)
            loss = losses.standard_discriminator_loss(real, fake)[0] / 2
            found.append((float(loss), float((real > 0).mean() + (fake < 0).mean()) / 2))
        return {
            "critic_loss": sum(x for x, _ in found) / len(found),
            "accuracy": sum(x for _, x in found) / len(found),
        }

    return base.Experiment(
        model=inference.describe_model(critic),
        init=init,
        players={
            CRITIC: training.Player(
                objective, training.make_optimizer(config.critic.optim, steps=config.steps)
            )
        },
        sampler=_sampler(task, config, bank),
        evaluate=lambda params, variables: measure(params, variables, "validation"),
        score="-critic_loss",
        finish=lambda params, variables: measure(params, variables, "test"),
        figures=lambda params, variables, directory, step: None,
        warm_start=lambda params, variables: (params, {**variables, objectives.FROZEN: frozen}),
    )


def build_joint(task: Task, config: Config) -> base.Experiment:
    """The third stage: critic and generator in turns.

    Args:
        task: see `Task`.
        config: the stage's own.

    Returns:
        The experiment.
    """
    bank = data.open_bank(config.data, strict=config.strict)
    model, critic = make_generator(task, config), make_critic(config)
    parts, features, words = _loss_parts(config)
    joint = config.joint
    if joint.restoration == "mse":
        parts = {"pixel_loss": losses.mse, "pixel_weight": 1 / _UNIT**2}
    weight = joint.restoration_weight
    parts = {**parts, "pixel_weight": weight * parts["pixel_weight"], "content_weight": weight}
    both = objectives.nogan(
        objectives.in_training(model.apply), _still(model), objectives.in_training(critic.apply),
        _still(critic), threshold=joint.threshold,
        adversarial_weight=joint.adversarial_weight, players=(CRITIC, GENERATOR), **parts,
    )  # fmt: skip
    rates = {
        GENERATOR: joint.optim,
        CRITIC: dataclasses.replace(joint.optim, lr=joint.optim.lr * joint.critic_rate),
    }
    study = _study(task, config, bank, "NoGAN")

    def initial(key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        side = (config.side, config.side)
        params, variables = sr.initial({CRITIC: (critic, side), GENERATOR: (model, (32, 32))}, key)
        return params, {**variables, objectives.TURN: jnp.array(False)}

    def start(params: dict[str, Any], variables: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        params, variables = sr.start_from(task.root, GENERATOR)(params, variables)
        return sr.start_from(task.root / "critic", CRITIC)(params, variables)

    init, begin = gan.with_features(initial, start, features, words)
    turns = objectives.turns(players=(CRITIC, GENERATOR))
    return base.Experiment(
        model=inference.describe_model(sr.unmapped(model)) | {"trained_with": words},
        init=init,
        players={
            name: training.Player(
                objective, training.make_optimizer(rates[name], steps=config.steps), turns[name]
            )
            for name, objective in both.items()
        },
        sampler=_sampler(task, config, bank),
        evaluate=study.evaluate,
        score=_score(task),
        finish=study.finish,
        figures=functools.partial(_joint_figures, study, task),
        warm_start=begin,
    )


def _figures(
    study: inference.PhotoStudy,
    task: Task,
    params: dict[str, Any],
    variables: Any,
    directory: pathlib.Path,
    step: int,
) -> None:
    """Input and the generator's; what is judged in colour is drawn whole, with the PSNR of RGB."""
    upscalers = {study.label: study.upscaler(params, variables)}
    gan.save_strips(study.validation, upscalers, directory, opinions=study.opinions, whole=task.keep_luma)


def _joint_figures(
    study: inference.PhotoStudy,
    task: Task,
    params: dict[str, Any],
    variables: Any,
    directory: pathlib.Path,
    step: int,
) -> None:
    """Input, generator alone, and this step's: pictures of every evaluation stay, to choose by eye."""
    before = inference.load_run(task.root)
    upscalers = {
        "generator alone": lambda lr: before.apply(lr[None])[0],
        f"step {step}": study.upscaler(params, variables),
    }
    gan.save_strips(
        study.validation, upscalers, directory, opinions=study.opinions,
        name=f"validation_{{}}_step_{step:06d}.png", limit=2, whole=task.keep_luma,
    )  # fmt: skip


def _still(model: Any) -> Any:
    """Out of training; for the losses the whole output counts, so chroma is not transplanted."""
    model = model.clone(keep_luma=False) if getattr(model, "keep_luma", False) else model
    return lambda collections, images: model.apply(collections, images)
