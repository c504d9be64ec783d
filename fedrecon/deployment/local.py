"""What a site or server decides for itself: ``local/fedrecon.json`` of its folder."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedrecon.deployment.errors import DeploymentError

FILE = Path("local") / "fedrecon.json"
_FIELDS = {
    "problem": str,
    "data": str,
    "folder": str,
    "client": int,
    "name": str,
    "data_dir": str,
    "policy": dict,
}


def local_settings(folder: Path) -> dict[str, Any]:
    """The settings of a party's folder.

    Raises:
      DeploymentError: the file is missing or not of this kind.
    """
    file = Path(folder) / FILE
    try:
        values = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DeploymentError(str(file), "a JSON object", error) from error
    if not isinstance(values, dict):
        raise DeploymentError(str(file), "a JSON object", type(values).__name__)
    for name, value in values.items():
        if name not in _FIELDS or type(value) is not _FIELDS[name]:
            expected = f"fields {', '.join(f'{key} ({kind.__name__})' for key, kind in _FIELDS.items())}"
            raise DeploymentError(f"{file}: {name}", expected, repr(value)[:80])
    return values


def named_function(name: str) -> Callable:
    """The function ``package.module:function``.

    Raises:
      DeploymentError: there is none.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise DeploymentError("function", "package.module:function", repr(name)) from error
