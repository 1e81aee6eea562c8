"""Others' state dicts: every family there and back, outputs equal torch's, errors that name keys."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled_variables import filled
from small_networks import found

from vaesr.models import Autoencoder, MultiScaleUpscaler, ScaledResiduals, edsr, srcnn
from vaesr.pretrained import FAMILIES, family_of, read_network, write_network
from vaesr.pretrained.torch_files import unwrap_state

STORED = found("STORED")
# Each network with the names of every family that has it.
CASES = {
    (family, size): model
    for family, kind in FAMILIES.items()
    for size, model in STORED.items()
    if isinstance(model, kind.network)
}


def params_of(model):
    return variables_of(model)["params"]


def variables_of(model):
    scale = (model.scales[0],) if isinstance(model, MultiScaleUpscaler) else ()
    shape = model.image_shape if isinstance(model, Autoencoder) else (16, 16, 3)
    start = lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape)), *scale)
    rng = np.random.default_rng(0)
    draw = lambda leaf: (rng.standard_normal(leaf.shape) / np.sqrt(max(leaf.size, 1))).astype(np.float32)
    return jax.tree.map(draw, jax.eval_shape(start))


@pytest.mark.parametrize(("family", "size"), CASES)
def test_there_and_back_bit_for_bit(family, size):
    model = CASES[family, size]
    variables = variables_of(model)
    params = variables.pop("params")
    state = write_network(model, params, family, variables)
    read = read_network(state)
    assert read.model == model and read.family == family
    having = [name for name, kind in FAMILIES.items() if all(marker in state for marker in kind.markers)]
    assert having == [family]
    jax.tree.map(np.testing.assert_array_equal, (read.params, read.variables), (params, variables))
    again = write_network(read.model, read.params, family, read.variables)
    assert list(again) == list(state)
    assert all(np.array_equal(again[key], array) for key, array in state.items())
    # Not one key may be missing, left over, or of another size.
    key = sorted(state)[len(state) // 2]
    with pytest.raises(ValueError, match=r"lacks|known here"):
        read_network({name: array for name, array in state.items() if name != key})
    with pytest.raises(ValueError, match=r"also has extra\.weight"):
        read_network({**state, "extra.weight": np.zeros(3, np.float32)})


def test_every_family_is_tried():
    assert {family for family, _ in CASES} == set(FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "published"), found("WRITTEN").items())
def test_the_names_are_the_published_ones(family, published):
    """Of the authors' files: a few names of each, and how many there are."""
    model, count, names = published
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes["params"])
    state = write_network(model, empty, family)
    assert len(state) == count
    assert set(names) <= set(state)


def _torch_edsr(state, image, scale, names, residual_scale=1.0):
    """EDSR written down plainly from its names."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    F = torch.nn.functional

    def conv(x, name):
        weight, bias = (torch.tensor(state[f"{name}.{part}"]) for part in ("weight", "bias"))
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    x = torch.from_numpy(image.transpose(0, 3, 1, 2)) * 255
    mean = torch.tensor([0.4488, 0.4371, 0.4040]).reshape(1, 3, 1, 1) * 255
    x = first = conv(x - mean, names["head"])
    i = 0
    while f"{names['block'].format(i, 1)}.weight" in state:
        y = conv(torch.relu(conv(x, names["block"].format(i, 1))), names["block"].format(i, 2))
        x, i = x + y * residual_scale, i + 1
    x = first + conv(x, names["after"].format(i))
    for place, factor in enumerate([3] if scale == 3 else [2] * (scale.bit_length() - 1)):
        x = F.pixel_shuffle(conv(x, names["up"].format(2 * place)), factor)
    return ((conv(x, names["tail"]) + mean) / 255).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("basicsr", [False, True])
def test_edsr_equals_torch(scale, basicsr):
    names = {
        "head": "head.0", "block": "body.{}.body.{}", "after": "body.{}", "up": "tail.0.{}", "tail": "tail.1"
    }  # fmt: skip
    if basicsr:
        names = {
            "head": "conv_first", "block": "body.{}.conv{}", "after": "conv_after_body", "up": "upsample.{}",
            "tail": "conv_last",
        }  # fmt: skip
    model = edsr.EDSR(scale, 8, 2)
    params = filled(model, jnp.zeros((1, 8, 8, 3)))["params"]
    state = write_network(model, params, "edsr-basicsr" if basicsr else "edsr")
    image = np.random.default_rng(1).random((1, 7, 9, 3)).astype(np.float32)
    ours = model.apply({"params": read_network(state).params}, image)
    plain = state
    if not basicsr:  # the two convolutions of a block are 0 and 2 there
        plain = {
            re.sub(r"body\.(\d+)\.body\.0", r"body.\1.body.1", key): array for key, array in state.items()
        }
    np.testing.assert_allclose(ours, _torch_edsr(plain, image, scale, names), atol=2e-5)


def test_wrappers_and_prefixes_come_off():
    array = np.zeros((1, 1, 1, 1), np.float32)
    for tree in (
        {"params": {"a.weight": array}, "params_ema": {"b.weight": array}},
        {"state_dict": {"module.b.weight": array}, "epoch": 3},
        {"model": {"netG.module.b.weight": array}, "optimizer": {"state": {}}},
        {"whatever": {"b.weight": array}},
        {"b.weight": array, "epoch": 3},
    ):
        assert list(unwrap_state(tree)) == ["b.weight"]
    for tree in ({}, 3, {"epoch": 1, "step": 2}, [array]):
        with pytest.raises(ValueError, match="no state dict"):
            unwrap_state(tree)


def test_what_does_not_fit_is_named():
    model = edsr.EDSR(2, 8, 2)
    state = write_network(model, params_of(model), "edsr")
    for change, message in (
        ({"body.1.body.2.weight": np.zeros((9, 8, 3, 3))}, r"body\.1\.body\.2\.weight has shape \(9, 8"),
        ({"head.0.bias": np.full(8, np.nan)}, r"head\.0\.bias holds values that are not finite"),
        ({"sub_mean.bias": np.zeros(3)}, r"sub_mean\.bias is not DIV2K's mean"),
        ({"tail.0.0.weight": np.zeros((20, 8, 3, 3))}, r"tail\.0\.0\.weight has 20 outputs for 8"),
    ):
        with pytest.raises(ValueError, match=message):
            read_network({**state, **{key: array.astype(np.float32) for key, array in change.items()}})
    for state, message in (
        ({"layers.0.weight": np.zeros(3)}, r"its names \(layers\.0\.weight\) are of no network known"),
        ({"x.conv1x1.weight": np.zeros(3)}, r"ESRGAN\+"),
    ):
        with pytest.raises(ValueError, match=message):
            read_network(state)
    with pytest.raises(ValueError, match="family must be one of"):
        write_network(model, params_of(model), "edrs")
    for family, kind in FAMILIES.items():
        if kind.network is not edsr.EDSR:
            with pytest.raises(ValueError, match=f"{re.escape(kind.name)} cannot hold a EDSR"):
                write_network(model, params_of(model), family)
    small = srcnn.SRCNN()
    with pytest.raises(ValueError, match="has names for SRCNN"):
        family_of(small)
    assert all(FAMILIES[family_of(network)].network is type(network) for network in CASES.values())
    with pytest.raises(ValueError, match="cannot hold a SRCNN"):
        write_network(small, params_of(small), "rrdb")


def test_the_residual_scale_is_the_papers_or_given():
    model = edsr.EDSR(2, 8, 1)
    state = write_network(model, params_of(model), "edsr")
    assert read_network(state).model.residual_scale == 1.0
    assert read_network(state, residual_scale=0.1).model.residual_scale == 0.1
    small, family = next(
        (model, family) for (family, _), model in CASES.items() if not isinstance(model, ScaledResiduals)
    )
    with pytest.raises(ValueError, match="has no residual_scale"):
        read_network(write_network(small, params_of(small), family), residual_scale=1.0)
