"""Fields of networks that take one of some words."""

import dataclasses
import typing

import flax.linen as nn


def check_choices(module: nn.Module) -> None:
    """Refuse a module whose field holds none of the words that its type, a `Literal`, lists.

    Args:
        module: any Linen module.

    Raises:
        ValueError: with the field, the words and the value.
    """
    for field, choices in _choices(type(module)).items():
        value = getattr(module, field)
        if value not in choices:
            raise ValueError(f"{field} must be one of {', '.join(map(str, choices))}, got {value!r}.")


def _choices(kind: type[nn.Module]) -> dict[str, tuple[object, ...]]:
    hints = typing.get_type_hints(kind)
    literal = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return {n: typing.get_args(t) for n, t in literal.items() if typing.get_origin(t) is typing.Literal}
