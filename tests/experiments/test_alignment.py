"""Methods that align representations of sites, by their names."""

import numpy as np
import pytest

from experiments.pipeline.federated_run import run
from experiments.pipeline.federated_settings import check_settings, resolve
from fedrecon.runtime import Workdir, read_log
from fedrecon.training import FlagError, check_method


def trained(folder, **given):
    settings = check_settings(resolve({"preset": "smoke", "rounds": 2, **given}))
    check_method(settings.federation, (settings.task,))
    with Workdir(folder, {}) as workdir:
        results, _ = run(settings, workdir, parallel="scan")
    return results, read_log(folder / "metrics.jsonl")


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """FedAvg of equal weights, which sends the bytes of any weights."""
    return trained(tmp_path_factory.mktemp("averaged") / "plain", algorithm="fedavg", weighting="equal")


@pytest.mark.slow
def test_fl_mrcm_reconstructs_across_scanners(tmp_path):
    """64 latents of 4 x 8 features a round and client, whether they are known, and the weight."""
    given = {"task": "reconstruction", "cohort": "simulated_mri", "cascades": 1, "channels": 2, "pools": 2,
             "image_size": 32, "patients_per_site": 3}  # fmt: skip
    results, log = trained(tmp_path / "mrcm", algorithm="fl_mrcm", **given)
    plain, other = trained(tmp_path / "plain", algorithm="fedavg", weighting="equal", **given)
    assert all(np.isfinite(scores["psnr"]) for scores in results.own.values())
    more = (np.subtract(log[1][name], other[1][name]) for name in ("bytes_up", "bytes_down"))
    clients = len(results.own)
    assert [int(x) for x in more] == [clients * 4 * 64 * 32, clients * 4 * (64 * 32 + 1)]
    # The first round is that of averaging: nothing is known of the target yet.
    assert log[0]["loss"] == other[0]["loss"] and set(results.own) == set(plain.own)


@pytest.mark.slow
def test_li_moe_classifies_with_experts_of_its_own(tmp_path, averaged):
    results, log = trained(tmp_path / "li", algorithm="li_moe", algorithm_options=(("start", "1"),))
    plain, other = averaged
    assert all(np.isfinite(scores["accuracy"]) for scores in results.own.values()) and not results.released
    clients, features = len(results.own), (log[0]["bytes_up"] - other[0]["bytes_up"]) // 4 / 64
    features /= clients
    # Features up; down those of all clients, who has sent any, and the number of the round.
    assert features == int(features) > 0
    more = log[0]["bytes_down"] - other[0]["bytes_down"]
    assert more == 4 * clients * (64 * clients * features + clients + 1)
    assert (tmp_path / "li" / "results.json").exists() and set(results.own) == set(plain.own)


@pytest.mark.slow
def test_vafl_classifies_translated_images(tmp_path, averaged):
    """Four bytes of everybody, and what the target sends to all others, in the first round's record alone."""
    options = (("samples", "8"), ("generator_steps", "20"), ("translator_steps", "20"))
    results, log = trained(tmp_path / "vafl", algorithm="vafl", algorithm_options=options)
    _, other = averaged
    assert all(np.isfinite(scores["accuracy"]) for scores in results.own.values()) and not results.released
    clients = len(results.own)
    sent = log[0]["bytes_up_before"] - 4 * clients
    assert log[0]["bytes_down_before"] == (clients - 1) * sent
    assert log[0]["bytes_up"] - other[0]["bytes_up"] == sent + 4 * clients
    assert log[1]["bytes_up"] == other[1]["bytes_up"] and "bytes_up_before" not in log[1]


def test_it_reconstructs_alone():
    settings = resolve({"preset": "smoke", "algorithm": "fl_mrcm"})
    with pytest.raises(FlagError, match="--algorithm=fl_mrcm: expected --task=reconstruction alone"):
        check_method(settings.federation, (settings.task,))
