"""Masked autoencoding: what is hidden does not reach the network, and only it counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.pipeline.pretraining import carried
from fedrecon.models import CLASSIFIERS, MaskedAutoencoder, UNet, VisionTransformer
from fedrecon.tasks import masked_autoencoding_task

SIZES = {"patch": 4, "channels": 8, "depth": 1, "heads": 2}


def batch_of(seed=0, count=2):
    rng = np.random.default_rng(seed)
    image = jnp.asarray(3 + 2 * rng.normal(size=(count, 8, 12, 1)), jnp.float32)
    return {"image": image, "valid": jnp.ones(count, bool)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["autoencoder", "unet"])
def test_hidden_pixels_do_not_reach_the_network_and_they_alone_count(kind):
    model = (
        MaskedAutoencoder(**SIZES, visible=1 / 3, decoder_channels=8) if kind == "autoencoder" else UNet(2, 1)
    )
    batch = batch_of()
    task = masked_autoencoding_task(model, batch, patch=4, hidden=2 / 3)
    variables = task.init(jax.random.key(1))
    rng = np.random.default_rng(3)
    variables = jax.tree.map(lambda x: x + 0.1 * jnp.asarray(rng.normal(size=x.shape), x.dtype), variables)
    image = np.asarray(batch["image"])
    standard = (image - image.mean((1, 2), keepdims=True)) / image.std((1, 2), keepdims=True)
    filled = np.asarray(task.predict(*variables, batch))
    away = np.abs(filled - standard) > 1e-3
    blocks = away.reshape(2, 2, 4, 3, 4).all((2, 4))
    # Four of six patches, all of their pixels.
    assert blocks.sum((1, 2)).tolist() == [4, 4] and away.mean() == pytest.approx(4 / 6)
    value, count = task.metrics(*variables, batch)["loss"]
    expected = [np.square(filled - standard)[i][away[i]].mean() for i in range(2)]
    np.testing.assert_allclose([value, count], [sum(expected), 2], rtol=1e-4)
    # Another content of hidden pixels, of the same mean and deviation: the same predictions.
    other = image.copy()
    for i in range(2):
        other[i][away[i]] = rng.permutation(image[i][away[i]])
    again = np.asarray(task.predict(*variables, {**batch, "image": jnp.asarray(other)}))
    np.testing.assert_allclose(again[away], filled[away], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_padding_counts_nothing_and_training_learns():
    batch = batch_of(count=4)
    task = masked_autoencoding_task(MaskedAutoencoder(**SIZES, decoder_channels=8), batch)
    variables = task.init(jax.random.key(1))
    there = {**batch, "valid": jnp.array([True, True, False, False])}
    far = {**there, "image": batch["image"].at[2:].mul(1e6)}
    one, other = (task.loss(*variables, b, jax.random.key(2))[0] for b in (there, far))
    np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.slow
def test_the_encoder_is_that_of_the_classifier():
    """All parameters but the head's are carried over, and remat changes nothing."""
    batch = batch_of()
    task = masked_autoencoding_task(MaskedAutoencoder(**SIZES, decoder_channels=8), batch)
    source = task.init(jax.random.key(1)).params
    plain, again = (VisionTransformer(**SIZES, remat=remat) for remat in (False, True))
    target = plain.init(jax.random.key(2), batch["image"])["params"]
    params, copied = carried(target, source)
    leaves = jax.tree_util.tree_leaves_with_path(target)
    assert len(copied) == len(leaves) - 2
    logits = [m.apply({"params": params}, batch["image"]) for m in (plain, again)]
    np.testing.assert_allclose(*logits, rtol=1e-5)
    shapes = jax.eval_shape(CLASSIFIERS["vit-b"]().init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 85_800_194  # torchvision's, of two classes


def test_wrong_arguments_are_named():
    for options, words in (
        ({"hidden": 1.0}, "hidden: expected a number between"),
        ({"patch": 0}, "patch: expected a positive integer"),
    ):
        with pytest.raises(ValueError, match=words):
            masked_autoencoding_task(UNet(2, 1), batch_of(), **options)
    with pytest.raises(ValueError, match="image: expected arrays"):
        masked_autoencoding_task(UNet(2, 1), {"image": jnp.zeros((1, 8, 8, 8, 1))})
