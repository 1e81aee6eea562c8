"""How a command line becomes a configuration."""

import difflib
import inspect
import sys
import typing
from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from vaesr.runs.folder import ConfigT
from vaesr.runs.networks import fixed_fields, flag_fields


def cli(presets: Mapping[str, ConfigT], arguments: list[str] | None = None) -> tuple[str, ConfigT]:
    """Read `[PRESET] [--field value]` from the command line as `(preset, config)`; "default" is the default.

    `arguments` are the words after the module's name, by default `sys.argv[1:]`.
    """
    try:
        import tyro
    except ImportError:
        sys.exit('the experiments need more packages: pip install "vaesr[experiments]"')
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "default"
    if name not in presets:
        near = difflib.get_close_matches(name, presets, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        print(f"there is no preset {name!r}{hint} The presets are: {', '.join(presets)}.", file=sys.stderr)
        sys.exit(2)
    module = sys.modules[type(presets[name]).__module__]
    spec = getattr(module, "__spec__", None)
    config = tyro.cli(
        type(presets[name]),
        prog=f"python -m {spec.name if spec else module.__name__} [{'|'.join(presets)}]",
        description=module.__doc__,
        default=presets[name],
        args=arguments,
        registry=_networks(presets[name]),
    )
    return name, config


def _networks(preset: ConfigT) -> Any:
    """tyro's rule for networks: flags with the words of their docstrings; other fields stay as preset."""
    import docstring_parser  # tyro's own
    import tyro

    fixed = {type(getattr(preset, name)): names for name, names in fixed_fields(type(preset)).items()}
    registry = tyro.constructors.ConstructorRegistry()

    @registry.struct_rule
    def network(info: tyro.constructors.StructTypeInfo) -> tyro.constructors.StructConstructorSpec | None:
        if not (inspect.isclass(info.type) and issubclass(info.type, nn.Module)):
            return None
        default = info.default if isinstance(info.default, nn.Module) else info.type()
        hints = typing.get_type_hints(info.type)
        words = {p.arg_name: p.description for p in docstring_parser.parse_from_object(info.type).params}
        fields = [
            tyro.constructors.StructFieldSpec(
                name=field.name,
                type=hints[field.name],
                default=getattr(default, field.name),
                helptext=_sentence(words.get(field.name) or ""),
            )
            for field in flag_fields(info.type, fixed.get(info.type, frozenset()))
        ]
        return tyro.constructors.StructConstructorSpec(instantiate=default.clone, fields=tuple(fields))

    return registry


def _sentence(words: str) -> str:
    """A docstring's words on one line, the first as a sentence begins unless it is a formula."""
    words = " ".join(words.split())
    return words[:1].upper() + words[1:] if words[1:2].isalpha() else words
