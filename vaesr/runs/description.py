"""A model as JSON and back, so that a run folder says which network its parameters belong to."""

import dataclasses
import difflib
import importlib
import inspect
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

_PACKAGE = "vaesr.models"
_LINEN_FIELDS = ("parent", "name")
# Fields that had another name when a run folder was written, by class.
_RENAMED = {
    "SRCNN": {"channels": "widths"},
    "UNet": {"form": "conv_form"},
    "Critic": {"form": "conv_form"},
    "ResNetBody": {"form": "conv_form"},
}


def describe_model(module: nn.Module) -> dict[str, Any]:
    """Describes a model of `vaesr.models`, such as `EDSR(scale=2)`, by its hyper-parameters.

    `{"module": "edsr", "class": "EDSR", "fields": {...}}`, ready for JSON: types by name, tuples as lists.
    ValueError where the model is not from `vaesr.models` or a field is not plain data.
    """
    where, name = type(module).__module__, type(module).__name__
    if not where.startswith(_PACKAGE + ".") or "." in where[len(_PACKAGE) + 1 :]:
        raise ValueError(f"module must be a model from {_PACKAGE}, got {where}.{name}")
    fields = {
        field.name: _plain(getattr(module, field.name), f"{name}.{field.name}")
        for field in dataclasses.fields(module)
        if field.init and field.name not in _LINEN_FIELDS
    }
    return {"module": where[len(_PACKAGE) + 1 :], "class": name, "fields": fields}


def _plain(value: Any, where: str) -> Any:
    """A field's value as JSON holds it."""
    if isinstance(value, np.generic) and value.shape == ():
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(entry, where) for entry in value]
    if isinstance(value, dict):
        return {str(key): _plain(entry, where) for key, entry in value.items()}
    if where.endswith("dtype"):
        try:
            return jnp.dtype(value).name
        except TypeError:
            pass
    raise ValueError(
        f"{where} must be a number, a string, a tuple or a type to be written as JSON, got {value!r}"
    )


def build_model(description: dict[str, Any]) -> nn.Module:
    """Makes the model that `describe_model` described, equal to that one.

    Missing fields take their defaults. ValueError on a module, class or field that `vaesr.models` does not
    have; the nearest is suggested.
    """
    try:
        module, name, fields = (
            description["module"],
            description["class"],
            dict(description.get("fields") or {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'a model is described by "module", "class" and "fields", got {description!r}'
        ) from error
    if not isinstance(module, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", module):
        raise ValueError(f"the model's module must be a file name in {_PACKAGE}, got {module!r}")
    try:
        source = importlib.import_module(f"{_PACKAGE}.{module}")
    except ModuleNotFoundError as error:
        if error.name != f"{_PACKAGE}.{module}":
            raise
        raise ValueError(
            f"there is no {_PACKAGE}.{module}: the run was made by another version of vaesr"
        ) from error
    models = {
        key: value
        for key, value in vars(source).items()
        if inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == source.__name__
    }
    if not isinstance(name, str) or name not in models:
        raise ValueError(f"{_PACKAGE}.{module} has no model {name!r}{_suggest(str(name), list(models))}")
    known = {f.name: f for f in dataclasses.fields(models[name]) if f.init and f.name not in _LINEN_FIELDS}
    fields = {_RENAMED.get(name, {}).get(field, field): value for field, value in fields.items()}
    for field in fields:
        if field not in known:
            raise ValueError(f"{name} has no field {field!r}{_suggest(field, list(known))}")
    return models[name](**{key: _rebuilt(value, key) for key, value in fields.items()})


def _rebuilt(value: Any, field: str) -> Any:
    """A field's value as the module holds it: tuples, and types from their names."""
    if field.endswith("dtype") and value is not None:
        kind = getattr(jnp, value, None) if isinstance(value, str) else None
        try:
            named = jnp.dtype(kind).name == value and kind is not None
        except TypeError:  # a function of jax.numpy, for example
            named = False
        if not named:
            raise ValueError(f"{field} must name a type of jax.numpy such as 'float32', got {value!r}")
        return kind
    if isinstance(value, list):
        return tuple(_rebuilt(entry, field) for entry in value)
    return value


def _suggest(wrong: str, known: list[str]) -> str:
    close = difflib.get_close_matches(wrong, known, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(sorted(known))}"
