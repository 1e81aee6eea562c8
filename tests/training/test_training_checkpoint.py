"""Checkpoints: exact, onto another mesh, latest and best kept, half-written ones never read."""

import errno

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaesr.objectives import Aux
from vaesr.training import (
    Checkpoints,
    Player,
    create_state,
    make_mesh,
    replicated,
    restore_params,
    state_shardings,
)

PLAYERS = {"m": Player(lambda *a, **k: (jnp.zeros(()), Aux({}, {})), optax.adam(1e-3))}


def create(key, ema=True):
    params = {"m": {"w": jax.random.normal(key, (256, 128)), "b": jnp.ones((3,))}}
    return create_state(lambda k: (params, {"count": jnp.arange(3)}), PLAYERS, key=key, ema=ema)


def as_numpy(tree):
    def convert(x):
        return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)

    return jax.tree.map(convert, tree)


@pytest.mark.parametrize("fsdp", [1, 4])
def test_restores_bit_for_bit_onto_another_mesh(tmp_path, key, fsdp):
    shapes = jax.eval_shape(create, key)
    saved_on = state_shardings(shapes, make_mesh(fsdp=fsdp))
    state = jax.jit(create, out_shardings=saved_on)(key)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, step=7)
    one_device = make_mesh(devices=jax.devices()[:1])
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(shapes, state_shardings(shapes, one_device))
    jax.tree.map(np.testing.assert_array_equal, as_numpy(restored), as_numpy(state))
    assert restored.params["m"]["w"].sharding.is_equivalent_to(replicated(one_device), 2)
    np.testing.assert_array_equal(jax.random.uniform(restored.key), jax.random.uniform(state.key))


def test_the_two_latest_and_the_best_are_kept(tmp_path, key):
    state = create(key)
    with Checkpoints(tmp_path) as checkpoints:
        for step, score in [(1, 20.0), (2, 25.0), (3, None), (4, 22.0), (5, float("nan"))]:
            checkpoints.save(state, step=step, score=score)
        checkpoints.wait()
        assert (checkpoints.latest, checkpoints.best) == (5, 2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "4", "5"]
    assert [restore_params(tmp_path, which)[2] for which in ("best", "latest")] == [2, 5]


def test_parameters_are_read_without_the_state(tmp_path, key):
    state = create(key).replace(ema={"m": {"w": jnp.full((256, 128), 5.0), "b": jnp.zeros(3)}})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, step=1)
    params, variables, _ = restore_params(tmp_path)
    assert isinstance(params["m"]["w"], np.ndarray) and (params["m"]["w"] == 5.0).all()
    np.testing.assert_array_equal(variables["count"], [0, 1, 2])
    with Checkpoints(tmp_path / "plain") as checkpoints:
        checkpoints.save(create(key, ema=False), step=1)
    np.testing.assert_array_equal(restore_params(tmp_path / "plain")[0]["m"]["w"], state.params["m"]["w"])


def test_a_half_written_checkpoint_is_never_read(tmp_path, key):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(create(key), step=1)
    unfinished = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp" / "default"
    unfinished.mkdir(parents=True)
    (unfinished / "d").write_bytes(b"half")
    assert restore_params(tmp_path, "latest")[2] == 1
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 1
        checkpoints.save(create(key), step=2)
    assert restore_params(tmp_path, "latest")[2] == 2


def harm(folder, how):
    """Damage the largest file of a checkpoint, and return its name."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"bit": bytes(content), "cut": bytes(content[:-9]), "empty": b""}.get(how, b""))
    if how == "gone":
        path.unlink()
    return path.name


@pytest.mark.parametrize("how", ["bit", "cut", "empty", "gone"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_taken(tmp_path, key, how, capsys):
    states = [create(jax.random.fold_in(key, number)) for number in range(2)]
    with Checkpoints(tmp_path) as checkpoints:
        for step, state in enumerate(states, 1):
            checkpoints.save(state, step=step)
    name = harm(tmp_path / "checkpoints" / "2", how)
    with pytest.raises(ValueError, match=f"checkpoint 2 of .* is damaged: .*{name} is not as it was written"):
        restore_params(tmp_path, "latest")
    shapes = jax.eval_shape(create, key)
    shardings = state_shardings(shapes, make_mesh())
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(shapes, shardings)
        jax.tree.map(np.testing.assert_array_equal, as_numpy(restored), as_numpy(states[0]))
        said = capsys.readouterr().err
        assert "checkpoint 2 is damaged" in said and "going on from checkpoint 1" in said
        assert checkpoints.latest == 1
        checkpoints.save(states[1], step=2)  # the steps are taken again
    assert restore_params(tmp_path, "latest")[2] == 2
    assert (tmp_path / "checkpoints" / "2.damaged").is_dir()


def test_a_damaged_score_is_noticed(tmp_path, key, capsys):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(create(key), step=step, score=1.0)
    (tmp_path / "checkpoints" / "2" / "metrics" / "metrics").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"checkpoint 2 of .* is damaged: metrics/metrics is not as it was"):
        restore_params(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 1
    assert "checkpoint 2 is damaged (metrics/metrics)" in capsys.readouterr().err


def test_where_every_checkpoint_is_damaged_nothing_is_lost(tmp_path, key):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(create(key), step=1)
    harm(tmp_path / "checkpoints" / "1", "bit")
    shapes = jax.eval_shape(create, key)
    shardings, said = state_shardings(shapes, make_mesh()), r"every checkpoint of .* is damaged"
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match=said):
        checkpoints.restore(shapes, shardings)
    assert (tmp_path / "checkpoints" / "1").is_dir()
    for path in (tmp_path / "checkpoints" / "1").glob("hashes.json"):
        path.unlink()  # as of a version before there were hashes
    assert restore_params(tmp_path)[2] == 1


def test_where_every_score_is_damaged_nothing_is_moved(tmp_path, key):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(create(key), step=step, score=1.0)
    for step in "12":
        (tmp_path / "checkpoints" / step / "metrics" / "metrics").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"every checkpoint of .* is damaged, the latest in 2/metrics"):
        Checkpoints(tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]


def test_the_same_step_may_be_damaged_again(tmp_path, key, capsys):
    shapes = jax.eval_shape(create, key)
    shardings = state_shardings(shapes, make_mesh())
    for _ in range(2):
        with Checkpoints(tmp_path) as checkpoints:
            for step in (1, 2):
                checkpoints.save(create(key), step=step)
        harm(tmp_path / "checkpoints" / "2", "bit")
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.restore(shapes, shardings)
    assert {"2.damaged", "2.damaged-2"} <= {path.name for path in (tmp_path / "checkpoints").iterdir()}


@pytest.mark.parametrize(
    "content",
    ('{"\\u001b[31m\\nX": "x"}', '{"/dev/zero": "x"}', '{"../1/default/_METADATA": "x"}', "[]", "3", "{"),
)
def test_hashes_of_strangers_read_nothing_else(tmp_path, key, content):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(create(key), step=1)
    (tmp_path / "checkpoints" / "1" / "hashes.json").write_text(content)
    with pytest.raises(ValueError, match="is damaged") as raised:
        restore_params(tmp_path)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("content", ("{}", "[]", '{"tree_metadata": {"a": 1}}'))
def test_what_orbax_does_not_understand_is_a_value_error(tmp_path, key, content):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(create(key), step=1)
    (tmp_path / "checkpoints" / "1" / "hashes.json").unlink()
    (tmp_path / "checkpoints" / "1" / "default" / "_METADATA").write_text(content)
    with pytest.raises(ValueError, match=r"checkpoint 1 of .* can't be read|claims"):
        restore_params(tmp_path)
    shapes = jax.eval_shape(create, key)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises((ValueError, OSError)):
        checkpoints.restore(shapes, state_shardings(shapes, make_mesh()))


@pytest.mark.parametrize("name", ("default/_METADATA", "default/manifest.ocdbt"))
def test_each_file_of_a_checkpoint_counts(tmp_path, key, name, capsys):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(create(key), step=step)
    (tmp_path / "checkpoints" / "2" / name).write_bytes(b"{}")
    with pytest.raises(ValueError, match=f"checkpoint 2 of .* is damaged: {name}"):
        restore_params(tmp_path, "latest")
    shapes = jax.eval_shape(create, key)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore(shapes, state_shardings(shapes, make_mesh()))
        assert checkpoints.latest == 1


@pytest.mark.parametrize("content", (b"", b"{", b"\xff"))
def test_what_orbax_notes_beside_its_items_may_be_damaged(tmp_path, key, content):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(create(key), step=1)
    (tmp_path / "checkpoints" / "1" / "_CHECKPOINT_METADATA").write_bytes(content)
    assert restore_params(tmp_path)[2] == 1
    shapes = jax.eval_shape(create, key)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore(shapes, state_shardings(shapes, make_mesh()))
        checkpoints.save(create(key), step=2)
    assert restore_params(tmp_path, "latest")[2] == 2


@pytest.mark.parametrize("content", ("[]", '{"item_handlers": 3}'))
def test_what_strangers_note_there_is_a_value_error(tmp_path, key, content):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(create(key), step=1)
    (tmp_path / "checkpoints" / "1" / "_CHECKPOINT_METADATA").write_text(content)
    with pytest.raises(ValueError, match=r"checkpoints can't be read: "):
        restore_params(tmp_path)
    with pytest.raises(ValueError, match=r"checkpoints can't be read: "):
        Checkpoints(tmp_path)


def test_a_full_disk_is_told_with_what_is_left(tmp_path, key, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(create(key), step=1)
        checkpoints.wait()

        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(checkpoints._manager, "save", full)
        with pytest.raises(OSError, match=r"No space left on device\. Those before it are whole; make room"):
            checkpoints.save(create(key), step=2)
    assert restore_params(tmp_path, "latest")[2] == 1


def test_missing_checkpoints_are_named(tmp_path, key):
    with pytest.raises(FileNotFoundError, match="holds no checkpoints/"):
        restore_params(tmp_path)
    shapes = jax.eval_shape(create, key)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(FileNotFoundError, match="no checkpoint at all"):
        checkpoints.restore(shapes, state_shardings(shapes, make_mesh()))
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        restore_params(tmp_path)
    with pytest.raises(ValueError, match='which must be "best" or "latest"'):
        restore_params(tmp_path, "newest")
