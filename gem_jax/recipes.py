"""Recipes by path: `FILE.py:function` → the whole Config that the function returns."""

import importlib.util
import sys
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
    found.loader.exec_module(module)
    function = getattr(module, name, None)
    config = function() if callable(function) else None
    if not isinstance(config, Config):
        raise ConfigError(f"recipe: got {name!r}, expected a function of {path} with a Config")
    return config
