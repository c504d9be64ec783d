"""The audit of a run: its verdict in words, what it refuses, and a run from training to page."""

import json

import pytest

from experiments import audit
from experiments.pipeline.audit_page import verdict
from fedrecon.training import FlagError


def found(psnr=25.0, auc=(0.6, 0.7), lower=1.0, claim=2.0, claimed=True):
    pictures = {"unprotected": psnr, "secure sum": 12.0, "noise": 11.0}
    ends = {"claimed": claimed, "epsilon": claim}
    return {
        "inversion": {
            "sites_in_sum": 8,
            "mean_image": {"psnr": 14.0, "ssim": 0.1},
            "found": {name: {"psnr": value, "ssim": 0.05} for name, value in pictures.items()},
        },
        "membership": {"auc": 0.65, "auc_interval": auc},
        "canaries": {"claim": ends, "lower": lower, "consistent": lower <= claim},
    }


def test_the_verdict_says_what_was_found():
    words = verdict(found())
    assert "example recovers its image better than by a guess: 25.0 dB" in words
    assert "secure sum of 8 sites the attack reaches 12.0 dB, SSIM 0.05, no better" in words
    assert "can be told from those of other patients" in words
    assert "at least 1.00 of its noise, at most the claimed 2.00" in words and "refuted" not in words
    hidden = verdict(found(psnr=15.0, auc=(0.45, 0.6), claimed=False))
    assert "does not, by this attack, recover" in hidden and "cannot be told" in hidden
    assert "claims no differential privacy" in hidden and "at most the planned 2.00" in hidden
    assert "MORE THAN the claimed 2.00. The claim is refuted" in verdict(found(lower=2.5))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "--workdir: expected the directory of a run"),
        ({"methods": "fedavg,ditto", "task": "classification"}, "a comparison"),
    ],
)
def test_what_cannot_be_audited_is_refused_by_name(tmp_path, config, message):
    if config is not None:
        document = {"config": config, "environment": {}}
        (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(FlagError, match=message):
        audit.run(str(tmp_path))


@pytest.mark.slow
def test_a_private_run_is_audited(tmp_path):
    from experiments.pipeline.federated_run import run
    from experiments.pipeline.federated_settings import TrainSettings
    from fedrecon.runtime import open_workdir
    from fedrecon.training import changed, flat

    settings = changed(
        TrainSettings(),
        clients=3,
        rounds=2,
        channels=4,
        pools=1,
        image_size=12,
        examples_per_client=40,
        dp_epsilon=4.0,
        dp_unit="example",
    )
    with open_workdir(tmp_path, flat(settings), {}, resume=True) as workdir:
        run(settings, workdir)
    result = audit.run(str(tmp_path), iterations=20)
    claim = result["canaries"]["claim"]
    ledger = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert claim["epsilon"] == max(line["epsilon"] for line in ledger) and claim["claimed"]
    assert result["canaries"]["lower"] <= claim["epsilon"] and result["canaries"]["consistent"]
    assert result["inversion"]["sites_in_sum"] == 3 and result["inversion"]["label"]["recovered"] >= 0
    page = (tmp_path / "audit.html").read_text()
    assert result["verdict"].split(":")[0] in page and "data:image/png;base64" in page
    assert json.loads((tmp_path / "audit.json").read_text()) == json.loads(json.dumps(result))
    with pytest.raises(FlagError, match=r"--site: expected one of client0, client1, client2, found 'nobody'"):
        audit.run(str(tmp_path), site="nobody")
