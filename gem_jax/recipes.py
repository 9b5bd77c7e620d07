"""Recipes by path: `FILE.py:function` → the whole Config that the function returns."""

import importlib.util
import sys
import traceback
from pathlib import Path

from gem_jax.config import Config, ConfigError


def load_recipe(spec: str) -> Config:
    """Returns the Config of `FILE.py:function`; ConfigError says what is wrong with the spec."""
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if not file or path.suffix != ".py" or not path.is_file():
        raise ConfigError(f"recipe: got {spec!r}, expected FILE.py:function of a file that exists")
    found = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    try:
        found.loader.exec_module(module)
        function = getattr(module, name, None)
        config = function() if callable(function) else None
    except ConfigError:
        raise
    except Exception as error:  # whatever a recipe's own code may raise
        line = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"recipe: {path} failed in {Path(line.filename).name}, line {line.lineno}: "
            f"{type(error).__name__}: {error}; mend the recipe"
        ) from error
    if not isinstance(config, Config):
        raise ConfigError(f"recipe: got {name!r}, expected a function of {path} with a Config")
    return config
