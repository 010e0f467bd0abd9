"""Import what an extra of tfinetune installs, or say how to install it."""

import importlib
from types import ModuleType

from tfinetune.errors import MissingExtraError


def require(module: str, *, extra: str, feature: str) -> ModuleType:
    """Import `module`.

    Args:
        module: to import.
        extra: of tfinetune that installs it.
        feature: that needs it.

    Raises:
        MissingExtraError: if it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{feature} need {module}, which cannot be imported ({error}). Install it with "
            f"`pip install 'tfinetune[{extra}]'`."
        ) from error
