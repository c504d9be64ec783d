"""Calls that cannot end well end in one line that names what was wrong, without a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from experiments import flag_reference

ROOT = Path(__file__).parents[2]

# Program, arguments and what the last line names; {} is a folder with the files of `folder`.
CALLS = """
full_stack | --rounds=0 | --rounds
full_stack | --rounds=nan | --rounds
full_stack | --rounds=many | --rounds
full_stack | --preset=huge | --preset
full_stack | --algorithm=nosuch | --algorithm
full_stack | --seed=-1 | --seed
full_stack | --learning_rate=nan | --learning_rate
full_stack | --learning_rate=inf | --learning_rate
full_stack | --dp.epsilon=-1 | --dp.epsilon
full_stack | --image_size=8 | --image_size
full_stack | --sites=0 | --sites
full_stack | --roundss=3 | roundss
full_stack | three | three
full_stack | --flagfile={}/none | none
full_stack | --dp.epsilon=8 --algorithm=pfedme | --dp.epsilon
full_stack | --topology=ring --reduce=median | --reduce
full_stack | --preset=smoke --workdir={}/file | --workdir
full_stack | --preset=smoke --fault=nan:Nobody --workdir={}/a | --fault
full_stack | --preset=smoke --sampler=uniform --clients_per_round=50 --workdir={}/b | --clients_per_round
train_federated | --task=cooking | --task
train_recon | --task=segmentation | --task: expected reconstruction
train_recon | --network=resnet18 | --network
train_recon | --network=recurrent-varnet --pools=3 | --pools
train_recon | --network=deep-equilibrium --cascades=5 | --cascades
train_recon | --network=plug-and-play --loss=ssim | --loss
train_recon | --network=e2e-varnet --loss=ssdu | --network: expected none of e2e-varnet
compare_recon | --networks=varnet,transformer | --networks: expected some of
compare_recon | --networks=modl | --baseline: expected one of modl
compare_recon | --networks=varnet --varnet.cascades=0 | --varnet.cascades: expected a positive integer
compare_recon | --networks=varnet --modl.cascades=2 | --modl.NAME: expected one of --networks
compare_recon | --networks=varnet --losses=ssdu,ssdu | --losses: expected distinct names
zero_shot | --input={}/none.h5 --output={}/x.png | none.h5
zero_shot | --input={}/scan.h5 --output={}/x.jpg | --output: expected a name ending in .png
zero_shot | --input={}/scan.h5 --output={}/x.png --network=unet | --network
zero_shot | --input={}/scan.h5 --output={}/x.png --slice=5 | --slice: expected a number below 1
evaluate_recon | --workdir={}/none | --workdir
evaluate_recon | --workdir={} --lesions=1,x | --lesions: expected radii
train_recon | --workdir={}/x --member=-1 | --member
evaluate_recon | --workdir={}/none --posterior=-1 | --posterior
benchmark_recon | --only=transformer | --only: expected some of varnet
data_report | --patients_per_site=6 | --data_dir: expected a folder, or a --cohort
data_report | --data_dir={}/none | none
gpu_check | --only=transformer | --only: expected some of precision
gpu_check | --json={}/none/a.json | --json: expected a file
benchmark_memory | --only=transformer | --only: expected some of varnet
benchmark_memory | --iterations=0 | --iterations: expected positive numbers
train_federated | --concentration=0.1 | --concentration
train_federated | --algorithm=moon --task=segmentation | --algorithm
train_federated | --sampler=uniform | --clients_per_round
train_federated | --mixing=complete | --mixing
train_federated | --screen_cosine=-2 | --screen_cosine
train_federated | --clip_norm=-1 | --clip_norm
train_federated | --finetune=lora | --finetune: expected --initialize_from
train_federated | --finetune=prefix | --finetune
train_federated | --downlink.fraction=0.1 | --downlink
finetune | --choices=prefix | --choices
finetune | --choices=full --lora.rank=2 | --lora
finetune | --factors=0 --choices=full --preset=smoke | --factors
finetune | --task=reconstruction | --task
finetune | --base={}/none --choices=full --preset=smoke | --base
finetune | --base={}/rubbish --choices=full --preset=smoke | --base
finetune | --pretraining=moco --choices=full --preset=smoke | --pretraining
finetune | --pretraining=fedmoco --pretraining.size=3 --choices=full --preset=smoke | --pretraining.size
finetune | --labels=0 --choices=full --preset=smoke | --labels
train_federated | --algorithm=fedmoco | --algorithm: expected experiments.finetune --pretraining=fedmoco
finetune | --base={}/rubbish --pretraining_rounds=3 --choices=full --preset=smoke | --pretraining_rounds
train_federated | --downlink=qsgd --downlink.coding=rice | --downlink.coding
train_federated | --downlink=top_k --algorithm=local_only | --downlink
train_federated | --algorithm=fedpaq --secure_aggregation=secagg | --secure_aggregation
train_federated | --parallel=fast | --parallel
train_federated | --devices=0 | --devices
train_federated | --methods_from={}/none.py | none.py
train_federated | --methods_from={}/broken.py | broken.py
train_federated | --algorithm=fedprox --fedprox.strength=-1 | strength
train_federated | --algorithm=fedprox --fedprox.strength=nan | strength
train_federated | --algorithm=fedprox --fedprox.nosuch=1 | nosuch
train_federated | --algorithm=fedavg --fedprox.strength=1 | fedprox
train_federated | --dp.epsilon=8 --algorithm=qfedavg | --dp.epsilon
train_federated | --cohort=retina --task=segmentation --data_dir={}/none | none
train_federated | --topology=asynchronous --fine_tune=1 --stream | --stream
train_federated | --data_dir={}/none | none: expected a folder of hospitals
full_stack | --data_dir={} | expected files of measurements or images
compare | --data_dir={} | expected files of measurements or images
compare | --baseline=nosuch | --baseline
compare | --methods=nosuch | --methods
compare | --seeds=0 | --seeds
compare | --metric=nosuch --preset=smoke --workdir={}/c | --metric
submit | | expected a program after the flags
submit | --cluster=local experiments.trane | experiments.trane
submit | --cluster=local --nodes=2 experiments.train_federated | --nodes
submit | --cluster=local --partition=gpu experiments.train_federated | --partition
submit | --tasks_per_node=0 experiments.train_federated | --tasks_per_node
reconstruct | | --input
reconstruct | --input={}/none.h5 --output={}/x.h5 | none.h5
reconstruct | --input={}/text.h5 --output={}/x.h5 | text.h5
reconstruct | --input={}/short.h5 --output={}/x.h5 | short.h5
reconstruct | --input={}/empty.h5 --output={}/x.h5 | empty.h5
reconstruct | --input={}/file --output={}/x.h5 | /file
reconstruct | --input={}/scan.h5 --output={}/x.bmp | --output
reconstruct | --input={}/scan.h5 --output={}/none/x.h5 | --output
reconstruct | --input={}/scan.h5 --output={}/x.h5 --method=nosuch | --method
reconstruct | --input={}/scan.h5 --output={}/x.h5 --acceleration=0.5 | --acceleration
reconstruct | --input={}/scan.h5 --output={}/x.h5 --select=cheese=1 | --select
reconstruct | --input={}/scan.h5 --output={}/x.h5 --slices=7 | --slices
reconstruct | --input={}/scan.h5 --output={}/x.h5 --weight=-1 | --weight
reconstruct | --input={}/scan.h5 --output={}/x.h5 --iterations=0 | --iterations
reconstruct | --input={}/scan.h5 --output={}/x.h5 --water_attenuation=1 | --water_attenuation
deploy_faults | --workdir={} | --workdir
deploy_faults | --workdir={}/faults --only=fire | --only
deploy_faults | --workdir={}/faults --engine=post | --engine
deploy | start --workdir={}/deploy | expected one of init
deploy | init --workdir={}/deploy --method=nosuch | --algorithm
deploy | init --workdir={}/deploy --method=local_only | can be split over sites
deploy | init --workdir={}/deploy --method=fedavg --topology=ring | --topology
deploy | init --workdir={}/deploy --engine=post | --engine
deploy | init --workdir={}/deploy --engine=flower --method=fedbuff | --method: expected one whose rounds wait
deploy | status --workdir={}/none | --workdir
benchmark_quality | --masks=spiral --data={} | --masks
benchmark_quality | --scans=nobody --data={} | --scans
benchmark_quality | --accelerations=1 --data={} | --accelerations
inspect_file | | file
inspect_file | {}/none.h5 | none.h5
inspect_file | {}/text.h5 | text.h5
inspect_file | {}/short.h5 | short.h5
convert_lodopab | --source={}/none --output={}/lodopab | /none
convert_lodopab | --source={} --output={}/lodopab --part=nosuch | --part
simulate_cohort | | --output
simulate_cohort | --output={}/d --sites=0 | --sites
simulate_cohort | --output={}/d --label_skew=2 | label_skew
simulate_cohort | --output={}/d --size=4 | --size
simulate_cohort | --output={}/file | /file
methods | --methods_from={}/none.py | none.py
methods | --survey=7 | survey
tomography_figures | --output_dir={}/none | --output_dir
operator_figures | --output_dir={}/none | --output_dir
operator_figures | --output_dir={}/bare --data_dir={}/none | none
full_stack | --workdir= | --workdir
full_stack | --image_size=100000000000 | --image_size
full_stack | --cohort=measured --data_dir={}/bare | bare
train_federated | --seed=99999999999999999999 | --seed
train_federated | --image_size=200000 --preset=smoke | memory
train_federated | --flagfile={}/rubbish | --flagfile
train_federated | --flagfile={}/bare | bare
train_federated | --data_dir={}/odd | cohort.json
train_federated | --workdir={}/odd_run | config.json
train_federated | --processes=2 | --coordinator
compare | --seeds=2000000000 --preset=smoke | --seeds
reconstruct | --input={}/nan.h5 --output={}/x.h5 | nan.h5
reconstruct | --input={}/zeros.h5 --output={}/x.h5 | --input
reconstruct | --input={}/big.h5 --output={}/x.h5 | --input
reconstruct | --input={}/tiny.h5 --output={}/x.h5 | --input
reconstruct | --input={}/text_array.h5 --output={}/x.h5 | text_array.h5
reconstruct | --input={}/rubbish --output={}/x.h5 | rubbish
reconstruct | --input={}/no_bytes.h5 --output={}/x.h5 | no_bytes.h5
reconstruct | --input={}/no_bytes.cfl --output={}/x.h5 | no_bytes
reconstruct | --input={}/bare --output={}/x.h5 | bare
reconstruct | --input={} --output={}/x.h5 | expected a DICOM file
reconstruct | --input=/dev/null --output={}/x.h5 | /dev/null
reconstruct | --input={}/views.h5 --output={}/x.h5 | angles_deg
reconstruct | --input={}/scan.h5 --output={}/x.h5 --acceleration=nan | --acceleration
reconstruct | --input={}/scan.h5 --output={}/x.h5 --weight=inf --method=l1-wavelet | --weight
reconstruct | --input={}/scan.h5 --output={}/x.h5 --iterations=99999999999 | --iterations
reconstruct | --input={}/scan.h5 --output={}/x.h5 --iterations=three | --iterations
reconstruct | --input={}/scan.h5 --output={}/x.h5 --slices=6-4 | --slices
reconstruct | --input={}/scan.h5 --output={}/x.h5 --weights={}/odd_run | odd_run
export | --output={}/e | --workdir
export | --workdir={}/none --output={}/e | none
export | --workdir={}/odd_run --output={}/e | --workdir
predict | --weights={}/none --input={}/scan.h5 --output={}/p.png | none
predict | --weights={}/odd_run --input={}/scan.h5 --output={}/p.png --threshold=2 | --threshold
track | --workdir={}/none | none
track | --workdir={}/odd_run | --workdir
secure_aggregation | --drop=mask:1 | --drop
secure_aggregation | --drop=masked:9 | --drop
secure_aggregation | --drop=masked:3-1 | --drop
secure_aggregation | --threshold=2 | threshold
secure_aggregation | --clients=1 | --clients
secure_aggregation | --clients=100000 | --clients
secure_aggregation | --clients=3 --protocol=secagg+ | clients
secure_aggregation | --protocol=secagg+ --neighbors=3 --clients=9 | neighbors
secure_aggregation | --protocol=lightsecagg --colluders=4 | colluders
secure_aggregation | --protocol=paillier | --protocol
communication | --workdir={}/run --codec=zip | --codec
communication | --workdir={}/run --codec=top_k --top_k.part=1 | --top_k.part
communication | --workdir={}/run --codec=qsgd --codec.coding=zip | --codec.coding
communication | --workdir={}/run --codec=power_sgd --power_sgd.alternate=2 | --power_sgd.alternate
communication | --workdir={}/run --codec=qsgd --secure_aggregation=secagg | --codec
privacy_curves | --workdir={}/run --epsilons=0 | --epsilons
privacy_curves | --workdir={}/run --units=hospital | --units
multitask | --workdir={}/run --problems=teeth | --problems
multitask | --workdir={}/run --problems=retina | --data_dir
multitask | --workdir={}/run --problems=xray --data_dir={}/none | none
multitask | --workdir={}/run --methods=fedprox | --methods
multitask | --workdir={}/run --codec=zip | --codec
multitask | --workdir={}/run --finetune=prefix | --finetune
multitask | --workdir={}/run --top_k.fraction=2 --codec=top_k | --top_k.fraction
multitask | --workdir={}/run --epsilons=inf | --epsilons
multitask | --workdir={}/run --seeds=0 | --seeds
multitask | --workdir={}/run --rounds=0 | --rounds
multitask | --workdir={}/run --dp.unit=hospital | --dp_unit
multitask | --workdir={}/run --preset=huge | --preset
multitask | --workdir={}/file --preset=smoke | --workdir
multitask | --workdir={}/run --task=segmentation | task
survey | --workdir={}/run --row=nobody | --row
survey | --workdir={}/run --row=HarmoFL --table=privacy | --row
survey | --workdir={}/run --table=devices | --table
survey | --workdir={}/run --preset=huge | --preset
survey | --workdir={}/run --seeds=0 | --seeds
survey | --workdir={}/run --jobs=0 | --jobs
survey | --workdir={}/file --preset=smoke --row=Singh | --workdir
leave_one_site_out | --workdir={}/run --adapt=tail | --adapt
leave_one_site_out | --workdir={}/run --algorithm=local_only | --algorithm
leave_one_site_out | --workdir={}/run --labeled=0 | --labeled
continual | --workdir={}/run --preset=smoke --blocks=nobody | --blocks
continual | --workdir={}/run --preset=smoke --blocks=client0;-client1 | --blocks
continual | --workdir={}/run --preset=smoke --without=nobody | --without
continual | --workdir={}/run --scenario=nosuch | --scenario
clocks | --metric=dice | --runs
clocks | --runs={}/nothing | --runs
clocks | --runs={}/nothing,{}/nothing | --runs: expected distinct
clocks | --runs={}/nothing --part=0 | --part
clocks | --runs={}/nothing --part=2 | --part
train_federated | --workdir={}/run --clock=soon | --clock
train_federated | --workdir={}/run --clock.latency=1 | --clock
train_federated | --workdir={}/run --clock=wait --clock.seconds=3 | --clock.seconds
train_federated | --workdir={}/run --clock=deadline --clock.seconds=-3 | --clock.seconds
train_federated | --workdir={}/run --clock=overselect | --sampler
train_federated | --workdir={}/run --clock=wait --topology=ring | --clock
train_federated | --workdir={}/run --clock=wait --stream=2 | --clock
continual | --workdir={}/run --preset=smoke --blocks=client0 --without=client0 | --without
continual | --workdir={}/run --methods=local_only | --algorithm
continual | --workdir={}/run --methods=joint --preset=smoke --without=client0 | --methods
continual | --workdir={}/run --dp.epsilon=8 | --dp.epsilon
train_federated | --workdir={}/run --preset=smoke --algorithm=ewc | --algorithm: expected experiments
inversion_figures | --iterations=0 | --iterations
secure_aggregation | --size=many | --size
secure_aggregation | --seed=-1 | --seed
benchmark_privacy | --only=nosuch | --only
flamby | --data_dir={}/none | none
vertical | --problem=teeth | --problem
vertical | --problem=sunnybrook --data_dir={}/none | multisite/sunnybrook_cardiac.h5
vertical | --problem=heart --data_dir={}/none | heart_cleveland.csv
vertical | --problem=tcga_brca --data_dir={}/none | tcga_brca.csv
vertical | --epsilons=0 | --epsilons
vertical | --epsilons=8,8 | --epsilons
vertical | --epsilons=much | --epsilons
vertical | --seeds=0 | --seeds
vertical | --psi=-1 | --psi
vertical | --transfer --problem=tcga_brca --data_dir={} | --problem
joint | --mode=joint | --workdir
joint | --workdir={}/run --mode=both | --mode
joint | --workdir={}/run --strengths=0.1,0.1 | --strengths
joint | --workdir={}/run --strengths=much | --strengths
joint | --workdir={}/run --starts=cold | --starts
joint | --workdir={}/run --start=0.7 | --start
joint | --workdir={}/run --acceleration=40 | --acceleration
joint | --workdir={}/run --image_size=48 | --image_size
joint | --workdir={}/run --topology=ring | --topology
joint | --workdir={}/run --dp.epsilon=8 | --dp.epsilon
joint | --workdir={}/run --data=lesions --data_dir={} | --data_dir
joint | --workdir={}/run --data=clinical_ct --image_size=48 | --image_size
joint | --workdir={}/run --data=clinical_ct --image_size=16 --acceleration=4 --data_dir={}/none | clinical_ct
joint | --workdir={}/run --data_dir={}/none | multisite/sunnybrook_cardiac.h5
flamby | --dataset=nosuch --data_dir={} | --dataset
flamby | --dataset=heart --data_dir={} --methods=fedavg,fedavg | --methods
diagnosis | --workdir={}/none | --workdir
benchmark_segmentation | --only=nosuch | --only
benchmark_segmentation | --threads=0 | --threads
train_federated | --workdir={}/run --configure=fingerprint | --configure
train_federated | --workdir={}/run --task=segmentation --network=unet-deep-supervision | --pools
full_stack | --segmentation_network=resnet18 | --segmentation_network
audit | --workdir={}/none | --workdir
benchmark_privacy | --json={}/none/file | --json
benchmark_privacy | --clients=8 --size=10 --flower_python={}/none | --flower_python
simulate_cohort | --output={}/d --patients_per_site=nan | --patients_per_site
simulate_cohort | --output= | --output
inspect_file | {}/rubbish | rubbish
inspect_file | {}/nan.h5 | nan.h5
inspect_file | {}/bare | bare
check_cohort | | folder
check_cohort | {}/none | none
check_cohort | {}/scan.h5 | scan.h5
benchmarks.mri | --workloads=nosuch | --workloads
benchmarks.mri | --json={}/none/x.json | --json
benchmarks.mri | word | word
benchmarks.ct | --pythons=nosuch | --pythons
benchmarks.ct | --seconds=nan | --seconds
benchmarks.federated | --engines=nosuch | --engines
benchmarks.convolution | --repeats=many | --repeats
operators.native | nosuch | nosuch
operators.native | --precision=float16 | --precision
"""
DATA_SCRIPTS = {"check_cohort", "convert_lodopab", "inspect_file", "simulate_cohort"}
TRAINING = {"finetune", "full_stack", "train_federated", "train_recon", "compare_recon", "compare"}


def folder(path):
    """Files that are no measurements, and one that is."""
    (path / "file").write_text("a file where folders are expected")
    (path / "text.h5").write_text("no HDF5")
    (path / "broken.py").write_text("def (:\n")
    h5py.File(path / "empty.h5", "w").close()
    with h5py.File(path / "scan.h5", "w") as file:
        file["kspace"] = np.ones((1, 2, 24, 20), np.complex64)
    (path / "short.h5").write_bytes((path / "scan.h5").read_bytes()[:900])
    ones = np.ones((1, 2, 24, 20), np.complex64)
    for name, kspace in (
        ("nan", ones * np.nan),
        ("zeros", 0 * ones),
        ("big", 1e38 * ones),
        ("tiny", 1e-40 * ones),
        ("text_array", np.array([b"a", b"b"])),
    ):
        with h5py.File(path / f"{name}.h5", "w") as file:
            file["kspace"] = kspace
    with h5py.File(path / "views.h5", "w") as file:
        file["sinogram"], file["angles_deg"] = np.ones((1, 8, 9), np.float32), np.arange(7.0)
    (path / "rubbish").write_bytes(b"\xff\xfe" + np.random.default_rng(0).bytes(3000))
    for name in ("no_bytes.h5", "no_bytes.cfl", "no_bytes.hdr"):
        (path / name).touch()
    for name in ("bare", "odd", "odd_run"):
        (path / name).mkdir()
    (path / "odd/cohort.json").write_text("[]")
    (path / "odd_run/config.json").write_bytes(b"\xff{}")
    return path


@pytest.mark.slow
def test_bad_calls_end_in_one_line_that_names_what_was_wrong(tmp_path):
    place = str(folder(tmp_path))
    rows = [[part.strip() for part in line.split("|")] for line in CALLS.strip().splitlines()]
    assert len(rows) >= 120
    own = {name.rpartition(".")[2] if "benchmarks" not in name else name for name in flag_reference.PROGRAMS}
    assert own | {"inspect_file", "operators.native"} == {program for program, *_ in rows}
    calls = []
    for program, arguments, _ in rows:
        if program in TRAINING and "--workdir" not in arguments:
            arguments += " --workdir={}/run"
        package = "data_scripts" if program in DATA_SCRIPTS else "experiments"
        module = program if "." in program else f"{package}.{program}"
        calls.append((module, arguments.replace("{}", place).split()))
    run = subprocess.run(
        [sys.executable, "-m", "tests.experiments.call_programs"],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )
    assert run.returncode == 0, run.stderr
    wrong = []
    for (program, arguments, named), (status, output) in zip(rows, json.loads(run.stdout), strict=True):
        lines = output.strip().splitlines()
        line = lines[-1] if lines else ""
        if status != 1 or "Traceback" in output or named not in line or len(lines) > 3:
            wrong.append(f"{program} {arguments}: status {status}, expected {named!r} in:\n{output[-800:]}")
    assert not wrong, "\n\n".join(wrong)
