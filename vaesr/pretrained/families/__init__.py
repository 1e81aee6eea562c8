"""Ways of writing super-resolution networks down, a file per network: what each calls our layers.

A file has `FAMILIES`, `Family` entries by name; a network's first is how it is written where nobody says how.
The files are found by listing this folder.
"""

import importlib
import pkgutil

from vaesr.pretrained.naming import Family

FAMILIES: dict[str, Family] = {
    name: family
    for found in pkgutil.iter_modules(__path__)
    for name, family in importlib.import_module(f"{__name__}.{found.name}").FAMILIES.items()
}
"""All ways of writing a network down, by name."""
