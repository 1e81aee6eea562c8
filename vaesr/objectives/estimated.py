"""The ELBO with any gradient estimator for the encoder."""

import functools
from typing import Any, Protocol

import jax

from vaesr.distributions import MovingAverage, Normal, kl_standard_normal
from vaesr.objectives.likelihoods import Likelihood
from vaesr.objectives.objective import Aux, Batch, Objective, Params
from vaesr.objectives.posterior import Decode, Encode, encode_gaussian, read_batch


class Estimator(Protocol):
    """An estimator of an expectation, such as `vaesr.distributions.score_function`."""

    def __call__(self, f: Any, q: Any, key: jax.Array, /, *, samples: int) -> jax.Array:
        """Give `f` at S samples of `q`, `[S, ...]`, with a gradient that flows to `q`."""
        ...


def estimated_elbo(
    encode: Encode,
    decode: Decode,
    likelihood: Likelihood,
    *,
    estimator: Estimator,
    player: str = "vae",
    samples: int = 1,
    baseline_decay: float | None = None,
    binarisation: str = "none",
) -> Objective:
    """Build the negative ELBO whose encoder gradient comes from an estimator of choice.

    The KL is in closed form; E_q[log p(x | z)] is estimated. The decoder's gradient is the same for every
    estimator. With `pathwise` this is `elbo`, the VAE's own objective.

    Args:
        encode: `encode(params[player], x) -> (mean_q, log_var_q)`, each `[B, latent...]`.
        decode: `decode(params[player], z) -> outputs` that the likelihood understands.
        likelihood: an object with `nll(outputs, x) -> [B]`.
        estimator: one of `vaesr.distributions`: `pathwise`, `score_function`, `measure_valued`; bind its
            knobs with `functools.partial`.
        player: the name of the parameters in `params`.
        samples: Monte Carlo samples of the posterior per example, at least 1.
        baseline_decay: decay of a moving average of the expectation, in (0, 1), which is given to
            `score_function` as its baseline and lives in `variables[player]["baseline"]`, a
            `MovingAverage`; None for estimators that need none. It is a state of the run: with gradient
            accumulation it moves from micro-batch to micro-batch, and under `pmap` each device keeps that of
            its own examples. The gradient is unbiased either way, but not the same to the last digit.
        binarisation: "none", "dynamic", "fixed" or "threshold", see `binarise_batch`.

    Returns:
        An `Objective` that reads `batch["image"]` and `batch["position"]`. Its loss is in nats per example;
        its metrics `elbo_nats`, `kl_nats` and `reconstruction_nats`.

    Raises:
        ValueError: if a knob is out of range; when called, if shapes don't fit or the baseline is missing.

    Source: Paisley, Blei and Jordan 2012 and Ranganath et al. 2014 (score function); Kingma and Welling 2014,
      section 2 (pathwise); Mnih and Gregor 2014 (moving average).
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}.")
    if baseline_decay is not None and not 0.0 < baseline_decay < 1.0:
        raise ValueError(f"baseline_decay must lie in (0, 1), got {baseline_decay}.")

    def objective(
        params: Params, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        images, keys = read_batch(batch, key, binarisation=binarisation)
        mean_q, log_var_q = encode_gaussian(encode, params[player], images)
        estimate: Any = estimator
        average = None
        if baseline_decay is not None:
            average = _average_of(variables, player)
            estimate = functools.partial(estimator, baseline=average.value)  # type: ignore[call-arg]

        def log_likelihood(z: jax.Array) -> jax.Array:
            return -likelihood.nll(decode(params[player], z), images)

        values = estimate(log_likelihood, Normal(mean_q, log_var_q), keys, samples=samples)
        if average is not None and baseline_decay is not None:
            updated = average.update(values, decay=baseline_decay)
            variables = {**variables, player: {**variables[player], "baseline": updated}}
        kl = kl_standard_normal(Normal(mean_q, log_var_q)).reshape(images.shape[0], -1).sum(axis=1)
        reconstruction = -values.mean(axis=0)
        loss = (reconstruction + kl).mean()
        metrics = {
            "elbo_nats": -loss,
            "kl_nats": kl.mean(),
            "reconstruction_nats": reconstruction.mean(),
        }
        return loss, Aux(metrics, variables)

    return objective


def _average_of(variables: Any, player: str) -> MovingAverage:
    """The player's moving average, out of `variables`."""
    try:
        return MovingAverage(*variables[player]["baseline"])
    except (KeyError, TypeError):
        raise ValueError(
            f'baseline_decay needs variables["{player}"]["baseline"], a MovingAverage; let init return '
            f'{{"{player}": {{"baseline": MovingAverage.create()}}}} as variables.'
        ) from None
