"""The notebooks of docs/: stored without outputs, and their cells run in order."""

import json
from pathlib import Path

import matplotlib
import pytest

FILES = sorted((Path(__file__).resolve().parents[1] / "docs/notebooks").glob("*.ipynb"))


def cells(path, kind):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_notebooks_have_no_outputs_and_explain_themselves(path):
    assert all(not c["outputs"] and c["execution_count"] is None for c in cells(path, "code"))
    assert cells(path, "markdown")[0]["source"][0].startswith("# ")


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_cells_run_in_order(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names: dict = {}
    for cell in cells(path, "code"):
        exec("".join(cell["source"]), names)
    assert pyplot.get_fignums()
    pyplot.close("all")
    if path.stem == "kspace_to_image":
        assert names["errors"]["TV"] < names["errors"]["CG-SENSE"] and abs(names["delay"]) < 0.01
    else:
        assert names["losses"][-1] < 0.5 * names["losses"][0] and names["result"].mean["accuracy"] > 0.7
