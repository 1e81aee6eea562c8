"""A trained run, read back from its folder."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.errors import FlaxError

from vaesr.models import Precise, Typed
from vaesr.runs.description import build_model
from vaesr.runs.folder import read_config
from vaesr.training.checkpoint import restore_params
from vaesr.training.mesh import batch_sharding, make_mesh, replicated

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network with its parameters.

    Attributes:
        path: the run folder.
        model: the Linen module.
        params: `{player: tree}`, the moving average where the run kept one.
        variables: `{player: {collection: tree}}`, what gradients did not touch; usually empty.
        config: the content of `config.json`.
        step: the training step of the checkpoint.
        on_compile: called with the first input's shape before the model is compiled for inputs of new shapes,
            and with None after it; for whoever tells a user why it takes a while.
    """

    path: pathlib.Path
    model: nn.Module
    params: dict[str, PyTree]
    variables: PyTree
    config: dict[str, Any]
    step: int
    on_compile: Callable[[tuple[int, ...] | None], Any] | None = dataclasses.field(
        default=None, repr=False, compare=False
    )
    _compiled: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @property
    def player(self) -> str:
        """Which of the players is the model: the only one, else "generator"."""
        names = sorted(self.params)
        if len(names) == 1:
            return names[0]
        wanted = self.config.get("model", {}).get("player", "generator")
        if wanted in self.params:
            return str(wanted)
        raise ValueError(f"{self.path} holds players {', '.join(names)}; none of them is {wanted!r}")

    @property
    def collections(self) -> dict[str, PyTree]:
        """What `model.apply` takes first; of a posterior over weights, its means."""
        own = self.variables.get(self.player, {}) if isinstance(self.variables, dict) else {}
        params, kind = self.params[self.player], self.config.get("model", {}).get("params", "plain")
        if kind == "stacked":
            raise ValueError(
                f"{self.path} holds several networks, stacked along a first axis; take one out of "
                f"run.params[{self.player!r}] with jax.tree.map and give it to run.model.apply"
            )
        return {"params": params["mean"] if kind == "posterior" else params, **own}

    def apply(self, *inputs: Any, method: str | None = None, **static: Any) -> Any:
        """Runs the model, or its method of this name, compiled; one compilation per shape of the inputs.

        `static` are further arguments that are not arrays, for example `scale=3` of MDSR.
        """
        key = (method, tuple(sorted(static.items())))
        if key not in self._compiled:
            self._compiled[key] = jax.jit(
                lambda collections, *args: self.model.apply(collections, *args, method=method, **static)
            )
        if "collections" not in self._compiled:
            self._compiled["collections"] = jax.device_put(self.collections)
        return self._call(key, self._compiled["collections"], *inputs)

    def _call(self, key: Any, collections: Any, *inputs: Any) -> Any:
        """Calls what is compiled at its first call with inputs of a shape, and tells of that."""
        shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(inputs))
        if (key, shapes) in self._compiled:
            return self._compiled[key](collections, *inputs)
        if self.on_compile is not None:
            self.on_compile(shapes[0])
        with described(self.path):
            result = self._compiled[key](collections, *inputs)
        self._compiled[key, shapes] = True
        if self.on_compile is not None:
            self.on_compile(None)
        return result

    def spread(self, how: Literal["batch", "rows"], **static: Any) -> Callable[[Any], Any]:
        """The model over all local devices, compiled: `images [N, H, W, C] -> output`.

        One compilation per shape. `how`: "batch" gives every device some images of a batch; "rows" gives it
        some rows of every image, and the result is that of one device: convolutions fetch what they need from
        their neighbours' rows, and global means are taken over all of them. N or H must be a multiple of the
        number of devices. `static` as in `apply`.
        """
        key = ("spread", how, tuple(sorted(static.items())))
        if key not in self._compiled:
            mesh = make_mesh(devices=jax.local_devices())
            images = batch_sharding(mesh, leading=0 if how == "batch" else 1)
            self._compiled[key] = jax.jit(
                lambda collections, x: self.model.apply(collections, x, **static),
                in_shardings=(replicated(mesh), images),
                out_shardings=images,
            )
            if "everywhere" not in self._compiled:
                self._compiled["everywhere"] = jax.device_put(self.collections, replicated(mesh))
        return lambda x: self._call(key, self._compiled["everywhere"], x)

    def with_dtype(self, dtype: Any) -> "Run":
        """Gives the same run computing in another type, for example `jnp.float32`.

        Itself where the model has no field `dtype` or it is that already.
        """
        if not isinstance(self.model, Typed) or jnp.dtype(self.model.dtype) == jnp.dtype(dtype):
            return self
        return dataclasses.replace(self, model=self.model.clone(dtype=dtype), _compiled={})

    def precise(self) -> "Run":
        """Gives the same run computing in full float32, on accelerators too.

        There float32 alone is not enough: by default GPUs multiply in TF32 (about 3 digits) and TPUs in
        bfloat16. Its model has `dtype` float32 and `precision` "highest", as far as it has these fields;
        itself where it has them already.
        """
        run = self.with_dtype(jnp.float32)
        if not isinstance(run.model, Precise) or run.model.precision == "highest":
            return run
        return dataclasses.replace(run, model=run.model.clone(precision="highest"), _compiled={})


@contextlib.contextmanager
def described(path: pathlib.Path) -> Iterator[None]:
    """Errors of a network whose fields are not those that its parameters were made with, as a ValueError."""
    try:
        yield
    except (FlaxError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        words = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: its config.json is not of the network whose parameters it has: {words}"
        ) from error


def load_run(path: str | os.PathLike[str], which: Literal["best", "latest"] = "best") -> Run:
    """Reads a run folder, such as `"runs/edsr/default"`: its model, and the parameters of a checkpoint.

    `which` is "best" (by the run's own criterion) or "latest". FileNotFoundError where the folder, its
    `config.json` or a complete checkpoint is missing; ValueError where `config.json` does not describe a
    model that this version has, or one that the parameters are not of.
    """
    path = pathlib.Path(path).expanduser()
    if which not in ("best", "latest"):
        raise ValueError(f'which must be "best" or "latest", got {which!r}')
    config = read_config(path)
    model = build_model(config["model"])
    params, variables, step = restore_params(path, which=which)
    _check_sizes(config["model"].get("fields") or {}, sum(x.size for x in jax.tree.leaves(params)), path)
    return Run(path=path, model=model, params=params, variables=variables, config=config, step=step)


def _check_sizes(fields: Any, count: int, path: pathlib.Path) -> None:
    """Refuse hyper-parameters of strangers' folders that would take for ever: each needs parameters."""
    for name, value in fields.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) > max(count, 10_000):
                raise ValueError(f"{path} describes a network of {name} {number}, and holds {count} numbers.")
