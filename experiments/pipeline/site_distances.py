"""How far the images of a site lie from those of others, as a network sees them."""

from collections.abc import Mapping, Sequence
from functools import partial

import jax
import numpy as np
from matplotlib.figure import Figure

from fedrecon.data import ClientData
from fedrecon.evaluation import RankCorrelation, frechet_distance
from fedrecon.tasks import layer_features
from fedrecon.types import Batch, Task, Variables

# Examples that pass through the network at a time.
_CHUNK = 16


def site_distance(task: Task, model: Variables, site: ClientData, others: ClientData) -> float:
    """Fréchet distance of the encoder's features at a site from those at others, pooled.

    Features are the means over pixels (if there are any) of what the normalization layer with the most
    channels sees, of several the first: of a U-Net its lowest level. The distance is a squared length in
    units of these features, and larger where there are few examples for their number.

    Returns:
      NaN for a network without normalization layers outside of its cascades, with fewer than two examples on
      a side, or where an image is not finite.
    """
    found = [encoder_features(task, model, data) for data in (site, others)]
    if any(x is None or len(x) < 2 or not np.isfinite(x).all() for x in found):
        return float("nan")
    return frechet_distance(found[0], found[1])


def encoder_features(task: Task, model: Variables, data: ClientData) -> np.ndarray | None:
    """float32 (examples, channels) of all valid examples, see `site_distance`; None without such layers."""
    places = np.argwhere(np.asarray(data.valid))
    examples = {name: np.asarray(x)[tuple(places.T)] for name, x in data.examples.items()}
    layers = layer_features(task)
    parts = []
    see = jax.jit(partial(_lowest, layers))
    for start in range(0, len(places), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(places)))
        padded = np.resize(rows, _CHUNK)
        batch = {name: x[padded] for name, x in examples.items()}
        features = see(model.params, model.stats, {**batch, "valid": np.ones(_CHUNK, bool)})
        if features is None:
            return None
        parts.append(np.asarray(features)[: len(rows)])
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def _lowest(layers, params, stats, batch: Batch) -> jax.Array | None:
    seen = [x for x in layers(params, stats, batch).values() if x.ndim > 1]
    if not seen:
        return None
    deepest = max(seen, key=lambda x: x.shape[-1])
    return deepest.mean(tuple(range(1, deepest.ndim - 1)))


def plot_distances(
    points: Mapping[str, tuple[float, float]],
    metric: str,
    correlation: RankCorrelation,
    about: Sequence[str] = (),
) -> Figure:
    """A point of each site: its distance from those that trained, and the drop of the metric there.

    Args:
      points: site -> (distance, drop).
      metric: its name.
      correlation: of the ranks of both.
      about: lines of the title, such as that the data are simulated.
    """
    drawn = Figure(figsize=(4.6, 3.4), layout="constrained")
    axis = drawn.subplots()
    for site, (distance, drop) in points.items():
        axis.plot(distance, drop, "o", color="tab:blue", markersize=4)
        axis.annotate(site, (distance, drop), fontsize=6, xytext=(3, 3), textcoords="offset points")
    axis.axhline(0, color="0.6", linewidth=0.8)
    # Names to the right of the last point.
    axis.margins(x=0.2)
    axis.set(xlabel="Fréchet distance of features from the sites that trained", ylabel=f"drop of {metric}")
    interval = f" ({correlation.low:+.2f} to {correlation.high:+.2f})" if np.isfinite(correlation.low) else ""
    axis.set_title("\n".join([*about, f"rank correlation {correlation.rho:+.2f}{interval}"]), fontsize=8)
    return drawn
