"""The page of the operators: its blocks print what is stated below them, its commands and images exist."""

import contextlib
import importlib
import io
import math
import re
from operator import attrgetter
from pathlib import Path

import pytest

import operators
from experiments import operator_figures, tomography_figures
from fedrecon.data import DataError, read_tomography

pytestmark = pytest.mark.slow

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "operators.md").read_text()
IMAGES = re.findall(r"!\[[^\]]*\]\((images/[^)]+)\)", PAGE)


def same(found, stated):
    """Equal words; numbers equal to 10 %, as other machines sum in another order."""
    try:
        return math.isclose(float(found), float(stated), rel_tol=0.1)
    except ValueError:
        return found == stated


def test_the_blocks_run_in_order_and_print_what_is_stated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    blocks = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", PAGE, re.S)
    assert len(blocks) >= 10
    for code, stated in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        found, stated = printed.getvalue().split(), stated.split()
        assert len(found) == len(stated) and all(map(same, found, stated)), (found, stated)


def test_commands_name_flags_that_exist():
    commands = re.findall(r"python -m (experiments\.\w+)([^`]*?)(?:`|\n(?=```|python))", PAGE)
    assert len(commands) == PAGE.count("python -m experiments.")
    for module, arguments in commands:
        source = Path(importlib.import_module(module).__file__).read_text()
        for flag in re.findall(r"--(?:no)?(\w+)", arguments):
            assert flag == "help" or f'"{flag}"' in source, (module, flag)


def test_links_lead_somewhere_and_images_are_small():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", PAGE) if "://" not in link]
    assert len(links) > len(IMAGES)
    assert all((DOCS / link).exists() for link in links)
    assert len(IMAGES) == 7
    assert all((DOCS / image).stat().st_size <= 150_000 for image in IMAGES)


def test_every_name_in_a_table_is_a_function_of_the_library():
    section = PAGE[PAGE.index("## Coils") : PAGE.index("## Errors")]
    rows = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    called = re.findall(r"`(?!fedrecon)([\w.]+)[(`]", rows)
    assert len(called) > 30
    assert all(callable(attrgetter(name)(operators)) for name in called), called


def test_the_figure_shows_every_trajectory(tmp_path):
    figure = operator_figures.trajectory_figure()
    shown = {axis.get_title().split("\n")[0] for axis in figure.axes}
    public = {
        name for name in operators.mri.__all__ if re.search(r"^(?!stack)\w+_trajectory$|^stack_of_", name)
    }
    assert shown == public
    path = tmp_path / "trajectories.png"
    operator_figures.save(figure, path, gray=False)
    assert path.read_bytes()[1:4] == b"PNG" and path.stat().st_size <= 150_000


def test_the_coordinates_are_drawn_and_small(tmp_path):
    path = tmp_path / "ct_coordinates.png"
    operator_figures.save(tomography_figures.coordinate_figure(), path, gray=False)
    assert path.read_bytes()[1:4] == b"PNG" and path.stat().st_size <= 150_000


def test_the_rotation_axis_of_the_tooth_is_found(measured_data):
    scan = read_tomography(measured_data("ct/tooth_parallel.h5"))
    found = tomography_figures.find_rotation_axis(scan.values[0], scan.angles)
    assert abs(found - scan.axis_offset) < 0.5


def test_figures_of_absent_data_name_the_file(tmp_path):
    drawings = (
        operator_figures.radial_figure,
        operator_figures.brain_figure,
        tomography_figures.tooth_figure,
        tomography_figures.disc_figure,
        tomography_figures.low_dose_figure,
    )
    for draw in drawings:
        with pytest.raises(DataError, match=r"absent\.h5"):
            draw(tmp_path / "absent.h5")
