"""NVAE against what the authors' code gave, in float64: cells, flow, latents, mixture and a whole model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import official_nvae as official
import pytest
from official_nvae import assert_close, assert_trees_close, images, in_float64

from vaesr.distributions import LogisticMixture
from vaesr.layers import BatchNormSwish
from vaesr.models import nvae, nvae_cells
from vaesr.pretrained import read_network, write_network
from vaesr.pretrained.families import nvae as family

DOUBLE = {"dtype": jnp.float64}
CELLS = {
    "enc_normal": (nvae_cells.EncoderCell(8, **DOUBLE), family._encoder_cell("", "")),
    "enc_down": (nvae_cells.EncoderCell(16, down=True, **DOUBLE), family._encoder_cell("", "", down=True)),
    "dec_normal": (nvae_cells.DecoderCell(8, 6, **DOUBLE), family._decoder_cell("", "")),
    "dec_up": (nvae_cells.DecoderCell(4, 6, up=True, **DOUBLE), family._decoder_cell("", "", up=True)),
    "post_normal": (nvae_cells.DecoderCell(8, 3, **DOUBLE), family._decoder_cell("", "")),
}
TINY = nvae.NVAE(
    (28, 28, 1),
    4,
    (2, 1),
    2,
    pre_blocks=1,
    pre_cells=2,
    encoder_cells=1,
    decoder_cells=1,
    remat="none",
    **DOUBLE,
)


def inside(names):
    """Of a cell by itself: its parts' names without its own."""
    return {place[1:]: name for place, name in names.items()}


@pytest.mark.parametrize(
    "remat", ["none", *(pytest.param(remat, marks=pytest.mark.slow) for remat in ("norm", "cell"))]
)
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", CELLS)
def test_cells(name, mode, remat):
    cell, names = CELLS[name]
    if remat != "none":
        if mode == "eval":
            pytest.skip("nothing is computed anew")
        cell = nvae_cells.recomputed(type(cell), remat)(
            **{k: getattr(cell, k) for k in ("features", "dtype")},
            **{k: getattr(cell, k) for k in ("down", "up", "expansion") if hasattr(cell, k)},
        )
    found, names = official.load(f"cell_{name}"), inside(names)
    with in_float64():
        variables = official.collections(found, names, "w/")
        x, fixed = (jnp.asarray(images(found[part])) for part in ("x", "fixed"))

        @jax.jit
        def run(params, x):
            apply = functools.partial(cell.apply, {**variables, "params": params}, x)
            y, new = apply(True, mutable=["batch_stats"]) if mode == "train" else (apply(False), {})
            return (y * fixed).sum(), (y, new)

        (loss, (y, new)), (by_params, by_x) = jax.value_and_grad(run, (0, 1), has_aux=True)(
            variables["params"], x
        )
        assert_close(y, images(found[f"{mode}/y"]))
        assert_close(loss, found[f"{mode}/loss"])
        assert_close(by_x, images(found[f"{mode}/grad_x"]))
        assert_trees_close(by_params, official.collections(found, names, f"{mode}/grad/")["params"])
        if mode == "train":
            after = official.collections(found, names, "train/after/")["batch_stats"]
            assert_trees_close(new["batch_stats"], after)


def flow(found, prefix, step):
    parts = {("widen",): "conv.convz.0", ("spread",): "conv.convz.2", ("narrow",): "mu.conv_0"}
    return official.collections(found, parts, f"{prefix}cell{step + 1}.")


def test_flow_pair():
    found = official.load("flow_pair")
    with in_float64():
        steps = [nvae_cells.FlowStep(4, bool(k), **DOUBLE) for k in (0, 1)]
        variables = [flow(found, "w/", k) for k in (0, 1)]
        z, fixed = (jnp.asarray(images(found[part])) for part in ("z", "fixed"))

        def run(both, z):
            between = steps[0].apply(both[0], z)
            out = steps[1].apply(both[1], between)
            return (out * fixed).sum(), (between, out)

        (loss, (between, out)), (by_params, by_z) = jax.value_and_grad(run, (0, 1), has_aux=True)(
            variables, z
        )
        assert_close(between, images(found["z_after_cell1"]))
        assert_close(out, images(found["z_out"]))
        assert_close(loss, found["loss"])
        assert_close(by_z, images(found["grad_z"]))
        assert_trees_close(by_params, [flow(found, "grad/", k) for k in (0, 1)])
        # Masked and normalised as theirs; and what regularisation is given is what is multiplied with.
        of_network = {f"transforms_{k}": variables[k]["params"] for k in (0, 1)}
        for key, kernel in nvae_cells.kernels(of_network).items():
            step, part = key.split("/")
            name = {"widen": "conv.convz.0", "spread": "conv.convz.2", "narrow": "mu.conv_0"}[part]
            expected = found[f"weight_normalized/cell{int(step[-1]) + 1}.{name}"]
            assert_close(kernel, expected.transpose(2, 3, 1, 0))


def test_flow_is_triangular():
    found = official.load("flow_pair")
    with in_float64():
        z = jnp.asarray(images(found["jac_z"]))
        for k, name in ((0, "jac_cell1"), (1, "jac_cell2")):
            step = lambda z, k=k: nvae_cells.FlowStep(4, bool(k), **DOUBLE).apply(flow(found, "w/", k), z)
            # Theirs is of channels, rows, columns.
            jacobian = np.asarray(jax.jacrev(step)(z))[0, :, :, :, 0]
            jacobian = jacobian.transpose(2, 0, 1, 5, 3, 4).reshape(64, 64)
            assert_close(jacobian, found[name])
            sign, log_det = np.linalg.slogdet(jacobian)
            assert sign == 1 and abs(log_det) < 1e-12


def test_normals_and_their_kl():
    found = official.load("normal_kl")
    with in_float64():
        raw_p = jnp.stack([found["mu_p_raw"], found["logsig_p_raw"]], -1)
        delta = jnp.stack([found["dmu"], found["dlogsig"]], -1)

        def of(raw_p, delta):
            q, p = nvae._soft_normal(raw_p + delta), nvae._soft_normal(raw_p)
            return nvae._kl(q, p).sum(), (q, p)

        (_, (q, p)), slopes = jax.value_and_grad(of, (0, 1), has_aux=True)(raw_p, delta)
        for normal, name in ((q, "q"), (p, "p")):
            assert_close(normal.mean[..., 0], found[f"mu_{name}"])
            assert_close(normal.scale[..., 0], found[f"sigma_{name}"])
            assert_close(normal.log_prob(found["z"][..., None])[..., 0], found[f"logp_{name}"])
        assert_close(nvae._kl(q, p)[..., 0], found["kl_qp"])
        for i, name in enumerate(("mu_p_raw", "logsig_p_raw")):
            assert_close(slopes[0][..., i], found[f"grad_{name}"])
        for i, name in enumerate(("dmu", "dlogsig")):
            assert_close(slopes[1][..., i], found[f"grad_{name}"])


@pytest.mark.parametrize("bits", [8, 5])
def test_mixture(bits):
    """Its mean image is not theirs, which mixes the parameters first: that is no mean of the mixture."""
    found = official.load("dmol")
    with in_float64():
        param, x = (jnp.asarray(images(found[f"b{bits}/{part}"])) for part in ("param", "x"))
        log_prob = lambda param: LogisticMixture(param, bits=bits, edges="nvae").log_prob(x)
        assert_close(log_prob(param), found[f"b{bits}/log_prob"])
        slopes = jax.grad(lambda param: log_prob(param).sum())(param)
        assert_close(slopes, images(found[f"b{bits}/grad_param"]))


def tiny():
    found = official.load("tiny_model_nf0")
    state = {key[2:]: array for key, array in found.items() if key.startswith("w/")}
    names = family._names(TINY)
    return found, state, names, official.collections(found, names, "w/")


def noise_of(found):
    """Nearest to the data first."""
    return [jnp.asarray(images(found[f"eps{i}"])) for i in (2, 1, 0)]


def run_tiny(found, variables, params, train):
    x = images(found["x"])[:, 2:-2, 2:-2]
    edge = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    assert (edge == images(found["x"])).all()  # what is padded is black

    def forward(module, x, noise):
        features, log_ratio, kl = module.descend(noise, module.encode(x, train), train)
        return module.decode(features, train), log_ratio, kl

    apply = functools.partial(TINY.apply, {**variables, "params": params}, x, noise_of(found), method=forward)
    return apply(mutable=["batch_stats"]) if train else (apply(), {})


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_whole_model(mode):
    found, _, names, variables = tiny()
    with in_float64():
        gamma = jnp.asarray(found[f"{mode}/kl_balance_coeff"])
        x = images(found["x"])[:, 2:-2, 2:-2]

        @jax.jit
        def loss_of(params):
            (logits, log_ratio, kl), new = run_tiny(found, variables, params, mode == "train")
            nll = (jax.nn.softplus(logits) - x * logits).sum(axis=(1, 2, 3))
            loss = (nll + 0.25 * (kl[:, ::-1] * gamma[None]).sum(axis=1)).mean()
            return loss, (logits, log_ratio, kl, nll, new)

        (loss, aux), slopes = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
        logits, log_ratio, kl, nll, new = aux
        assert_close(logits, images(found[f"{mode}/logits"])[:, 2:-2, 2:-2])
        assert_close(kl[:, ::-1], found[f"{mode}/kl_groups"])
        assert_close(log_ratio.sum(axis=1), found[f"{mode}/log_p"] - found[f"{mode}/log_q"])
        assert_close(nll, found[f"{mode}/recon"])
        assert_close(log_ratio.sum(axis=1) - nll, found[f"{mode}/log_iw"])
        assert_close(loss, found[f"{mode}/loss_beta025"])
        if mode == "train":
            expected = official.collections(found, names, "train/grad/")["params"]
            assert_trees_close(slopes, expected)
            after = official.collections(found, names, "train/after/")["batch_stats"]
            assert_trees_close(new["batch_stats"], after)
        assert_close(np.asarray(TINY.balance[::-1]), found["alpha"])


@pytest.mark.slow
def test_samples():
    found, _, _, variables = tiny()
    with in_float64():
        decode = lambda module, noise: module.decode(module.descend(noise)[0])
        for temperature in (1.0, 0.7):
            noise = [temperature * part for part in noise_of(found)]
            logits = TINY.apply(variables, noise, method=decode)
            assert_close(logits, images(found[f"sample/logits_t{temperature}"])[:, 2:-2, 2:-2])


def test_balance_of_the_papers_groups():
    found = official.load("schedules_adamax")
    for groups in ((10, 5), (20, 10, 5), (16, 8, 4, 4, 4)):
        balance = nvae.NVAE((64, 64, 3), 4, groups, pre_blocks=1, padding=0).balance
        assert_close(np.asarray(balance[::-1]), found["alpha_" + "_".join(map(str, groups))])


@pytest.mark.slow
def test_their_checkpoint_is_read_and_written():
    found, state, _, variables = tiny()
    read = read_network(state)
    assert read.model == TINY.clone(remat="norm", dtype=jnp.float32) and read.family == "nvae"
    jax.tree.map(
        np.testing.assert_array_equal,
        {"params": read.params, **read.variables},
        jax.tree.map(np.float32, variables),
    )
    again = write_network(read.model, read.params, "nvae", read.variables)
    repeats = {key for key in state if key.endswith("weight_normalized")}
    assert set(again) == set(state) - repeats and repeats
    assert all(np.array_equal(again[key], np.float32(state[key])) for key in again)
    with pytest.raises(ValueError, match=r"also has stem\.weight_normalized"):
        read_network({**state, "stem.weight_normalized": np.zeros(3)})
    with pytest.raises(ValueError, match="lacks enc0"):
        read_network({key: array for key, array in state.items() if key != "enc0.1.bias"})
    x = images(found["x"])[:, 2:-2, 2:-2].astype(np.float32)
    forward = lambda m, x: m.decode(m.descend([jnp.float32(n) for n in noise_of(found)], m.encode(x))[0])
    logits = read.model.apply({"params": read.params, **read.variables}, x, method=forward)
    assert_close(logits, images(found["eval/logits"])[:, 2:-2, 2:-2], tolerance=1e-4)


def test_norm_without_swish_is_flaxes_but_for_the_running_variance(key):
    """Biased where Flax keeps it, unbiased here."""
    x = jax.random.normal(key, (3, 4, 4, 5)) * 2 + 1
    ours = BatchNormSwish(swish=False)
    y, new = ours.apply(ours.init(key, x), x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(
        new["batch_stats"]["var"], 0.95 + 0.05 * x.var(axis=(0, 1, 2), ddof=1), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pre_process.3000000.x": np.zeros(1)}, "don't go from 0 up without a gap"),
        ({"enc_tower.300000000.x": np.zeros(1)}, "don't go from 0 up without a gap"),
        ({"nf_cells.3999.cell1.x": np.zeros(1)}, "don't go from 0 up without a gap"),
        ({"prior_ftr0": np.broadcast_to(np.float32(0), (16, 1, 1 << 40))}, "prior_ftr0 has shape"),
        ({"prior_ftr0": np.broadcast_to(np.float32(0), (16, 9999, 9999))}, "prior_ftr0 has shape"),
        ({"image_conditional.1.weight": np.zeros((7, 4, 3, 3))}, "7 outputs a pixel for 1 colours"),
        ({"enc_tower.0.conv.weight": np.zeros((8, 8, 1, 1))}, "cells in the decoder for 4 groups"),
    ],
)
def test_hostile_names_and_sizes_are_refused_at_once(change, message):
    _, state, _, _ = tiny()
    with pytest.raises(ValueError, match=message):
        read_network({**state, **change})
