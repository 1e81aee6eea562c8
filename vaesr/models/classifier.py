"""Small classifiers of small images, for Bayesian neural networks: perceptrons and LeNet-5."""

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaesr.layers import ACTIVATIONS, Activation, Precision, check_choices

# Channels of LeNet-5's two 5x5 convolutions; the second has no padding.
_CHANNELS, _WINDOW = (6, 16), 5


class Classifier(nn.Module):
    """Inputs to one vector of numbers an example: logits of classes, or the parameters of a density.

    Attributes:
        architecture: "mlp" (dense layers on the flattened input) or "lenet" (two 5x5 convolutions with 6 and
            16 channels, each followed by an average over 2x2 pixels, then dense layers).
        hidden: units of the dense hidden layers, from the input on; at least 1 each.
        outputs: numbers an example, the number of classes as a rule.
        input_shape: the shape of one example: (height, width, channels) of an image for "lenet".
        activation: "tanh", "relu", "silu" or "gelu", after every layer but the last.
        dropout: the share of each dense hidden layer's units that is dropped when `train`, in [0, 1).
        input_shift: subtracted from the inputs first (pixels in [0, 1], or x of a curve).
        input_scale: the shifted inputs are multiplied by it, above 0; Bayes by Backprop divides 8-bit pixels
            by 126, which is 255 / 126 for pixels in [0, 1].
        precision: how GPUs and TPUs multiply float32: by default in TF32 or bfloat16, "highest" in full.
        dtype: the compute type. Parameters and outputs are float32.
    """

    architecture: Literal["mlp", "lenet"] = "mlp"
    hidden: tuple[int, ...] = (400, 400)
    outputs: int = 10
    input_shape: tuple[int, ...] = (28, 28, 1)
    activation: Activation = "relu"
    dropout: float = 0.0
    input_shift: float = 0.0
    input_scale: float = 1.0
    precision: Precision = "default"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Map inputs to logits.

        Args:
            inputs: `[B, *input_shape]`, images in [0, 1].
            train: drop units, which needs the random key "dropout". `vmap` over examples, each with its own
                key, keeps the noise independent of how a batch is cut up.

        Returns:
            `[B, outputs]` float32.

        Raises:
            ValueError: if a field is out of range or the inputs don't have the model's `input_shape`.
        """
        _check_fields(self)
        if inputs.shape[1:] != tuple(self.input_shape) or inputs.ndim != 1 + len(self.input_shape):
            raise ValueError(f"inputs must be [B, *{tuple(self.input_shape)}], got {inputs.shape}.")
        activate = ACTIVATIONS[self.activation]
        precision = None if self.precision == "default" else self.precision
        common = {"dtype": self.dtype, "precision": precision}
        x = (inputs - self.input_shift) * self.input_scale
        if self.architecture == "lenet":
            for number, channels in enumerate(_CHANNELS):
                padding = "VALID" if number else "SAME"
                x = nn.Conv(channels, (_WINDOW, _WINDOW), padding=padding, name=f"conv_{number}", **common)(x)
                x = _halve(activate(x))
        x = x.reshape(x.shape[0], -1)
        for number, width in enumerate(self.hidden):
            x = activate(nn.Dense(width, name=f"dense_{number}", **common)(x))
            if self.dropout:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.outputs, name="head", **common)(x).astype(jnp.float32)


def _halve(x: jax.Array) -> jax.Array:
    """Averages `[B, H, W, C]` over 2x2 pixels; an odd last row or column is left out."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def _check_fields(model: Classifier) -> None:
    check_choices(model)
    if model.outputs < 1 or any(width < 1 for width in model.hidden):
        raise ValueError(f"outputs and hidden must be at least 1, got {model.outputs} and {model.hidden}.")
    if not 0.0 <= model.dropout < 1.0:
        raise ValueError(f"dropout must lie in [0, 1), got {model.dropout}.")
    if not (math.isfinite(model.input_scale) and model.input_scale > 0 and math.isfinite(model.input_shift)):
        raise ValueError(
            f"input_scale must be positive and both it and input_shift finite, got {model.input_scale} and "
            f"{model.input_shift}."
        )
    shape = tuple(model.input_shape)
    if not shape or any(size < 1 for size in shape):
        raise ValueError(f"input_shape must hold sizes of at least 1, got {shape}.")
    # Half of it must hold the second convolution's window, and half of what that leaves one pixel.
    least = 2 * (_WINDOW + 1)
    if model.architecture == "lenet" and (len(shape) != 3 or min(shape[:2]) < least):
        raise ValueError(
            f'input_shape of a "lenet" must be (height, width, channels) with {least} pixels a side or more, '
            f"got {shape}."
        )


PRESETS: dict[str, Classifier] = {
    # Blundell et al. 2015, section 5.1: two hidden layers of 400, 800 or 1200 ReLUs; pixels divided by 126.
    "blundell_400": Classifier(hidden=(400, 400), input_scale=255 / 126),
    "blundell_800": Classifier(hidden=(800, 800), input_scale=255 / 126),
    "blundell_1200": Classifier(hidden=(1200, 1200), input_scale=255 / 126),
    # LeCun et al. 1998 with every map of the first layer seen by every map of the second: 61,706 parameters.
    "lenet": Classifier("lenet", hidden=(120, 84)),
    # A curve's mean and log-scale, from one number.
    "curve": Classifier(hidden=(100, 100), outputs=2, input_shape=(1,)),
}
