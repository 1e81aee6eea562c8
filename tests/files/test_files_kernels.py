"""Kernels on disk: ours, MATLAB's, and what is none."""

import io

import numpy as np
import pytest
import scipy.io

from vaesr.files.kernels import read_kernel, write_kernel
from vaesr.imaging import random_kernel


def test_both_files_read_back(tmp_path):
    kernel = random_kernel(0)
    paths = write_kernel(tmp_path, "photo.one", kernel, scale=2)
    assert [path.name for path in paths] == ["photo.one.npz", "photo.one.mat"]
    for path in paths:
        np.testing.assert_allclose(read_kernel(path), kernel / kernel.sum(), atol=1e-15)
    np.testing.assert_array_equal(scipy.io.loadmat(paths[1])["Kernel"], kernel)
    np.save(tmp_path / "k.npy", 2 * kernel)
    np.testing.assert_allclose(read_kernel(tmp_path / "k.npy"), kernel / kernel.sum(), atol=1e-15)


def archive(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def matlab(**arrays):
    file = io.BytesIO()
    scipy.io.savemat(file, arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npz", b"nothing", "holds no kernel"),
        ("a.npz", archive(other=np.ones((3, 3))), "no array named kernel"),
        ("a.npz", archive(kernel=np.ones(3)), r"holds float64 \[3\]; a kernel is \[K, L\]"),
        ("a.npz", archive(kernel=np.zeros((3, 3))), "sum is 0"),
        ("a.npz", archive(kernel=np.full((3, 3), np.nan)), "sum is nan"),
        ("a.npz", archive(kernel=np.ones((300, 3))), "up to 255 a side"),
        ("a.mat", b"MATLAB 5.0 MAT-file" + bytes(200), "holds no kernel"),
        ("a.mat", matlab(K=np.ones((3, 3))), "no variable Kernel"),
        ("a.mat", matlab(Kernel="text"), "a kernel is"),
        ("a.png", b"", "must end in .npz, .npy, .mat"),
        ("a.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '|O'", "holds no kernel"),
    ],
)
def test_what_is_none_is_refused_in_a_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_kernel(tmp_path / name)
    assert "\n" not in str(caught.value)
