"""Commands that run a method on the data that it is for."""


def on_radiographs(name: str, options: str = "") -> str:
    """The command that trains on the measured chest radiographs."""
    return trained(name, "--task=classification --cohort=xray", options)


def on_retina(name: str, options: str = "") -> str:
    """The command that trains on the photographs of the retina of three hospitals."""
    return trained(name, "--task=segmentation --cohort=retina", options)


def on_hearts(name: str, options: str = "") -> str:
    """The command that trains on hearts of one hospital, divided over sites with simulated scanners."""
    divided = "--partition=quantity --concentration=4 --clients=4 --validation_part=0.2 --feature_shift=0.5"
    return trained(name, f"--task=segmentation --cohort=sunnybrook {divided}", options)


def on_clinical_ct(name: str, options: str = "") -> str:
    """The command that trains on CT of two patients with inserted spheres."""
    return trained(name, "--task=segmentation --cohort=clinical_ct", options)


def on_densities(name: str, options: str = "") -> str:
    """The command that trains on drawn images of four classes of density at seven sites."""
    data = "--task=classification --cohort=simulated_density --clients=7 --examples_per_client=120"
    divided = "--partition=dirichlet --concentration=0.5 --feature_shift=0.3 --validation_part=0.2"
    return f"experiments.train_federated --workdir=runs/{name} {data} {divided} --algorithm={name} {options}"


def on_slides(name: str, options: str = "") -> str:
    """The command that trains on simulated slides of eight sites."""
    data = "--task=classification --cohort=simulated_slides"
    return f"experiments.train_federated --workdir=runs/{name} {data} --algorithm={name} {options}".rstrip()


def trained(name: str, data: str, options: str = "") -> str:
    """The command that trains on data of these flags in the folder of measured data."""
    rest = f"{data} --data_dir=$FEDRECON_DATA --algorithm={name} {options}".rstrip()
    return f"experiments.train_federated --workdir=runs/{name} {rest}"
