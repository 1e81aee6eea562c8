"""Input pipelines in torch for the same raw data: the usual DataLoader, and the best that can be done."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

MARGIN = 2  # LR pixels that the reduction reaches beyond a patch


def image_loader(images: np.ndarray, *, batch_size: int, workers: int) -> Callable[[int], Any]:
    """The usual way: a Dataset of single images, shuffled and batched by a DataLoader.

    `images` are `[N, H, W, C]` uint8, may be memory-mapped; without workers this process loads. `draw(n)`
    takes n batches, float32 in [0, 1], and returns the last.
    """
    import torch

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> Any:
            return torch.from_numpy(images[index].transpose(2, 0, 1).copy()).float().div_(255.0)

    return _drawer(Images(), batch_size, workers)


def image_gather(images: np.ndarray, *, batch_size: int) -> Callable[[int], Any]:
    """The best way: all data (`[N, H, W, C]` uint8) resident on the device, one gather per batch.

    `draw(n)` takes n batches, float32 in [0, 1], and returns the last.
    """
    import torch

    from benchmarks.peers.torch_common import device

    bank = torch.from_numpy(np.array(images)).to(device())

    def draw(count: int) -> Any:
        batch = None
        for _ in range(count):
            chosen = torch.randint(len(bank), (batch_size,), device=bank.device)
            batch = bank[chosen].float().div_(255.0)
        return batch

    return draw


def pair_loader(
    photos: list[np.ndarray], *, patch: int, scale: int, batch_size: int, workers: int
) -> Callable[[int], Any]:
    """Random crops, flips and transposes of photographs, with their bicubic reduction, by a DataLoader.

    The crops carry a margin, so that the reduction is the whole photo's, as ours. The reduction is done once
    per batch, which is faster than one by one. `photos` are `[H, W, 3]` uint8 each, `patch` is the side of
    the small image; without workers this process loads. `draw(n)` takes n batches and returns the last:
    `x_lr`, `x_hr`, NCHW float32 in [0, 1].
    """
    import torch

    side = (patch + 2 * MARGIN) * scale
    border = MARGIN * scale

    class Crops(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 100_000

        def __getitem__(self, index: int) -> Any:
            # torch's generator, as it is seeded differently in every worker
            which, top, left, turn = torch.rand(4).tolist()
            photo = photos[int(which * len(photos))]
            y, x = int(top * (photo.shape[0] - side + 1)), int(left * (photo.shape[1] - side + 1))
            crop = photo[y : y + side, x : x + side]
            turn = int(turn * 8)
            crop = crop[::-1] if turn & 1 else crop
            crop = crop[:, ::-1] if turn & 2 else crop
            crop = crop.swapaxes(0, 1) if turn & 4 else crop
            return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))

    def collate(crops: list[Any]) -> tuple[Any, Any]:
        region = torch.stack(crops).float().div_(255.0)
        x_lr = reduce(region, scale).mul_(255.0).round_().clamp_(0.0, 255.0).div_(255.0)
        return x_lr, region[:, :, border:-border, border:-border].contiguous()

    return _drawer(Crops(), batch_size, workers, collate)


def reduce(region: Any, scale: int) -> Any:
    """Torch's antialiased bicubic reduction, without the margin (inside it is the same as MATLAB's).

    Of floats `[B, C, H, W]`: `[B, C, H / scale - 2 * MARGIN, W / scale - 2 * MARGIN]`.
    """
    import torch

    size = (region.shape[-2] // scale, region.shape[-1] // scale)
    small = torch.nn.functional.interpolate(region, size=size, mode="bicubic", antialias=True)
    return small[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]


def _drawer(dataset: Any, batch_size: int, workers: int, collate: Any = None) -> Callable[[int], Any]:
    """Take batches from a shuffling DataLoader, epoch after epoch, onto the device."""
    import torch

    from benchmarks.peers.torch_common import device

    loader = torch.utils.data.DataLoader(
        dataset, batch_size=batch_size, shuffle=True, drop_last=True, num_workers=workers,
        persistent_workers=workers > 0, collate_fn=collate, pin_memory=torch.cuda.is_available(),
    )  # fmt: skip

    def forever() -> Iterator[Any]:
        while True:
            yield from loader

    batches = forever()

    def draw(count: int) -> Any:
        batch = None
        for _ in range(count):
            batch = next(batches)
            parts = batch if isinstance(batch, (tuple, list)) else (batch,)
            batch = tuple(part.to(device(), non_blocking=True) for part in parts)
        return batch

    return draw
