"""Prints README's two commands word for word, one a line: what a newcomer copies is what CI runs."""

import pathlib
import re
import sys

README = pathlib.Path(__file__).resolve().parent.parent / "README.md"

blocks = re.findall(r"^```[^\n]*\n(.*?)^```", README.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
lines = [line for block in blocks for line in block.splitlines()]
commands = [line for line in lines if line.startswith("pip install -e ") and "&&" in line]
wanted = ("experiments", "pytest")
if len(commands) != 2 or any(word not in line for word, line in zip(wanted, commands, strict=True)):
    sys.exit(f"README.md should have two commands, an experiment's and the tests', and has {commands}")
print("\n".join(commands))
