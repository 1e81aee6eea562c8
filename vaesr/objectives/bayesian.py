"""Objectives of Bayesian neural networks: the ELBO over weights, per example, from minibatches."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from vaesr.distributions import (
    GaussianPrior,
    ScaleMixturePrior,
    mean_field_kl,
    mean_field_log_ratio,
    sample_mean_field,
)
from vaesr.losses import categorical_nll, gaussian_nll
from vaesr.objectives.objective import Aux, Batch, Objective, Params, own_params

Prior = GaussianPrior | ScaleMixturePrior
Nll = Callable[[Any, Batch], jax.Array]
"""`nll(outputs [B, ...], batch) -> [B]` nats, the negative log-likelihood of each example."""

Weight = float | Callable[[jax.Array], Any]
"""A number, or a function of the step (an optax schedule)."""


class Forward(Protocol):
    """A network with random weights, such as `vaesr.layers.bayesian_apply` makes."""

    def __call__(
        self, posterior: Mapping[str, Any], inputs: Any, *, keys: jax.Array, position: jax.Array
    ) -> Any:
        """Give outputs `[S, B, ...]` for inputs `[B, ...]` and S keys, one per draw of the weights."""
        ...


def bayesian(
    forward: Forward,
    nll: Nll,
    *,
    dataset_size: int,
    prior: Prior | Callable[[Mapping[str, Any]], Prior],
    player: str = "bnn",
    samples: int = 1,
    kl_form: str = "closed",
    kl_weight: Weight = 1.0,
    minibatch_weights: Callable[[jax.Array], Any] | None = None,
    inputs: str = "image",
) -> Objective:
    """Build the negative ELBO of a network with random weights, in nats per example.

    The loss is the mean NLL of the batch plus KL / `dataset_size`, so its mean over the minibatches of an
    epoch (weighted by their sizes, if they differ) is the full negative ELBO divided by `dataset_size`.

    Args:
        forward: `forward(posterior, inputs, keys=[S], position=[B]) -> [S, B, ...]`, from
            `vaesr.layers.bayesian_apply`.
        nll: `nll(outputs, batch) -> [B]` nats, of the outputs of one draw: `classification_nll`,
            `regression_nll` or your own.
        dataset_size: N, the number of training examples, at least 1 (not that of batches).
        prior: `GaussianPrior` or `ScaleMixturePrior`; or a function of the posterior that gives one, such as
            `lambda q: GaussianPrior(0.1, mean=q["mean"])`, which ties the prior's mean to the posterior's.
        player: the name of the posterior in `params`.
        samples: draws of the weights per step, at least 1.
        kl_form: "closed", or "sampled" for priors without a closed form. With weights drawn by
            `how="weights"`, it uses the same draws for both terms, as in Blundell et al.
        kl_weight: factor on the KL, at least 0: a float, or a function of the step for a warm-up.
        minibatch_weights: a function of the step whose mean over an epoch is 1, which spreads the KL unevenly
            over the minibatches, see `blundell_weights`; evenly if absent.
        inputs: the name of the network's input in the batch.

    Returns:
        An `Objective` that reads `batch[inputs]`, what `nll` reads, and `batch["position"]`. Its metrics
        don't contain the weights of the KL: `elbo_nats`, `nll_nats` and `kl_per_example_nats` per example,
        `kl_nats` of all weights together, and `kl_weight`. With class logits `[S, B, K]` and an integer
        `batch["label"]` `[B]` also `error_percent`, of the mean prediction of the S draws.

    Raises:
        ValueError: if a knob is out of range; when called, if shapes don't fit.

    Source: Graves 2011, equation 8; Blundell et al. 2015, equations 2 and 8.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}.")
    _check_knobs(dataset_size, prior, kl_form, kl_weight)

    def objective(
        params: Params, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        posterior = own_params(params, player)
        x, position = read_inputs(batch, inputs)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(samples))
        outputs = forward(posterior, x, keys=keys, position=position)
        losses = jax.vmap(lambda one: nll(one, batch))(outputs)
        if losses.shape != (samples, position.shape[0]):
            raise ValueError(
                f"nll must give one value per example {position.shape}, got {losses.shape[1:]} per draw."
            )
        kl = _kl(posterior, prior, kl_form, keys)
        weight = _at(kl_weight, step)
        spread = 1.0 if minibatch_weights is None else _at(minibatch_weights, step)
        loss, metrics = _terms(losses.mean(), kl, weight, spread, dataset_size)
        return loss, Aux(metrics | _error(outputs, batch), variables)

    return objective


def bayesian_exact(
    expected_nll: Callable[[Mapping[str, Any], Batch], jax.Array],
    *,
    dataset_size: int,
    prior: Prior | Callable[[Mapping[str, Any]], Prior],
    player: str = "bnn",
    kl_weight: Weight = 1.0,
) -> Objective:
    """Build the negative ELBO where the expectation over the weights is known, without any noise.

    Args:
        expected_nll: `expected_nll(posterior, batch) -> [B]` nats, e.g. from
            `vaesr.losses.expected_squared_error`.
        dataset_size: N, the number of training examples, at least 1.
        prior: `GaussianPrior`, or a function of the posterior that gives one.
        player: the name of the posterior in `params`.
        kl_weight: factor on the KL, at least 0: a float, or a function of the step.

    Returns:
        An `Objective` as that of `bayesian`, whose key is not used.

    Raises:
        ValueError: if a knob is out of range; when called, if shapes don't fit.

    Source: Hinton and van Camp 1993, section 5.
    """
    _check_knobs(dataset_size, prior, "closed", kl_weight)

    def objective(
        params: Params, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        del key
        posterior = own_params(params, player)
        losses = expected_nll(posterior, batch)
        if losses.ndim != 1:
            raise ValueError(f"expected_nll must give one value per example [B], got shape {losses.shape}.")
        kl = _kl(posterior, prior, "closed", None)
        loss, metrics = _terms(losses.mean(), kl, _at(kl_weight, step), 1.0, dataset_size)
        return loss, Aux(metrics, variables)

    return objective


def blundell_weights(batches: int) -> Callable[[jax.Array], jax.Array]:
    """Spread the KL over an epoch's minibatches, each counting half of the one before.

    Args:
        batches: M, minibatches per epoch, at least 1.

    Returns:
        A function of the step for `bayesian(minibatch_weights=...)`: `M · 2^(M-i) / (2^M - 1)` for minibatch
        i = 1..M. The factor M makes the mean over an epoch 1, so that the KL counts once.

    Raises:
        ValueError: if `batches` is below 1.

    Source: Blundell et al. 2015, section 3.4.
    """
    if batches < 1:
        raise ValueError(f"batches must be at least 1, got {batches}.")

    def weight(step: jax.Array) -> jax.Array:
        number = (jnp.asarray(step) % batches + 1).astype(jnp.float32)
        # 2^(M-i) / (2^M - 1) = 2^-i / (1 - 2^-M), which doesn't overflow.
        return batches * jnp.exp2(-number) / (1.0 - 2.0**-batches)

    return weight


def classification_nll(outputs: jax.Array, batch: Batch) -> jax.Array:
    """Compute the cross-entropy of a batch's labels, for `bayesian`.

    Args:
        outputs: logits `[B, K]`.
        batch: holds "label", integers `[B]`.

    Returns:
        `[B]` nats, float32.

    Raises:
        ValueError: if the batch has no label or the shapes don't fit.
    """
    return categorical_nll(outputs, _entry(batch, "label"))


def regression_nll(outputs: Any, batch: Batch, *, log_scale: float = 0.0) -> jax.Array:
    """Compute the Gaussian negative log-likelihood of a batch's targets, for `bayesian`.

    Args:
        outputs: means `[B, ...]`, or `(mean, log_scale)` where the network learns the noise; its log_scale is
            a scalar or has the shape of the mean.
        batch: holds "target", float, the shape of the mean.
        log_scale: logarithm of the standard deviation where the outputs don't give it; bind it with
            `functools.partial`.

    Returns:
        `[B]` nats of a density (it can be negative), float32.

    Raises:
        ValueError: if the batch has no target or the shapes don't fit.
    """
    mean, log_scale = outputs if isinstance(outputs, tuple) else (outputs, log_scale)
    return gaussian_nll(mean, _entry(batch, "target"), log_scale=log_scale)


def _terms(
    nll: jax.Array, kl: jax.Array, weight: jax.Array, spread: jax.Array | float, dataset_size: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss and the metrics that don't depend on its weights."""
    per_example = kl / dataset_size
    metrics = {
        "elbo_nats": -nll - per_example,
        "nll_nats": nll,
        "kl_nats": kl,
        "kl_per_example_nats": per_example,
        "kl_weight": weight,
    }
    return nll + weight * spread * per_example, metrics


def _kl(posterior: Mapping[str, Any], prior: Any, form: str, keys: jax.Array | None) -> jax.Array:
    """The KL of all weights in nats, in closed form or averaged over the draws of the keys."""
    prior = prior(posterior) if callable(prior) else prior
    if form == "closed" or keys is None:
        return mean_field_kl(dict(posterior), prior)

    def one(key: jax.Array) -> jax.Array:
        weights = sample_mean_field(dict(posterior), key)
        return mean_field_log_ratio(dict(posterior), weights, prior)

    return jax.vmap(one)(keys).mean()


def _error(outputs: Any, batch: Batch) -> dict[str, jax.Array]:
    """The share of wrong classes, if there are classes."""
    label = batch.get("label")
    is_classes = isinstance(outputs, jax.Array) and outputs.ndim == 3
    if label is None or not is_classes or label.ndim != 1 or not jnp.issubdtype(label.dtype, jnp.integer):
        return {}
    guess = jax.nn.softmax(jax.lax.stop_gradient(outputs), axis=-1).mean(axis=0).argmax(axis=-1)
    return {"error_percent": 100.0 * (guess != label).astype(jnp.float32).mean()}


def read_inputs(batch: Batch, name: str) -> tuple[jax.Array, jax.Array]:
    """Take a network's inputs, `[B, ...]` under `name`, and the positions `[B]` from a batch.

    Positions are `arange(B)` if absent; a ValueError if there are no such inputs.
    """
    x = _entry(batch, name)
    return x, batch.get("position", jnp.arange(x.shape[0], dtype=jnp.int32))


def _entry(batch: Batch, name: str) -> jax.Array:
    if name not in batch:
        raise ValueError(f"the batch must hold {name!r}, got the names {sorted(batch)}.")
    return jnp.asarray(batch[name])


def _at(weight: Any, step: jax.Array) -> jax.Array:
    return jnp.asarray(weight(step) if callable(weight) else weight, jnp.float32)


def _check_knobs(dataset_size: int, prior: Any, kl_form: str, kl_weight: Any) -> None:
    """Refuse knobs that are out of range, when the objective is built."""
    if dataset_size < 1:
        raise ValueError(f"dataset_size must be at least 1, got {dataset_size}.")
    if kl_form not in ("closed", "sampled"):
        raise ValueError(f'kl_form must be "closed" or "sampled", got {kl_form!r}.')
    if kl_form == "closed" and isinstance(prior, ScaleMixturePrior):
        raise ValueError('the KL to a ScaleMixturePrior has no closed form; use kl_form="sampled".')
    if not callable(kl_weight) and kl_weight < 0:
        raise ValueError(f"kl_weight must be at least 0, got {kl_weight}.")
