"""Figures of latent-variable models: reconstructions, traversals, the plane of codes."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from vaesr.reports import canvas
from vaesr.reports.grids import Images, _stack, labelled_grid

Decode = Callable[[np.ndarray], np.ndarray | jax.Array]
# Tableau's ten, then ten more for label sets that need them.
_PALETTE = [
    *("#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#ff9da7", "#9c755f"),
    *("#6b6f76", "#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#e6ab02", "#a6761d", "#1f78b4"),
    *("#b2df8a", "#fb9a99"),
]


def reconstruction_figure(
    originals: Images, reconstructions: Images, *, columns: int = 10, title: str | None = None
) -> np.ndarray:
    """Draws each original directly above its reconstruction, `columns` pairs (at least 1) in a row.

    Both are `[N, H, W, C]` or a list of `[H, W, C]`, floats in [0, 1] or uint8. Returns uint8 `[H', W', 3]`;
    the last row may be shorter.
    """
    above, below = _stack(originals), _stack(reconstructions)
    if above.shape != below.shape:
        raise ValueError(f"originals and reconstructions must match, got {above.shape} and {below.shape}")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    columns = min(columns, len(above))
    zoom = max(1, min(round(900 / (columns * above.shape[2])), 8))
    between = np.full((2, above.shape[2] * zoom, 3), 255, np.uint8)
    pairs = [
        np.concatenate([canvas.enlarge(a, zoom), between, canvas.enlarge(b, zoom)])
        for a, b in zip(above, below, strict=True)
    ]
    return labelled_grid(pairs, columns=columns, pad=6, zoom=1, title=title)


def latent_traversal(
    decode: Decode,
    centre: np.ndarray | jax.Array,
    *,
    dimensions: Sequence[int] | None = None,
    span: float = 3.0,
    steps: int = 11,
    title: str | None = None,
) -> np.ndarray:
    """Draws what one latent dimension after the other does: a row per dimension, left to right.

    `decode`, called once, maps codes `[B, D]` float32 to images `[B, H, W, C]` in [0, 1]. The code `centre`
    `[D]` is changed, for example zeros or one image's posterior mean, in `steps` values (at least 2) from
    `-span` to `span`, in standard deviations of the prior; `dimensions` None are the first ten. Returns uint8
    `[H', W', 3]`.
    """
    centre = np.asarray(centre, np.float32)
    if centre.ndim != 1:
        raise ValueError(f"centre must be one code [D], got shape {centre.shape}")
    rows = list(range(min(len(centre), 10))) if dimensions is None else list(dimensions)
    if steps < 2 or not rows or any(not 0 <= d < len(centre) for d in rows):
        raise ValueError(
            f"dimensions must lie in 0..{len(centre) - 1} and steps be 2 or more, got {rows}, {steps}"
        )
    values = np.linspace(-span, span, steps, dtype=np.float32)
    codes = np.repeat(centre[None], len(rows) * steps, axis=0)
    for row, dimension in enumerate(rows):
        codes[row * steps : (row + 1) * steps, dimension] = values
    return labelled_grid(
        np.asarray(decode(codes)),
        columns=steps,
        row_labels=[f"z{dimension}" for dimension in rows],
        column_labels=[_signed(value) for value in values],
        title=title,
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}".rstrip("0").rstrip(".").replace("-", "\u2212") if value else "0"


def latent_manifold(decode: Decode, *, steps: int = 20) -> np.ndarray:
    """Draws the plane of a two-dimensional code: the decoder at a grid of the prior's quantiles.

    `decode`, called once, maps codes `[B, 2]` float32 to images `[B, H, W, C]` in [0, 1]; there are `steps`
    images, at least 2, along each side. Returns uint8 `[H', W', 3]`, the first dimension to the right, the
    second upwards. Source: Kingma and Welling 2014, figure 4.
    """
    if steps < 2:
        raise ValueError(f"steps must be at least 2, got {steps}")
    edges = np.asarray(jax.scipy.special.ndtri((np.arange(steps, dtype=np.float32) + 0.5) / steps))
    right, up = np.meshgrid(edges, edges[::-1])
    codes = np.stack([right.ravel(), up.ravel()], axis=-1).astype(np.float32)
    return labelled_grid(np.asarray(decode(codes)), columns=steps, pad=0)


def latent_scatter(
    codes: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array | None = None,
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> np.ndarray:
    """Draws the first two dimensions of many codes, coloured by label.

    The codes are `[N, D]` with D at least 2, usually posterior means; labels `[N]` integers, None for one
    colour; `names` say what each label is called, by its number. Returns uint8 `[H', W', 3]`.
    """
    codes = np.asarray(codes, np.float32)
    if codes.ndim != 2 or codes.shape[1] < 2:
        raise ValueError(f"codes must be [N, D] with D at least 2, got shape {codes.shape}")
    groups = np.zeros(len(codes), np.int64) if labels is None else np.asarray(labels)
    if groups.shape != (len(codes),):
        raise ValueError(f"labels must be [{len(codes)}], got shape {groups.shape}")
    figure = canvas.new_figure(7.6, 6.4)
    axes = figure.add_subplot()
    size = float(np.clip(20000 / max(len(codes), 1), 4, 30))
    for index, group in enumerate(np.unique(groups)):
        chosen = codes[groups == group]
        name = names[int(group)] if names is not None and 0 <= int(group) < len(names) else str(group)
        colour = _PALETTE[index % len(_PALETTE)]
        axes.scatter(chosen[:, 0], chosen[:, 1], s=size, color=colour, alpha=0.75, linewidths=0, label=name)
    canvas.quiet(axes)
    axes.set_aspect("equal", "datalim")
    axes.set(xlabel="first latent dimension", ylabel="second latent dimension")
    if title:
        axes.set_title(title, loc="left", fontweight="bold")
    if labels is not None and len(np.unique(groups)) <= 40:
        axes.legend(
            loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, markerscale=(40 / size) ** 0.5
        )
    return canvas.rasterise(figure)


def latent_activity(
    variances: np.ndarray | jax.Array,
    kl_nats: np.ndarray | jax.Array,
    *,
    threshold: float = 0.01,
    title: str | None = None,
) -> np.ndarray:
    """Draws how much each latent is used: the variance of its posterior mean, and its KL.

    `variances` `[D]` are Var_x(E_q[z | x]), `kl_nats` `[D]` the mean KL to the prior. Latents above the
    threshold, a line in the upper plot, count as active and are drawn darker; the title None gives their
    number. Returns uint8 `[H', W', 3]`; the latents in the order of their variance, most active first.
    Source: Burda et al. 2016, section 5.2.
    """
    variances, kl_nats = np.asarray(variances, np.float64), np.asarray(kl_nats, np.float64)
    if variances.ndim != 1 or not len(variances) or variances.shape != kl_nats.shape:
        raise ValueError(
            f"variances and kl_nats must both be [D], got shapes {variances.shape} and {kl_nats.shape}"
        )
    order = np.argsort(-variances)
    active = variances[order] > threshold
    colours = np.where(active, _PALETTE[0], "#c5ccd6")
    figure = canvas.new_figure(float(np.clip(0.22 * len(order) + 2.0, 6.0, 16.0)), 5.2)
    above, below = figure.subplots(2, 1, sharex=True)
    places = np.arange(len(order))
    above.bar(places, np.maximum(variances[order], 1e-8), color=colours, width=0.8)
    above.set_yscale("log")
    above.set_ylim(min(threshold / 30, max(variances.min(), 1e-6)), max(2.0, 1.5 * variances.max()))
    above.axhline(threshold, color=_PALETTE[2], linewidth=1.2, linestyle="--")
    above.set_ylabel("variance of the\nposterior mean")
    below.bar(places, kl_nats[order], color=colours, width=0.8)
    below.set(xlabel="latent, most active first", ylabel="mean KL, nats")
    step = max(1, len(order) // 25)
    below.set_xticks(places[::step], [f"z{latent}" for latent in order[::step]], fontsize=8)
    for axes in (above, below):
        canvas.quiet(axes)
    below.set_xlim(-1.0, len(order))
    shown = title or f"{active.sum()} of {len(order)} latents active"
    above.set_title(shown, loc="left", fontweight="bold")
    return canvas.rasterise(figure)


def group_activity(
    kl_nats: np.ndarray | jax.Array, scales: Sequence[str], *, threshold: float = 0.01
) -> np.ndarray:
    """Draws what each group of latents carries, in the order of drawing: a bar a group, a colour a scale.

    `kl_nats` `[G]` are the mean KLs to the prior, `scales` G names, such as "8x8", alike for groups of one
    scale. Groups above the threshold count as active; the title gives their number. Returns uint8
    `[H', W', 3]`.
    """
    kl_nats = np.asarray(kl_nats, np.float64)
    if kl_nats.ndim != 1 or not len(kl_nats) or len(scales) != len(kl_nats):
        raise ValueError(
            f"kl_nats and scales must be of one length, at least 1, got {kl_nats.shape} and {len(scales)}"
        )
    figure = canvas.new_figure(float(np.clip(0.3 * len(kl_nats) + 2.5, 5.0, 16.0)), 3.6)
    axes, places = figure.add_subplot(), np.arange(len(kl_nats))
    for colour, scale in enumerate(dict.fromkeys(scales)):
        chosen = np.array([name == scale for name in scales])
        bars = {"color": _PALETTE[colour % len(_PALETTE)], "width": 0.8, "label": scale}
        axes.bar(places[chosen], kl_nats[chosen], **bars)
    step = max(1, len(places) // 25)
    axes.set_xticks(places[::step], [str(place + 1) for place in places[::step]], fontsize=8)
    axes.set(xlabel="group of latents, in the order of drawing", ylabel="mean KL, nats")
    canvas.quiet(axes)
    active = int((kl_nats > threshold).sum())
    title = f"{active} of {len(kl_nats)} groups active, {kl_nats.sum():.1f} nats in all"
    axes.set_title(title, loc="left", fontweight="bold")
    axes.legend(frameon=False)
    return canvas.rasterise(figure)
