"""An experiment's training step, traced and not compiled."""

import jax
import jax.numpy as jnp

from vaesr import training


def traced_step(experiment, config):
    """The step with its data, of the state that `init` makes: nothing is computed."""
    train_step = experiment.train_step(accumulate=config.accumulate)

    def step(state, source):
        where = {"step": state.step, "position": jnp.arange(config.batch_size)}
        return train_step(state, experiment.sampler(source, key=training.data_key(state.key), **where))

    return jax.jit(step).trace(
        jax.eval_shape(experiment.create_state, jax.random.key(0)), jax.eval_shape(experiment.sampler.source)
    )
