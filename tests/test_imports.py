"""Which package may import which: the table of docs/architecture.md, enforced on the source."""

import ast
import configparser
import fnmatch
import functools
import graphlib
import importlib
import pkgutil
import re
import sys
from pathlib import Path

import pytest

import fedrecon
import operators

ROOT = Path(__file__).resolve().parents[1]
STANDARD = set(sys.stdlib_module_names)

# Package or module -> project packages it may import, and third-party packages it may import.
ALLOWED = {
    "operators/__init__.py": ({"operators"}, set()),
    "operators/algebra": ({"operators.algebra"}, {"jax", "numpy"}),
    "operators/kernels": ({"operators.kernels", "operators.algebra"}, {"jax", "numpy"}),
    "operators/fourier": (
        {"operators.fourier", "operators.kernels", "operators.algebra"},
        {"jax", "numpy"},
    ),
    "operators/solvers": ({"operators.solvers", "operators.algebra"}, {"jax", "numpy"}),
    "operators/mri": (
        {"operators.mri", "operators.solvers", "operators.fourier", "operators.algebra"},
        {"jax", "numpy"},
    ),
    "operators/ct": (
        {"operators.ct", "operators.solvers", "operators.fourier", "operators.kernels", "operators.algebra"},
        {"jax", "numpy"},
    ),
    "operators/phantoms": (
        {"operators.phantoms", "operators.ct", "operators.fourier", "operators.algebra"},
        {"jax", "numpy"},
    ),
    "operators/native.py": ({"operators.kernels"}, set()),
    "operators/trials.py": ({"operators"}, {"jax", "numpy"}),
    "fedrecon/errors.py": ({"operators.algebra"}, set()),
    "fedrecon/types.py": (set(), {"jax"}),
    "fedrecon/files.py": (set(), set()),
    "fedrecon/weights.py": ({"fedrecon.errors", "fedrecon.files", "fedrecon.types"}, {"numpy", "flax"}),
    "fedrecon/published_weights": (
        {"fedrecon.errors", "fedrecon.models", "fedrecon.published_weights", "fedrecon.types"},
        {"numpy", "flax", "torch"},
    ),
    "fedrecon/exports.py": (
        {"fedrecon.errors", "fedrecon.types", "fedrecon.weights", "operators.kernels"},
        {"jax", "numpy", "flatbuffers", "safetensors"},
    ),
    "fedrecon/alignment": (
        {"fedrecon.alignment", "fedrecon.errors", "fedrecon.types"},
        {"jax", "numpy", "optax", "scipy"},
    ),
    "fedrecon/__init__.py": (
        {"fedrecon.types", "fedrecon.errors", "fedrecon.exports", "fedrecon.training.run"},
        set(),
    ),
    "fedrecon/data": ({"fedrecon.data"}, set()),
    "fedrecon/data/clients": ({"fedrecon.data.clients", "operators"}, {"jax", "numpy"}),
    "fedrecon/data/formats": (
        {"fedrecon.data.formats", "fedrecon.files", "operators"},
        {"numpy", "h5py", "ismrmrd", "pydicom", "highdicom", "nibabel", "twixtools", "PIL"},
    ),
    "fedrecon/data/simulation": (
        {"fedrecon.data.simulation", "fedrecon.data.clients", "fedrecon.data.formats"}
        | {"fedrecon.files", "operators"},
        {"jax", "numpy"},
    ),
    "fedrecon/data/simulation/anatomy": ({"fedrecon.data.simulation.anatomy"}, {"numpy"}),
    "fedrecon/data/measured": (
        {"fedrecon.data.measured", "fedrecon.data.clients", "fedrecon.data.formats", "fedrecon.data.folders"}
        | {f"fedrecon.data.simulation.{n}" for n in ("CTSite", "OVERSAMPLING", "chest_coils", "measure_ct")}
        | {"operators"},
        {"jax", "numpy", "h5py", "sklearn"},
    ),
    "fedrecon/data/folders": (
        {"fedrecon.data.folders", "fedrecon.data.clients", "fedrecon.data.formats", "operators"}
        | {f"fedrecon.data.simulation.{name}" for name in ("chest_coils", "read_mri_cohort")}
        | {"fedrecon.data.simulation.read_mri_cohort_manifest"},
        {"jax", "numpy", "h5py"},
    ),
    "fedrecon/classical.py": (
        {"fedrecon.classical_maps", "fedrecon.classical_methods", "fedrecon.data", "operators"},
        {"jax", "numpy"},
    ),
    "fedrecon/classical_maps.py": ({"fedrecon.data", "operators"}, {"jax", "numpy"}),
    "fedrecon/classical_methods.py": ({"operators"}, {"jax"}),
    "fedrecon/tomography.py": ({"fedrecon.data", "operators"}, {"jax", "numpy"}),
    "fedrecon/learned.py": (
        {"fedrecon.classical_maps", "fedrecon.data", "fedrecon.evaluation", "fedrecon.exports"}
        | {"fedrecon.models", "fedrecon.tasks"}
        | {"fedrecon.ood", "fedrecon.types", "fedrecon.weights", "operators"},
        {"jax", "numpy", "flax"},
    ),
    "fedrecon/zero_shot.py": (
        {"fedrecon.errors", "fedrecon.tasks", "fedrecon.types", "operators"},
        {"jax", "flax", "optax"},
    ),
    "fedrecon/learned_tomography.py": (
        {"fedrecon.data", "fedrecon.learned", "fedrecon.types", "operators"},
        {"jax", "numpy"},
    ),
    "fedrecon/priors": ({"fedrecon.priors", "fedrecon.errors", "operators"}, {"jax", "numpy", "optax"}),
    "fedrecon/models": (
        {"fedrecon.models", "fedrecon.priors", "fedrecon.types", "operators"},
        {"jax", "numpy", "flax"},
    ),
    "fedrecon/tasks": (
        {"fedrecon.tasks", "fedrecon.alignment", "fedrecon.models", "fedrecon.types", "operators"},
        {"jax", "numpy", "flax", "optax"},
    ),
    "fedrecon/federated": (
        {"fedrecon.alignment", "fedrecon.federated", "fedrecon.secure_aggregation", "fedrecon.types"},
        {"jax", "numpy", "optax", "jax_privacy"},
    ),
    "fedrecon/communication": (
        {"fedrecon.communication", "fedrecon.federated", "fedrecon.types"},
        {"jax", "numpy", "optax"},
    ),
    "fedrecon/attacks": (
        {"fedrecon.attacks", "fedrecon.federated", "fedrecon.tasks", "fedrecon.types", "operators"},
        {"jax", "numpy", "optax", "scipy", "jax_privacy"},
    ),
    "fedrecon/encryption": ({"fedrecon.encryption"}, {"numpy", "tenseal", "cryptography"}),
    "fedrecon/evaluation": ({"fedrecon.evaluation", "operators"}, {"numpy", "scipy", "jax"}),
    "fedrecon/catalog": (
        {"fedrecon.catalog", "fedrecon.communication", "fedrecon.federated", "fedrecon.privacy"}
        | {"fedrecon.alignment", "fedrecon.tasks", "fedrecon.types"},
        {"jax", "optax"},
    ),
    "fedrecon/privacy": (
        {"fedrecon.privacy", "fedrecon.encryption", "fedrecon.federated", "fedrecon.types"},
        {"jax", "numpy", "optax", "jax_privacy", "dp_accounting", "attr", "cryptography", "scipy"},
    ),
    "fedrecon/secure_aggregation": ({"fedrecon.secure_aggregation"}, {"numpy", "cryptography"}),
    "fedrecon/vertical": (
        {"fedrecon.vertical", "fedrecon.federated", "fedrecon.privacy", "fedrecon.secure_aggregation"}
        | {"fedrecon.types"},
        {"jax", "numpy", "optax", "cryptography"},
    ),
    "fedrecon/runtime": (
        {"fedrecon.runtime", "fedrecon.types", "fedrecon.files"},
        {"jax", "numpy", "orbax", "rich", "absl"},
    ),
    "fedrecon/training": (
        {
            "fedrecon.training",
            "fedrecon.alignment",
            "fedrecon.catalog",
            "fedrecon.communication",
            "fedrecon.data",
            "fedrecon.federated",
            "fedrecon.files",
        }
        | {"fedrecon.attacks", "fedrecon.communication"}
        | {
            "fedrecon.exports",
            "fedrecon.ood",
            "fedrecon.models",
            "fedrecon.privacy",
            "fedrecon.published_weights",
            "fedrecon.runtime",
            "fedrecon.secure_aggregation",
            "fedrecon.tasks",
            "fedrecon.types",
            "fedrecon.weights",
        },
        {"jax", "numpy", "optax", "h5py", "flax"},
    ),
    "fedrecon/ood.py": ({"fedrecon.data"}, {"numpy"}),
    "fedrecon/tracking.py": (
        {"fedrecon.runtime"},
        {"numpy", "matplotlib", "tensorboardX", "mlflow"},
    ),
    "fedrecon/nodes": (
        {"fedrecon.nodes", "fedrecon.federated", "fedrecon.files", "fedrecon.types"},
        {"jax", "numpy", "optax"},
    ),
    "fedrecon/deployment": (
        {"fedrecon.deployment", "fedrecon.data", "fedrecon.federated", "fedrecon.files", "fedrecon.types"}
        | {"fedrecon.privacy", "fedrecon.secure_aggregation", "fedrecon.training", "fedrecon.weights"},
        {"jax", "numpy", "nvflare", "flwr", "cryptography", "httpx"},
    ),
    "fedrecon/reporting": ({"fedrecon.reporting", "fedrecon.files"}, {"numpy", "matplotlib"}),
    "data_scripts": (
        {"data_scripts", "fedrecon.data", "fedrecon.files", "fedrecon.runtime", "operators"},
        {"jax", "numpy", "absl", "h5py", "matplotlib"},
    ),
    "experiments": ({"experiments", "fedrecon", "operators"}, None),
    "benchmarks": ({"benchmarks", "fedrecon", "operators"}, None),
}
# Every package of fedrecon imports it.
SHARED = "fedrecon.errors.ArgumentError"
# Packages whose modules only they import; all others import from the package.
DATA = ("clients", "folders", "formats", "measured", "simulation")
FACES = (
    "fedrecon.attacks",
    "fedrecon.catalog",
    "fedrecon.data",
    *(f"fedrecon.data.{part}" for part in DATA),
    "fedrecon.data.simulation.anatomy",
    "fedrecon.deployment",
    "fedrecon.encryption",
    "fedrecon.federated",
    "fedrecon.models",
    "fedrecon.nodes",
    "fedrecon.privacy",
    "fedrecon.reporting",
    "fedrecon.runtime",
    "fedrecon.secure_aggregation",
    "fedrecon.tasks",
    "fedrecon.training",
    "fedrecon.vertical",
)
OPERATORS = ("algebra", "kernels", "fourier", "solvers", "mri", "ct", "phantoms")
FACES += tuple(f"operators.{package}" for package in OPERATORS)
MOST_NAMES = 60
# The self-test of the compiled kernels calls primitives that nothing else may use.
INSIDERS = {"operators/trials.py"}
# Imports from inside a package, and why: the benchmark draws the same orders of examples as the engine does.
EXCEPTIONS = {"benchmarks/federated/models.py": {"fedrecon.federated.engine.round_keys"}}
# Packages of programs whose start is that of experiments.
STARTED = {"data_scripts/__init__.py", "benchmarks/__init__.py"}
PROJECT = {"operators", "fedrecon", "experiments", "data_scripts", "benchmarks"}


def entry_of(path: Path) -> str:
    relative = path.relative_to(ROOT).as_posix()
    matches = [entry for entry in ALLOWED if relative == entry or relative.startswith(entry + "/")]
    assert matches, f"{relative} is in no entry of tests/test_imports.py and docs/architecture.md"
    return max(matches, key=len)


@functools.cache
def imports(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(node.lineno, name) for name in names]
    return found


# Recipes of named methods, of which there are too many for a face.
RECIPES = "fedrecon.federated.methods."

FILES = sorted(p for top in PROJECT for p in (ROOT / top).rglob("*.py") if "__pycache__" not in p.parts)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_file_imports_what_it_may_and_from_faces(path):
    """One test a file: a thousand more cost seconds."""
    follows_the_table(path)
    imports_from_faces(path)
    uses_public_names(path)


def follows_the_table(path):
    own, packages = ALLOWED[entry_of(path)]
    for line, name in imports(path):
        top = name.split(".")[0]
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        assert "._src" not in name, where
        if top in PROJECT:
            allowed = own is None or any(name == r or name.startswith(r + ".") for r in own)
            allowed |= name == SHARED and path.is_relative_to(ROOT / "fedrecon")
            allowed |= name == "experiments" and path.relative_to(ROOT).as_posix() in STARTED
            assert allowed, where
        elif top not in STANDARD:
            assert packages is None or top in packages, where


def imports_from_faces(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    if path.relative_to(ROOT).as_posix() in INSIDERS:
        return
    for line, name in imports(path):
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        for face in FACES:
            if name.startswith(face + ".") and not module.startswith(face + "."):
                inner = name.removeprefix(face + ".")
                allowed = inner in public_names(face) or inner.split(".")[0] in public_modules(face)
                allowed |= name.startswith(RECIPES)
                exceptions = EXCEPTIONS.get(path.relative_to(ROOT).as_posix(), ())
                assert allowed or name in FACES or name in exceptions, where
        if name.startswith("operators.") and name.count(".") == 1:
            assert name.removeprefix("operators.") in public_names("operators"), where


def test_exceptions_are_still_needed():
    for path, names in EXCEPTIONS.items():
        assert names <= {name for _, name in imports(ROOT / path)}


def uses_public_names(path):
    for line, name in qualified(path):
        package, _, inner = name.removeprefix("operators.").partition(".")
        where = f"{path.relative_to(ROOT)}:{line} uses {name}"
        assert package in public_names("operators"), where
        if package in OPERATORS and inner:
            assert inner.split(".")[0] in public_names(f"operators.{package}"), where


def qualified(path: Path) -> list[tuple[int, str]]:
    """Names such as ``operators.mri.grappa`` in a file that imports ``operators``, as a whole."""
    tree = ast.parse(path.read_text())
    if not any(
        isinstance(n, ast.Import) and any(a.name == "operators" for a in n.names) for n in ast.walk(tree)
    ):
        return []
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    inner = {node.value for node in attributes}
    names = [(node.lineno, ast.unparse(node)) for node in attributes if node not in inner]
    matches = [(line, re.match(r"operators(\.\w+)+", name)) for line, name in names]
    matches += [(node.lineno, re.fullmatch(r"operators(\.\w+)+", ast.unparse(node))) for node in inner]
    return [(line, match.group()) for line, match in matches if match]


def test_operators_are_layers():
    below = set()
    for package in OPERATORS:
        allowed, _ = ALLOWED[f"operators/{package}"]
        assert allowed <= below | {f"operators.{package}"}
        below.add(f"operators.{package}")
    assert not any("operators.mri" in ALLOWED[f"operators/{p}"][0] for p in OPERATORS if p != "mri")
    packages = {p.parent.name for p in (ROOT / "operators").glob("*/__init__.py")}
    assert packages == set(OPERATORS)


def test_no_function_hides_a_module():
    names = []
    for top in (operators, fedrecon):
        names += [m.name for m in pkgutil.walk_packages(top.__path__, top.__name__ + ".")]
    names = [n for n in names if not n.endswith("__main__")]
    assert len(names) > 100
    for name in names:
        module = importlib.import_module(name)
        package, _, attribute = name.rpartition(".")
        assert getattr(sys.modules[package], attribute) is module, name


LIBRARY = [p for p in FILES if p.name == "__init__.py" and p.relative_to(ROOT).parts[0] != "benchmarks"]
PACKAGES = {".".join(p.relative_to(ROOT).parent.parts): p for p in LIBRARY}
WITH_FACES = sorted(name for name, path in PACKAGES.items() if "__all__" in path.read_text())


def test_packages_have_faces():
    assert {*FACES, "fedrecon", "operators"} <= set(WITH_FACES)


@pytest.mark.parametrize("face", WITH_FACES)
def test_a_face_is_sorted_and_short(face):
    names = public_names(face)
    assert 0 < len(names) <= MOST_NAMES
    kinds = [(not n.isupper(), not n[0].isupper(), n) for n in names]
    assert kinds == sorted(kinds) and len(set(names)) == len(names)
    module = importlib.import_module(face)
    assert all(hasattr(module, name) for name in names)


def public_modules(package: str) -> set[str]:
    """Modules whose names may be imported by others: those that the package hands on as modules."""
    if package == "fedrecon.data":
        return set(DATA)
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text())
    aliases = [a for n in tree.body if isinstance(n, ast.ImportFrom) and n.module == package for a in n.names]
    return {alias.name for alias in aliases if alias.asname == alias.name}


def public_names(package: str) -> list[str]:
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text())
    (names,) = [n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "__all__"]
    return ast.literal_eval(names)


def test_flags_are_read_only_in_mains():
    for path in FILES:
        # It parses command lines for the mains.
        if path == ROOT / "fedrecon/runtime/program.py":
            continue
        if path.relative_to(ROOT).parts[0] in ("operators", "fedrecon"):
            assert not re.search(r"\bflags\.FLAGS\b|\bDEFINE_\w+\(", path.read_text()), path


def test_the_checker_itself_reads_imports():
    source = ROOT / "fedrecon" / "__init__.py"
    assert any(name == "fedrecon.types.Task" for _, name in imports(source))


def test_benchmarks_are_not_installed():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    patterns = settings["options.packages.find"]["include"].split()
    packages = {".".join(path.relative_to(ROOT).parent.parts) for path in FILES if path.name == "__init__.py"}
    installed = {name for name in packages if any(fnmatch.fnmatchcase(name, p) for p in patterns)}
    assert packages - installed == {name for name in packages if name.split(".")[0] == "benchmarks"} != set()


# A benchmark's modules for one area know nothing of the others; no two modules import each other.
@pytest.mark.parametrize("area", ["ct", "federated", "mri"])
def test_benchmarks_share_nothing_but_the_modules_for_all(area):
    paths = sorted((ROOT / "benchmarks" / area).glob("*.py"))
    needs = {}
    for path in paths:
        found = {name for _, name in imports(path) if name.startswith("benchmarks.")}
        for name in found:
            assert name.split(".")[1] in (area, "measure", "command"), (path, name)
        stems = {p.stem for p in paths}
        needs[path.stem] = {
            part
            for name in found
            if name.split(".")[1] == area
            for part in name.split(".")[2:3]
            if part in stems
        }
    # Flower finds the functions of its module by importing it from itself.
    needs["flower_engine"] = needs.get("flower_engine", set()) - {"flower_engine"}
    graphlib.TopologicalSorter(needs).prepare()
