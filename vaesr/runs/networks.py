"""Networks as parts of a configuration: their fields are flags, but for those that no user sets."""

import dataclasses
import typing
from typing import Any

from flax import linen as nn

# Linen's own, and what `build` and the platform say.
_NEVER = frozenset({"parent", "name", "dtype", "axis_name", "conv_form"})


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Beside a network's type in `Annotated`: fields that are no flags, as the data or `build` set them."""

    names: frozenset[str]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", frozenset(names))


def fixed_fields(config: type) -> dict[str, frozenset[str]]:
    """Which fields of a configuration's networks are no flags, by the configuration's field.

    `config` is its class, such as one with `model: Annotated[VAE, Fixed("image_shape")]`.
    """
    hints = typing.get_type_hints(config, include_extras=True)
    found = {
        name: [part.names for part in typing.get_args(hint)[1:] if isinstance(part, Fixed)]
        for name, hint in hints.items()
    }
    return {name: frozenset().union(*parts) for name, parts in found.items() if parts}


def flag_fields(
    network: type[nn.Module], fixed: frozenset[str] = frozenset()
) -> tuple[dataclasses.Field[Any], ...]:
    """The fields of a network's class that are flags, in their order; `fixed` ones are none."""
    return tuple(f for f in dataclasses.fields(network) if f.init and f.name not in _NEVER | fixed)
