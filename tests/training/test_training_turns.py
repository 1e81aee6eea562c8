"""Players that take turns: who does not move keeps everything; the log averages over the steps moved in."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaesr.objectives import Aux
from vaesr.training import Player, compile_step, create_state, make_mesh, make_train_step
from vaesr.training.loop import _moved


def make(turns=True):
    """Each player walks to the batch's mean; "b" moves in every third step, "a" in the others."""

    def objective(name):
        def of(params, variables, batch, *, key, step):
            loss = jnp.square(params[name] - batch["x"]).mean()
            return loss, Aux({"value": params[name]}, {"count": variables["count"] + 1})

        return of

    def turn(which):
        return (lambda variables: (variables["count"] % 3 == 2) == which) if turns else None

    players = {
        "a": Player(objective("a"), optax.adam(0.1), turn(False)),
        "b": Player(objective("b"), optax.adam(0.1), turn(True)),
    }
    init = {"a": jnp.zeros(()), "b": jnp.zeros(())}
    state = create_state(
        lambda key: (init, {"count": jnp.zeros((), jnp.int32)}), players, key=jax.random.key(0)
    )
    return players, state


def test_only_one_moves_and_nothing_of_the_other_changes():
    players, state = make()
    step = jax.jit(make_train_step(players))
    batch = {"x": jnp.ones(4)}
    for number in range(7):
        before = state
        state, metrics = step(state, batch)
        mover, rest = ("b", "a") if number % 3 == 2 else ("a", "b")
        assert float(state.params[mover]) > float(before.params[mover])
        for tree in ("params", "opt_state"):
            jax.tree.map(
                np.testing.assert_array_equal, getattr(state, tree)[rest], getattr(before, tree)[rest]
            )
        assert int(state.variables["count"]) == number + 1
        assert float(metrics[f"{mover}/moved"]) == 1 and float(metrics[f"{rest}/moved"]) == 0
        assert np.isfinite(metrics[f"{mover}/loss"]) and np.isnan(metrics[f"{rest}/loss"])
        assert int(state.skipped) == 0
    # Five moves in seven steps are those of five steps alone.
    alone = {"a": Player(players["a"].objective, optax.adam(0.1))}
    single = create_state(
        lambda key: ({"a": jnp.zeros(())}, {"count": jnp.zeros((), jnp.int32)}), alone, key=jax.random.key(0)
    )
    for _ in range(5):
        single, _ = make_train_step(alone)(single, batch)
    np.testing.assert_allclose(state.params["a"], single.params["a"], rtol=1e-6)


@pytest.mark.parametrize("how", ["devices", "pmap", "scan", "accumulate"])
def test_every_way_of_running_gives_the_same(how):
    players, state = make()
    expected = state
    batch = {"x": jnp.arange(8.0)}
    for _ in range(6):
        expected, _ = make_train_step(players)(expected, batch)
    mesh = make_mesh()
    train_step = make_train_step(players, accumulate=2 if how == "accumulate" else 1)
    calls, several = (2, 3) if how == "scan" else (6, 1)
    step = compile_step(
        train_step, mesh, state=state, parallel="pmap" if how == "pmap" else "jit", steps_per_dispatch=several
    )
    source = {"x": jnp.stack([batch["x"]] * several)} if several > 1 else batch
    if how == "accumulate":
        # Each micro-batch counts, so that turns come sooner; what must hold is that it runs and both move.
        for _ in range(6):
            state, _ = step(state, source)
        assert float(state.params["a"]) > 0 and float(state.params["b"]) > 0
        return
    for _ in range(calls):
        state, _ = step(state, source)
    for name in ("a", "b"):
        np.testing.assert_allclose(state.params[name], expected.params[name], rtol=1e-5)


def test_a_player_with_turns_cannot_share():
    def objective(params, variables, batch, *, key, step):
        return params["a"], Aux({}, variables, {"x": batch["x"]})

    players = {"a": Player(objective, optax.sgd(1.0), lambda variables: jnp.array(True))}
    state = create_state(lambda key: ({"a": jnp.zeros(())}, {}), players, key=jax.random.key(0))
    with pytest.raises(ValueError, match="cannot share"):
        make_train_step(players)(state, {"x": jnp.ones(2)})


def test_the_log_counts_the_steps_moved_in():
    values = {
        "a/moved": np.array([1.0, 0.0, 1.0]), "a/loss": np.array([1.0, np.nan, 3.0]),
        "b/loss": np.array([1.0, np.nan, 3.0]), "skipped_run": np.zeros(3),
    }  # fmt: skip
    assert values["a/loss"][_moved("a/loss", values)].mean() == 2
    assert len(values["a/moved"][_moved("a/moved", values)]) == 3
    assert np.isnan(
        values["b/loss"][_moved("b/loss", values)].mean()
    )  # trouble of a player that moves always
