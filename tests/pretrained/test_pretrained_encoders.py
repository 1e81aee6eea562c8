"""ResNet from torchvision's files: every key, the right network only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.models.resnet import ResNetBody
from vaesr.pretrained import read_resnet

torch = pytest.importorskip("torch", reason="torch is not installed")


def torchvision_state(blocks, bottleneck, channels=4):
    """The keys and shapes of torchvision's ResNet, as its source names them, with random numbers."""
    rng = np.random.default_rng(0)
    state = {}

    def add(name, *shape):
        state[name] = torch.from_numpy(rng.random(shape).astype(np.float32))

    def norm(name, width):
        for part in ("weight", "bias", "running_mean", "running_var"):
            add(f"{name}.{part}", width)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    add("conv1.weight", channels, 3, 7, 7)
    norm("bn1", channels)
    before = channels
    for stage, count in enumerate(blocks):
        inner = channels * 2**stage
        width = inner * (4 if bottleneck else 1)
        for i in range(count):
            name = f"layer{stage + 1}.{i}"
            sides = ((inner, before, 1), (inner, inner, 3), (width, inner, 1))
            if not bottleneck:
                sides = ((inner, before, 3), (inner, inner, 3))
            for n, (out, into, side) in enumerate(sides, 1):
                add(f"{name}.conv{n}.weight", out, into, side, side)
                norm(f"{name}.bn{n}", out)
            if i == 0 and (stage > 0 or before != width):
                add(f"{name}.downsample.0.weight", width, before, 1, 1)
                norm(f"{name}.downsample.1", width)
            before = width
    add("fc.weight", 10, before)
    add("fc.bias", 10)
    return state


@pytest.mark.parametrize("bottleneck", [False, True])
def test_every_array_finds_its_place(tmp_path, bottleneck):
    state = torchvision_state((1, 2, 1), bottleneck)
    torch.save(state, tmp_path / "resnet.pth")
    body = ResNetBody((1, 2, 1), bottleneck=bottleneck, channels=4)
    variables, digest = read_resnet(tmp_path / "resnet.pth", body)
    assert len(digest) == 64
    kernel = variables["params"]["layer2_0"]["conv_skip"]["kernel"]
    np.testing.assert_array_equal(kernel[0, 0].T, state["layer2.0.downsample.0.weight"][:, :, 0, 0])
    stats = variables["batch_stats"]["layer2_1"]["bn2"]["norm"]
    np.testing.assert_array_equal(stats["var"], state["layer2.1.bn2.running_var"])
    x = jnp.asarray(np.random.default_rng(1).random((1, 32, 32, 3)), jnp.float32)
    assert all(bool(jnp.isfinite(y).all()) for y in jax.jit(body.apply)(variables, x))


def test_another_network_is_refused(tmp_path):
    torch.save(torchvision_state((1, 2), False), tmp_path / "small.pth")
    with pytest.raises(ValueError, match=r"wants layer2\.2\..* lacks it"):
        read_resnet(tmp_path / "small.pth", ResNetBody((1, 3), channels=4))
    with pytest.raises(ValueError, match=r"it has layer2\.1\..* and"):
        read_resnet(tmp_path / "small.pth", ResNetBody((1, 1), channels=4))
    with pytest.raises(ValueError, match=r"wants .*8.*, the file has"):
        read_resnet(tmp_path / "small.pth", ResNetBody((1, 2), channels=8))
