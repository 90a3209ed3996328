"""The names in a file that may stand for a model, read from its source."""

from __future__ import annotations

import ast
from pathlib import Path

from dlf.models.scripts import FILES, source_of

__all__ = ["models_in"]


def models_in(file: str) -> list[str]:
    """Returns the names in a file that may stand for a model, or a function without arguments that builds one.

    Args:
        file: A script or a notebook; nothing of it is run.

    Example:
        >>> models_in("nowhere.py")
        []
    """
    if not file.endswith(FILES):
        return []
    try:
        nodes = ast.parse(*source_of(Path(file))).body
    except (SyntaxError, ValueError, KeyError, OSError):
        return []
    classes = [each for each in nodes if isinstance(each, ast.ClassDef)]
    kinds = {each.name for each in classes if any(ast.unparse(base).endswith("Model") for base in each.bases)}
    kinds |= {"Functional", "Model", "Sequential"}

    def makes_one(node: ast.AST) -> bool:
        calls = (each.func for each in ast.walk(node) if isinstance(each, ast.Call))
        return any(ast.unparse(each).rpartition(".")[2] in kinds for each in calls)

    found: dict[str, None] = {}
    for each in nodes:
        if isinstance(each, ast.FunctionDef):
            wanted = len(each.args.posonlyargs + each.args.args) - len(each.args.defaults)
            wanted += each.args.kw_defaults.count(None)
            found |= dict.fromkeys([each.name] * (wanted == 0 and makes_one(each)))
        elif isinstance(each, ast.Assign) and makes_one(each.value):
            found |= dict.fromkeys(target.id for target in each.targets if isinstance(target, ast.Name))
    return list(found)
