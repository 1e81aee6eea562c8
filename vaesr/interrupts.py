"""Ctrl-C at once, also while XLA compiles or computes.

Python's own handler runs between two instructions of Python, and one call of XLA may take a minute; and an
interpreter that ends while XLA's threads still compute may crash in them. So a thread of its own waits for
the signals, and ends the process where it stands: files have their names only once they are whole.
"""

import contextlib
import os
import signal
import socket
import sys
import threading

_NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_PATIENCE = 0.5  # seconds, for a terminal or pipe that takes no more lines


def end_at_once() -> None:
    """From now on signals to stop end the process within moments, with 128 and their number (Ctrl-C: 130).

    To be called from the main thread. What is being written is removed, what is finished stays. Signals that
    the process was started to ignore, as `nohup` does, stay ignored.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    for number in _NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _nothing)
    signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    # The sender lives as long as the thread that holds it.
    threading.Thread(target=_wait, args=(receiver, sender), daemon=True, name="interrupts").start()


def leave_to_python() -> None:
    """Undoes `end_at_once`, for what handles signals itself."""
    signal.set_wakeup_fd(-1)
    for number in _NUMBERS:
        if signal.getsignal(number) is _nothing:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _nothing(number: int, frame: object) -> None:
    """The thread acts; without a handler of Python's the signal would not be told to it."""


def _wait(receiver: socket.socket, sender: socket.socket) -> None:
    while (number := receiver.recv(1)[0]) not in _NUMBERS:
        pass
    if "vaesr.files.atomic" in sys.modules:  # not imported above: it comes with NumPy, and this with nothing
        with contextlib.suppress(Exception):  # it may be half imported
            sys.modules["vaesr.files.atomic"].remove_unfinished()
    teller = threading.Thread(target=_tell, args=(number,), daemon=True)
    teller.start()
    teller.join(_PATIENCE)
    os._exit(128 + number)


def _tell(number: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    word = "interrupted" if number == signal.SIGINT else "ended by a signal"
    with contextlib.suppress(OSError):
        os.write(2, f"\n{word}; finished files are complete\n".encode())
