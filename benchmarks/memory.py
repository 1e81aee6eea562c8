"""What a compiler estimates of a training step's memory and arithmetic, for each way of recomputing.

    python -m benchmarks.memory --model nvae.bench_cifar_accelerator --topology v5e:2x2

The step is the one that `build` makes of a preset. A topology's name needs the package libtpu, whose compiler
runs without a TPU; without a name the program is this machine's. Nothing is run: these are estimates.
"""

import argparse
import dataclasses
import json
import os
import typing
from typing import Any

import jax
import jax.numpy as jnp

import experiments
from vaesr import runs


def main() -> int:
    """Prints a line for each, and writes them as JSON where a file is given."""
    parser = argparse.ArgumentParser(description="memory of a training step, by what is recomputed")
    parser.add_argument("--model", required=True, help="EXPERIMENT.PRESET")
    parser.add_argument("--topology", help="a TPU slice, such as v5e:2x2, of which one chip is taken")
    parser.add_argument("--batch-size", type=int, help="examples on the chip (default: the preset's)")
    parser.add_argument("--remat", nargs="+", help="the ways (default: all that the network has)")
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args()
    device = _chip(args.topology) if args.topology else jax.devices()[0]
    name, _, preset = args.model.partition(".")
    modules = {module.__name__.rpartition(".")[2]: module for module in experiments.discover()}
    if name not in modules or preset not in modules[name].PRESETS:
        parser.error(f"--model {args.model}: there is no such experiment and preset")
    module = modules[name]
    config = module.PRESETS[preset]
    if args.batch_size:
        config = dataclasses.replace(config, batch_size=args.batch_size)
    if args.topology:
        config = dataclasses.replace(config, dtype="bfloat16")
    known = {str(way): way for way in _ways(type(config.model))}
    if unknown := set(args.remat or ()) - set(known):
        parser.error(f"--remat {', '.join(unknown)}: known are {', '.join(known)}")
    ways = [known[word] for word in args.remat or known]
    rows = []
    for way in ways:
        found = _estimate(module, _with(config, way), device)
        rows.append({"remat": way, **found})
        first = rows[0]
        print(
            f"remat {way}: temporaries {found['temporaries'] / 2**20:,.0f} MiB "
            f"({found['temporaries'] / first['temporaries']:.2f} of {first['remat']}), "
            f"arguments {found['arguments'] / 2**20:,.0f} MiB, {found['flops'] / 1e9:,.0f} GFLOP "
            f"({found['flops'] / first['flops']:.2f})",
            flush=True,
        )
    if args.json:
        about = {"model": args.model, "device": device.device_kind, "batch_size": config.batch_size}
        about |= {"dtype": config.compute_dtype, "jax": jax.__version__, "estimates": rows}
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(about, file, indent=1)
    return 0


def _chip(topology: str) -> Any:
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]


def _ways(network: type) -> list[Any]:
    kind = typing.get_type_hints(network).get("remat")
    if kind is None:
        raise ValueError(f"{network.__name__} recomputes nothing")
    return [False, True] if kind is bool else list(typing.get_args(kind))


def _with(config: Any, way: Any) -> Any:
    return dataclasses.replace(config, model=config.model.clone(remat=way))


def _estimate(module: Any, config: Any, device: Any) -> dict[str, float]:
    experiment: runs.Experiment = module.build(config)
    train_step = experiment.train_step(accumulate=config.accumulate)
    state = jax.eval_shape(experiment.create_state, jax.random.key(0))
    key, step = jax.random.key(0), jnp.int32(0)
    batch = jax.eval_shape(
        lambda source: experiment.sampler(source, key=key, step=step, position=jnp.arange(config.batch_size)),
        jax.eval_shape(experiment.sampler.source),
    )
    place = jax.sharding.SingleDeviceSharding(device)
    state, batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), (state, batch)
    )
    compiled = jax.jit(train_step, donate_argnums=0).lower(state, batch).compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    return {
        "temporaries": memory.temp_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "flops": cost["flops"],
    }


if __name__ == "__main__":
    raise SystemExit(main())
