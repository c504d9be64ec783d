"""Public signatures: every name in an ``__all__`` says what it takes and what it returns."""

import importlib
import inspect
import pkgutil
import typing

import pytest

import fedrecon
import operators
from operators.ct import Geometry

# Methods with a meaning of their own; the signatures of the others are Python's.
SPECIAL = ("__init__", "__call__")


def public_packages() -> list[str]:
    found = []
    for top in (operators, fedrecon):
        modules = pkgutil.walk_packages(top.__path__, top.__name__ + ".")
        found += [top.__name__, *(module.name for module in modules if module.ispkg)]
    return [name for name in found if hasattr(importlib.import_module(name), "__all__")]


def public_functions(package: str) -> list[tuple[str, typing.Callable]]:
    """Functions, and the methods of classes, with their names."""
    module = importlib.import_module(package)
    found = []
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value):
            found += [(f"{name}.{method}", function) for method, function in own_methods(value)]
        elif callable(value) and hasattr(value, "__name__") and not isinstance(value, typing.GenericAlias):
            found.append((name, inspect.unwrap(value)))
    return found


def own_methods(kind: type) -> list[tuple[str, typing.Callable]]:
    """Those written in the class: neither inherited, nor generated from its annotated fields."""
    found = []
    for name, member in vars(kind).items():
        if name.startswith("_") and name not in SPECIAL:
            continue
        function = getattr(member, "__func__", member)
        if isinstance(function, property):
            function = function.fget
            # A lambda gives what the annotated property of the same name describes.
            if function.__name__ == "<lambda>" and described(kind, name):
                continue
        if inspect.isfunction(function) and function.__module__ == kind.__module__ and written(function):
            found.append((name, function))
    return found


def described(kind: type, name: str) -> bool:
    return any(
        name in vars(other).get("__annotations__", {})
        or inspect.signature(vars(other)[name].fget).return_annotation is not inspect.Signature.empty
        for other in (*kind.__mro__[1:], Geometry)
        if name in vars(other).get("__annotations__", {}) or isinstance(vars(other).get(name), property)
    )


def written(function: typing.Callable) -> bool:
    return not function.__code__.co_filename.startswith("<")


def missing(name: str, function: typing.Callable) -> list[str]:
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if "." in name and parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    found = [p.name for p in parameters if p.annotation is inspect.Parameter.empty]
    returns = signature.return_annotation is not inspect.Signature.empty or name.endswith(".__init__")
    return found if returns else [*found, "return"]


@pytest.mark.parametrize("package", public_packages())
def test_public_signatures_are_annotated(package):
    wrong = {name: gaps for name, function in public_functions(package) if (gaps := missing(name, function))}
    assert not wrong


@pytest.mark.parametrize("package", public_packages())
def test_annotations_can_be_evaluated(package):
    for name, function in public_functions(package):
        assert typing.get_type_hints(function) or not inspect.signature(function).parameters, name


def test_the_check_sees_gaps():
    def function(a, b: int, *rest, c=1, **options) -> int:
        return a + b + c

    class Kind:
        def method(self, x): ...

        size = property(lambda self: 1)

    assert missing("function", function) == ["a", "rest", "c", "options"]
    assert {name: missing(f"Kind.{name}", f) for name, f in own_methods(Kind)} == {
        "method": ["x", "return"],
        "size": ["return"],
    }
    names = [name for package in public_packages() for name, _ in public_functions(package)]
    assert len(names) > 300 and "NUFFT.transpose_gram" not in names and "LinearOperator.__call__" in names
