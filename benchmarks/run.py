"""Measure: `python -m benchmarks.run --suite train,input --peer torch --json FILE --plot FILE`.

On a CPU the run is pinned to one core, with one thread on either side, and CPU time is the clock: that is
what other work on the machine disturbs least (`--pin off` measures the wall clock on all cores instead).
On an accelerator the wall clock counts. Either way both are kept in the JSON.
"""

import argparse
import importlib
import os
import pkgutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from vaesr.allocator import keep_freed_memory

# Looked up without an import: JAX must not be there before the core is chosen.
SUITES = tuple(
    sorted(found.name for found in pkgutil.iter_modules([os.path.join(os.path.dirname(__file__), "suites")]))
)
PEERS = ("torch", "piq", "ncnn")
# Set for the pinned child: the core it may use. XLA makes its threads once, when the backend starts, so
# the core has to be chosen before JAX is imported.
_PINNED = "VAESR_BENCH_CORE"


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--suite", type=_names(SUITES), default=SUITES, help="comma-separated: " + ", ".join(SUITES)
    )
    p.add_argument(
        "--model", type=_names(None), default=(), metavar="NAME,...",
        help="of the suites: an experiment, one of its presets (vae.bench_iwae), a metric, an upscaler",
    )  # fmt: skip
    p.add_argument("--peer", type=_names(PEERS), default=(), help="compare with: torch, piq, ncnn")
    p.add_argument("--sizes", type=_sizes, default=(), metavar="WxH,...", help="photos of the suite tiles")
    p.add_argument(
        "--tiles",
        type=_tiles,
        default=("whole", "128", "512", "auto"),
        metavar="whole,auto,N,...",
        help="how the suite tiles cuts them; auto is the command's choice",
    )
    p.add_argument("--json", metavar="FILE", help="write the result with raw samples and environment")
    p.add_argument("--plot", metavar="FILE", help="write bars of throughput as PNG (needs matplotlib)")
    p.add_argument("--trace", metavar="DIR", help="write a profile of our sides, apart from the timed runs")
    p.add_argument("--smoke", action="store_true", help="tiny sizes, under a minute; figures mean nothing")
    p.add_argument("--samples", type=int, metavar="N", help="samples per side (default 20, smoke 4)")
    p.add_argument(
        "--pin", default="auto", metavar="auto|off|CORE", help="one core, CPU time (CPUs: default)"
    )
    p.add_argument(
        "--malloc",
        choices=("keep", "default"),
        default="keep",
        help="keep freed host memory in the process, for both sides (vaesr.allocator, as the experiments do)",
    )
    p.add_argument("--torch-compile", action="store_true", help="measure torch.compile too; slow on CPUs")
    return p


def _names(known: tuple[str, ...] | None) -> Callable[[str], tuple[str, ...]]:
    """A reader of comma-separated names that refuses unknown ones, where it is known which there are."""

    def read(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(",") if name.strip())
        wrong = [name for name in names if known is not None and name not in known]
        if wrong or not names:
            given, some = ", ".join(wrong) or "nothing", ", ".join(known or ["the suites' names"])
            raise argparse.ArgumentTypeError(f"{given} given; expected some of {some}")
        return names

    return read


def _tiles(text: str) -> tuple[str, ...]:
    """Reads how photos are cut."""
    tiles = tuple(part.strip() for part in text.split(","))
    for tile in tiles:
        if tile not in ("whole", "auto") and not (tile.isdecimal() and int(tile)):
            raise argparse.ArgumentTypeError(f"{tile!r} given; expected whole, auto, or pixels, with commas")
    return tiles


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Reads widths and heights, and gives heights and widths."""
    try:
        pairs = [[int(side) for side in size.split("x")] for size in text.split(",")]
        if min(min(pair) for pair in pairs) < 1:
            raise ValueError
        return tuple((height, width) for width, height in pairs)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} given; expected WIDTHxHEIGHT, with commas") from None


def main(argv: list[str] | None = None) -> int:
    """The command: 0 if all went well, 1 if an equality or sanity check failed, 2 for wrong arguments."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser().parse_args(argv)
    core = os.environ.get(_PINNED)
    if core is None:
        wanted = _core(arguments.pin)
        return _measure(arguments, argv, pinned=False) if wanted is None else _relaunch(argv, wanted)
    os.sched_setaffinity(0, {int(core)})
    return _measure(arguments, argv, pinned=True)


def _core(pin: str) -> int | None:
    """The core to pin to, or None."""
    if pin == "off" or not hasattr(os, "sched_setaffinity"):
        return None
    allowed = os.sched_getaffinity(0)
    if pin == "auto":
        return None if _accelerator_likely() else max(allowed)
    if not pin.isdigit() or int(pin) not in allowed:
        raise SystemExit(f"--pin {pin}: expected auto, off or one of the cores {sorted(allowed)}")
    return int(pin)


def _accelerator_likely() -> bool:
    """A guess made without starting a backend; the pinned run refuses to go on if it was wrong."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms.split(",")[0] != "cpu"
    devices = ("nvidia0", "nvidiactl", "accel0", "vfio/0", "kfd")
    return any(os.path.exists(f"/dev/{name}") for name in devices)


def _relaunch(argv: list[str], core: int) -> int:
    """Run this command again, in a process of its own that lives on one core."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, _PINNED: str(core), "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run([sys.executable, "-m", "benchmarks.run", *argv], env=environment).returncode


def _measure(arguments: argparse.Namespace, argv: list[str], *, pinned: bool) -> int:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves the peer room on the GPU
    kept = arguments.malloc == "keep" and keep_freed_memory()  # before JAX and torch start their threads
    import jax

    from benchmarks import env, report, timing
    from benchmarks.options import Options

    # JAX first: which cuDNN is loaded can depend on the order of the two frameworks.
    accelerator = jax.default_backend() != "cpu"
    if pinned and accelerator:
        print("pinned to one core, but JAX found an accelerator: pass --pin off.", file=sys.stderr)
        return 2
    plan = timing.SMOKE if arguments.smoke else timing.Plan()
    once = arguments.samples == 1 and arguments.suite == ("tiles",)
    if arguments.samples is not None:
        try:
            samples = 2 if once else arguments.samples
            plan = timing.Plan(samples, plan.sample_s, plan.warmup, plan.visits)
        except ValueError as error:
            raise SystemExit(f"--samples {arguments.samples}: {error}") from None
    options = Options(
        suites=arguments.suite,
        models=arguments.model,
        peers=arguments.peer,
        sizes=arguments.sizes,
        tiles=arguments.tiles,
        smoke=arguments.smoke,
        torch_compile=arguments.torch_compile,
        plan=plan,
        once=once,
        accelerator=accelerator,
        clock="cpu" if pinned else "wall",
        threads=1 if pinned else None,
    )
    known = _models(arguments.suite) if arguments.model else ()
    if wrong := [name for name in arguments.model if name not in known]:
        print(f"--model: {', '.join(wrong)} given; expected some of {', '.join(known)}", file=sys.stderr)
        return 2
    start = time.perf_counter()
    rows: list[dict[str, Any]] = []
    for case in _cases(options):
        rows.extend(_rows(case, options, arguments.trace))
    report.finish(rows)
    environment = {
        **env.collect(argv),
        "pinned": pinned,
        "malloc": "keep" if kept else "default",
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(_headline(environment))
    print(report.table(rows))
    if arguments.json:
        report.write_json(arguments.json, rows, environment)
    if arguments.plot:
        reason = report.plot(arguments.plot, rows, title=_headline(environment))
        if reason:
            print(f"no plot: {reason}")
    return int(_failed(rows))


def _models(suites: tuple[str, ...]) -> list[str]:
    """What can be asked for by `--model` in the suites that tell."""
    modules = [importlib.import_module(f"benchmarks.suites.{name}") for name in suites]
    return [name for module in modules if hasattr(module, "names") for name in module.names()]


def _cases(options: Any) -> Iterator[Any]:
    """All cases, built one at a time so that one's memory is free before the next."""
    from benchmarks import peaks

    yield from peaks.cases(peaks.sizes(accelerator=options.accelerator, smoke=options.smoke))
    for name in options.suites:
        yield from importlib.import_module(f"benchmarks.suites.{name}").cases(options)


def _rows(case: Any, options: Any, trace: str | None) -> list[dict[str, Any]]:
    """Measure one case, unless its sides disagree."""
    from benchmarks import report, timing

    absent = [report.absent_row(case, side, reason) for side, reason in case.absent]
    if case.parity is not None and not case.parity["passed"]:
        reason = f"the sides disagree: {report.parity_line(case.parity)}"
        _close(case)
        return [report.absent_row(case, s.name, reason, status="refused") for s in case.sides] + absent
    print(f"... {case.suite}: {case.name}", file=sys.stderr, flush=True)
    plan = options.plan
    if case.suite == "peaks":
        plan = timing.Plan(max(4, plan.samples // 2), plan.sample_s, plan.warmup, 2)
    elif case.long:
        plan = timing.Plan(max(2, plan.samples // 5), plan.sample_s, int(not case.slow), 2)
        if case.slow and options.once:
            plan = timing.Plan(1, plan.sample_s, 0, 1)
    samples = timing.measure(case.sides, plan)
    rows = [report.row(case, side, samples[side.name], clock=options.clock) for side in case.sides]
    if trace and case.suite != "peaks":
        import jax

        for side in (s for s in case.sides if s.framework == "vaesr"):
            with jax.profiler.trace(trace):
                side.run(3)
    _close(case)
    return rows + absent


def _close(case: Any) -> None:
    """Ends what its sides have running: threads would be timed with the next case."""
    for side in case.sides:
        if side.close is not None:
            side.close()


def _headline(environment: dict[str, Any]) -> str:
    versions = environment["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("jax", "torch") if name in versions)
    where = "1 core, CPU time" if environment["pinned"] else f"{environment['cores']} cores, wall clock"
    git = environment["git"]
    sha = "no commit" if git is None else git["sha"][:8] + ("+" if git["dirty"] else "")
    return f"{environment['device']} | {named} | {where}, malloc {environment['malloc']} | {sha}"


def _failed(rows: list[dict[str, Any]]) -> bool:
    refused = any(r["status"] == "refused" for r in rows)
    return refused or any(value is False for r in rows for value in r.get("checks", {}).values())


if __name__ == "__main__":
    raise SystemExit(main())
