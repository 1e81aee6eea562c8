"""What has changed in a folder is found, and nothing outside of it is read."""

import os

import pytest

from vaesr.files.digests import digest, first_changed

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run" / "part").mkdir(parents=True)
    (tmp_path / "run" / "a").write_bytes(b"abc")
    (tmp_path / "run" / "part" / "b").write_bytes(b"abc")
    return tmp_path / "run"


def test_the_digest_is_the_standards(folder):
    assert digest(folder / "a") == ABC


def test_what_changed_or_is_gone_is_named(folder):
    known = {"a": ABC, "part/b": ABC}
    assert first_changed(folder, known) == "" == first_changed(folder, {})
    (folder / "part" / "b").write_bytes(b"abd")
    assert first_changed(folder, known) == "part/b"
    (folder / "a").unlink()
    assert first_changed(folder, known) == "a"


def test_names_outside_the_folder_are_not_read(folder):
    (folder.parent / "secret").write_bytes(b"abc")
    os.mkfifo(folder / "pipe")  # would be waited for
    odd = "\x1b[31m\n"
    assert first_changed(folder, {odd: ABC}) == repr(odd)
    for name in ("../secret", str(folder.parent / "secret"), "part/../a", "part", "pipe", ""):
        assert first_changed(folder, {name: ABC}) == (name or "''")
