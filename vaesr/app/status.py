"""What a command is doing, for whoever waits: a bar on a terminal, elsewhere a line every ten seconds."""

import contextlib
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

_REFRESH, _LINE = 1.0, 10.0  # seconds


class Status:
    """Counts finished items, and says which one is worked on, how far it is, and how long all will take.

    Use it as a context: a thread of its own refreshes what is shown, also while the work is within one call
    of a library. It goes to the error stream; with `quiet` there is nothing but the bar of a terminal.
    """

    def __init__(self, amounts: Sequence[float | None] = (1.0,), *, quiet: bool = False) -> None:
        """`amounts` tell how much work each item is, in whatever unit; None where that isn't known."""
        self._quiet = quiet
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._refresh, daemon=True, name="status")
        self._bar = _make_bar()
        self._name = self._stage = ""
        self.expect(amounts)

    def expect(self, amounts: Sequence[float | None]) -> None:
        """Begins anew, with other items."""
        known = [amount for amount in amounts if amount]
        usual = sum(known) / len(known) if known else 1.0
        self._amounts = [amount or usual for amount in amounts]
        self._count, self._share = 0, 0.0
        # When how much was done for the first time: what is compiled until then does not come again.
        self._first: tuple[float, float] | None = None

    def __enter__(self) -> "Status":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._bar is not None:
            self._bar.close()

    def stage(self, text: str) -> None:
        """Tells what is being done, for example "reading weights"; "" is the work itself."""
        self._stage = text
        self._show()

    def compiling(self, shape: Sequence[int] | None) -> None:
        """Tells that the network is compiled for images of this shape, `[N, H, W, C]`; None: it is done."""
        self.stage(f"compiling for {shape[2]}x{shape[1]} pixels" if shape else "computing")

    def begin(self, name: str) -> None:
        """Tells which item is next."""
        self._name, self._share = name, 0.0
        self.stage("reading")

    def progress(self, done: int, total: int, unit: str = "tile") -> None:
        """Tells how much of the item is done."""
        self._share = done / max(total, 1)
        if self._first is None:
            self._first = time.monotonic(), self._done()
        self.stage(f"{unit} {done} of {total}")

    def finish(self) -> None:
        """The item is done, or failed."""
        self._count, self._share = min(self._count + 1, len(self._amounts)), 0.0
        if self._first is None:
            self._first = time.monotonic(), self._done()
        self._show()

    def say(self, line: str) -> None:
        """Prints a line of results."""
        if self._bar is not None:
            self._bar.clear()
        coding = sys.stdout.encoding or "utf-8"  # which may not know a file's name
        print(line.encode(coding, "backslashreplace").decode(coding), flush=True)
        self._show()

    def text(self) -> str:
        """What is being done, in a line."""
        many = f" ({self._count + 1} of {len(self._amounts)})" if len(self._amounts) > 1 else ""
        words = [f"{self._name}{many}" if self._name else "", self._stage]
        left = self._seconds_left()
        return ": ".join(word for word in words if word) + (f", about {left:.0f} s left" if left else "")

    def _done(self) -> float:
        own = self._amounts[self._count] if self._count < len(self._amounts) else 0.0
        return sum(self._amounts[: self._count]) + self._share * own

    def _seconds_left(self) -> float | None:
        if self._first is None:
            return None
        began, before = self._first
        done = self._done()
        if done <= before:
            return None
        return (sum(self._amounts) - done) * (time.monotonic() - began) / (done - before)

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.n = self._done() / sum(self._amounts) if self._amounts else 1.0
            self._bar.set_description_str(self.text(), refresh=True)

    def _refresh(self) -> None:
        while not self._over.wait(_LINE if self._bar is None else _REFRESH):
            if self._bar is not None:
                self._show()
            elif not self._quiet and self.text():
                # Whoever closed the stream doesn't want to know.
                with contextlib.suppress(OSError, ValueError):
                    print(self.text(), file=sys.stderr, flush=True)


def _make_bar() -> Any:
    """tqdm's bar; None without a terminal or without tqdm."""
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    form = "{percentage:3.0f}%|{bar:16}| {desc} [{elapsed}]"
    bar = tqdm(total=1.0, disable=None, bar_format=form, dynamic_ncols=True, leave=False)
    return None if bar.disable else bar
