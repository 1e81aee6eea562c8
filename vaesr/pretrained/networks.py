"""Networks of other projects: whose a state dict is, and what its names are in ours.

Known are those that `families` has. Axes change their order, and nothing else, so that what is written back
is bit for bit what was read.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from vaesr.imaging.colour import DIV2K_MEAN
from vaesr.models import Autoencoder, Looped, MultiScaleUpscaler, ScaledResiduals
from vaesr.pretrained.families import FAMILIES
from vaesr.pretrained.naming import Family, Names, State

_RANGE = 255.0  # of pixels, in the authors' files


class ForeignNetwork(NamedTuple):
    """A network of another project, in ours, with NumPy parameters.

    `family` is how it was written down, a key of `FAMILIES`; `variables` are its other collections, such as
    batch statistics.
    """

    model: nn.Module
    params: dict[str, Any]
    family: str
    variables: dict[str, Any] = {}  # noqa: RUF012  (a default that nobody mutates)


def read_network(state: State, *, residual_scale: float | None = None) -> ForeignNetwork:
    """Makes our network of another project's state dict, by dotted name in PyTorch's layout.

    `residual_scale` is of networks that do not store it; None is the papers': 0.1 at 256 channels, else 1.
    ValueError if it is of no known network, a name is missing or left over, a shape does not fit, or a value
    is not finite; the names are given.
    """
    known = _find_family(state)
    family = FAMILIES[known]
    try:
        model = family.model(state)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"it looks like {family.name}, but {_reason(error)}") from error
    if residual_scale is not None:
        if not isinstance(model, ScaledResiduals):
            raise ValueError(f"{family.name} has no residual_scale")
        model = model.clone(residual_scale=residual_scale)
    static = (model.scales[0],) if isinstance(model, MultiScaleUpscaler) else ()
    quick = model.clone(loop=True) if isinstance(model, Looped) else model
    size = model.image_shape if isinstance(model, Autoencoder) else (16, 16, 3)
    # Nothing is computed, so that nothing is compiled.
    made = jax.eval_shape(lambda: quick.init(jax.random.key(0), jnp.zeros((1, *size)), *static))
    names, left = family.names(model), _without_repeats(family, state)
    found, missing = {}, []
    for place, leaf in flatten_dict(made).items():
        key = _key(family, names, place[1:])
        array = left.pop(key, None)
        if array is None:
            missing.append(key)
            continue
        array = np.asarray(array, np.float32)
        ours = family.ours(place[-1], array)
        if ours.shape != leaf.shape:
            raise ValueError(
                f"{key} has shape {array.shape}; in {family.name} of this size it becomes {leaf.shape}"
            )
        if not np.isfinite(ours).all():
            raise ValueError(f"{key} holds values that are not finite")
        found[place] = np.ascontiguousarray(ours)
    if family.shifts:
        _check_shifts(left, missing)
    if missing or left:
        parts = [
            f"{verb} {_some(keys)}" for verb, keys in (("lacks", missing), ("also has", [*left])) if keys
        ]
        raise ValueError(f"it looks like {family.name}, but {' and '.join(parts)}")
    variables = unflatten_dict(found)
    return ForeignNetwork(model, variables.pop("params"), known, variables)


def write_network(
    model: nn.Module, params: Mapping[str, Any], family: str, variables: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """The opposite of `read_network`: float32 arrays by dotted name, in PyTorch's layout.

    ValueError if `FAMILIES` has no such family, or it cannot hold the network.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    kind = FAMILIES[family]
    refusal = f"{kind.name} cannot hold a {type(model).__name__}"
    if not isinstance(model, kind.network):
        raise ValueError(refusal)
    names = kind.names(model)
    try:
        left = {
            _key(kind, names, place[1:]): kind.theirs(place[-1], np.asarray(leaf, np.float32))
            for place, leaf in flatten_dict({"params": dict(params), **(variables or {})}).items()
        }
    except KeyError as error:
        raise ValueError(refusal) from error
    state = _shifts() if kind.shifts else {}
    parts = ("weight", "bias", *kind.leaves.values())
    for key in (_joined(name, part) for name in names.values() for part in parts):
        if key in left:
            state[key] = np.ascontiguousarray(left[key])
    return state


def _key(family: Family, names: Names, place: tuple[str, ...]) -> str:
    """Their name of a parameter or variable of ours."""
    *modules, leaf = place
    return _joined(names[tuple(modules)], family.leaves.get(leaf, "bias" if leaf == "bias" else "weight"))


def _joined(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def _without_repeats(family: Family, state: State) -> dict[str, np.ndarray]:
    left = dict(state)
    for key in state:
        first = family.repeats(key)
        if first is not None and (not first or np.array_equal(state.get(first, ()), state[key])):
            del left[key]
    return left


def family_of(model: nn.Module) -> str:
    """How a network is written down where nobody says how: a key of `FAMILIES`, the first of its file.

    ValueError if no other project has such a network.
    """
    for name, family in FAMILIES.items():
        if isinstance(model, family.network):
            return name
    raise ValueError(f"no project known here has names for {type(model).__name__}")


def _find_family(state: State) -> str:
    for name, family in FAMILIES.items():
        if all(marker in state for marker in family.markers):
            return name
    if any("conv1x1" in key for key in state):
        raise ValueError("it is ESRGAN+, which is not known here")
    known = ", ".join(family.name for family in FAMILIES.values())
    raise ValueError(f"its names ({_some([*state])}) are of no network known here: {known}")


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(sorted(keys)[:3]) + more


def _reason(error: Exception) -> str:
    return f"lacks {error.args[0]}" if isinstance(error, KeyError) else str(error)


# The mean colour, which some families store as convolutions.


def _shifts() -> dict[str, np.ndarray]:
    eye = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    mean = np.float32(_RANGE) * np.asarray(DIV2K_MEAN, np.float32)
    return {
        f"{name}.{part}": array
        for name, sign in (("sub_mean", -1), ("add_mean", 1))
        for part, array in (("weight", eye), ("bias", sign * mean))
    }


def _check_shifts(left: dict[str, np.ndarray], missing: list[str]) -> None:
    for key, wanted in _shifts().items():
        array = left.pop(key, None)
        if array is None:
            missing.append(key)
        elif array.shape != wanted.shape or not np.allclose(array, wanted, rtol=1e-3, atol=1e-3):
            raise ValueError(f"{key} is not DIV2K's mean colour on a range of 0 to 255: {array.ravel()[:3]}")
