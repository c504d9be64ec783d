"""The catalog: complete, true to the algorithms it names, and open to methods from elsewhere."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from fedrecon import catalog
from fedrecon import federated as fl
from fedrecon.catalog import Entry, registry, tracing
from fedrecon.types import Task

# Those of the review are one a line at the end, in the order of its tables.
NAMES = """fedavg fedavgm diloco streaming_diloco fedpaq fedadagrad fedadam fedyogi fedprox
ewc lwf fednova scaffold feddyn moon qfedavg afl fedbn fedper fedrep ditto pfedme apfl fedala feddg_ga
dp_fedavg li_w beguier deepee p3sgd cheng famhe medisecfed lai local_only centralized
tuladhar
ji
fednorm
fedacs
feddg
fedcl
li_moe
fl_mrcm
fedmoco
wu_dermatology
wu_volumetric

feddropoutavg
vafl
harmofl
harmofl_scaffold
singh
fedce
iop_fl
braintorrent
prr_fl
elayan
fedbiomed
lc_fed

baid
banerjee
roth
wei
priya

fedvss
nalawade
yang
sheller
wang
kades
pati
pan
fedsim
""".split()

# Methods whose tasks have private leaves beside those of the network.
BRINGS_LEAVES = {"li_moe", "vafl", "fedsim"}
P = 10**6
# Float32 numbers up and down where they are not the model and its weight up, and the model down.
NUMBERS = {
    # A quarter of the model, the header of 64 bytes and the weight; the model and two turns.
    "streaming_diloco": (P // 4 + 16 + 1, P + 2),
    # The last model and the Fisher diagonal; the last model alone.
    "ewc": (P + 1, 3 * P),
    "lwf": (P + 1, 2 * P),
    "fednova": (P + 2, P),
    "scaffold": (2 * P + 1, 2 * P),
    "harmofl_scaffold": (2 * P + 1, 2 * P),
    "qfedavg": (P + 2, P),
    "feddg_ga": (P + 2, P),
    "afl": (P + 11, P + 10),
    "fedbn": (P - 2_000 + 1, P - 2_000),
    "fedper": (P - 10_000 + 1, P - 10_000),
    "fedrep": (P - 10_000 + 1, P - 10_000),
    # The classes' mean features and numbers: one class, one feature.
    "lai": (2 + 1, 2),
    # 256 answers of one class; what is asked, 256 images of 8 x 8 in two bytes, the consensus and a number.
    "medisecfed": (256 + 1, 256 * 8 * 8 // 2 + 256 + 1),
    # The correlation, mean and variance of one feature; those of ten clients.
    "fedmoco": (P + 1 + 1 + 1 + 1, P + 10 * 2),
    # A bank of 256 features; those of ten clients.
    "wu_dermatology": (P + 1 + 256, P + 10 * 256),
    # With a byte each.
    "wu_volumetric": (P + 1 + 256 + 64, P + 10 * (256 + 64)),
    "tuladhar": (P + 2, P),
    "pati": (P + 2, P),
    "fednorm": (P + 2, P),
    "fedacs": (P + 2, P),
    # The number of the round.
    "pan": (P + 1, P + 1),
    # The error; the coefficient and the number of the round.
    "fedce": (P + 2, P + 2),
    # Without the normalization layers.
    "prr_fl": (P - 2_000 + 1, P - 2_000),
    # 64 features of everybody; those of ten clients, who has sent any, and the number of the round.
    "li_moe": (P + 64 + 1, P + 640 + 10 + 1),
    # 64 latents of one feature, of everybody; those of the target, and whether it has sent any.
    "fl_mrcm": (P + 64 + 1, P + 64 + 1),
    # The head, the normalization layers as the last block, and a weight of each; the round's number.
    "elayan": (12_000 + 2, 12_000 + 1),
    # Without the head, which is published apart; the heads of ten clients, who has one, and the round.
    "lc_fed": (P + 1, P - 10_000 + 10 * 10_000 + 10 + 1),
    "local_only": (0, 0),
    "centralized": (0, 0),
}
# Ciphertexts of the model and its weight, ten clients of which may have a weight of up to 4096: slots of
# 24 + 12 + 4 + 1 bits, 74 of them in 3072 bits but 22; and 3 elements of 8192 coefficients of four primes.
BYTES_UP = {
    # 15 levels in four bits, a norm of 512 numbers, the header and the weight.
    "fedpaq": P // 2 + 4 * -(-P // 512) + 64 + 4,
    # Seven tenths of the model, the header, the seed and the weight.
    "feddropoutavg": 4 * 7 * P // 10 + 64 + 8 + 4,
    "li_w": 10**5 * 52 // 8 + 8,
    "cheng": -(-(P + 1) // 74) * 769,
    "famhe": 123 * 3 * 8192 * 4 * 4,
}


@pytest.fixture
def empty_register(monkeypatch):
    """What a test registers is forgotten afterwards."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def recipe(task, optimizer, *, strength: float = 0.5, **options):
    return fl.fedavg(task, optimizer, **options)


def test_names_are_complete():
    assert [entry.name for entry in catalog.entries()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_true_to_its_algorithm(name):
    entry = catalog.lookup(name)
    algorithm = catalog.example(entry)
    up, down = NUMBERS.get(name, (P + 1, P))
    found = catalog.traffic(entry)
    assert (found.up, found.down) == (BYTES_UP.get(name, 4 * up), 4 * down)
    reducer = algorithm.reduce
    # AFL's sum of losses has an entry for each client.
    one_by_one = found.gathered > 0 or entry.name == "afl"
    together = not one_by_one and entry.before is None and not entry.topology
    assert entry.linear == (together and (reducer is None or reducer.linear))
    # Models of their own: private leaves, or variables that `personalize` replaces.
    shapes, _ = tracing.example_arguments()
    state = jax.eval_shape(algorithm.client.init, shapes)
    model, state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes, state))
    replaced = algorithm.personalize(model, state, None) is not model
    # Of `Entry.task`, which is not made here, they are the method's to name.
    private = not all(jax.tree.leaves(algorithm.share_mask)) or (entry.task and name in BRINGS_LEAVES)
    assert entry.personal == (bool(replaced or private) and not entry.pooled)
    assert entry.exchanges == (up > 0)
    assert re.match(r"fedrecon\.(communication|federated|privacy)\.methods\.", entry.module)
    assert entry.reference == "comparator" or re.search(r" (19|20)\d\d, ", entry.reference)


def test_rows_fix_what_recipes_do_not_take():
    for entry in catalog.entries():
        for option in entry.fixes:
            with pytest.raises(TypeError, match=option):
                entry.recipe(Task(*[None] * 5), **{option: None, **_required(entry)})


def _required(entry):
    values = {"optimizer": None, "learning_rate": 0.1, "clients": 2, "represent": None, "example": {}}
    values["contrast"] = catalog.CONTRAST
    values |= {"score": None, "rounds": 2, "sizes": (3, 5)}
    values |= {"score": None, "rounds": 2, "head_steps": 1}
    return {name: values[name] for name in (*catalog.RATES[entry.rate], *entry.needs) if name in values}


def test_lookup_names_what_there_is():
    assert catalog.lookup("centralised") is catalog.lookup("centralized")
    with pytest.raises(ValueError, match=r"^method: expected one of fedavg, .*, found 'fedbest'$"):
        catalog.lookup("fedbest")


def test_methods_are_registered_once(empty_register):
    mine = Entry("mine", recipe, "Nobody 2026", "nothing")
    assert catalog.register(mine) is catalog.lookup("mine") is mine
    assert catalog.entries()[-1] is mine and mine.options == {"strength": float}
    assert mine.module == __name__ and catalog.traffic(mine) == catalog.traffic(catalog.lookup("fedavg"))
    for name in ("mine", "fedavg", "centralised"):
        with pytest.raises(
            ValueError, match=f"^name: expected one that is not in the catalog, found '{name}'"
        ):
            catalog.register(Entry(name, recipe, "Nobody 2026", "nothing"))


def without_options(task, optimizer):
    return fl.fedavg(task, optimizer)


def with_a_required_table(task, optimizer, *, table, **options):
    return fl.fedavg(task, optimizer, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "My method"}, "name: expected lower case"),
        ({"name": "reduce"}, "name: expected"),
        ({"reference": ""}, "reference: expected words"),
        ({"changes": None}, "changes: expected words, found None"),
        ({"rate": "adam"}, "rate: expected one of optimizer, learning_rate, both, found 'adam'"),
        ({"needs": ("money",)}, "needs: expected some of clients, .*, found 'money'"),
        ({"fixes": ("learning_rate",)}, "fixes: expected some of sampler, .*, found 'learning_rate'"),
        ({"recipe": "fedavg"}, "recipe: expected a function, found 'fedavg'"),
        ({"recipe": lambda optimizer: None}, "recipe: expected a first parameter 'task'"),
        ({"recipe": without_options, "rate": "both"}, "recipe: expected a parameter 'learning_rate'"),
        ({"recipe": without_options}, "recipe: expected .* or 'sampler' among fixes, found neither"),
        ({"recipe": with_a_required_table}, "recipe: expected a default of 'table'"),
    ],
)
def test_a_malformed_row_names_the_field(changes, message):
    fields = {"name": "mine", "recipe": recipe, "reference": "Nobody 2026", "changes": "nothing"}
    with pytest.raises(ValueError, match=f"^{message}"):
        Entry(**{**fields, **changes})


def test_options_written_as_text_count_too():
    def postponed(task, a: "float", b: "bool" = True, c: "Task" = None, clients: int = 2):
        pass

    assert catalog.options_of(postponed) == {"a": float, "b": bool}


def test_rows_of_the_survey_name_tests_that_there_are():
    rows = {entry.survey_row: entry for entry in catalog.entries() if entry.survey_row}
    privacy = {"Beguier", "P3SGD", "deepee", "Li-SVT", "Cheng", "FAMHE", "MediSecFed", "Lai"}
    assert privacy <= rows.keys()
    for name in privacy:
        assert rows[name].command and len(rows[name].tests) > 1, name
    root = Path(__file__).parents[1]
    for entry in rows.values():
        for test in entry.tests:
            file, _, function = test.partition("::")
            text = (root / file).read_text()
            assert not function or re.search(rf"^def {function}\(", text, re.MULTILINE), (entry.name, test)
