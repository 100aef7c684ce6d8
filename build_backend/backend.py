"""PEP 517 backend: setuptools, which here also sees the torch that is already installed.

pip builds in an isolated environment that hides the packages of the environment it installs into.
An extension has to be compiled against the torch it will run with, so those packages are put back,
behind the isolated ones. Only where there is no torch at all is one asked for.
"""

import importlib.util
import site
import sys

from setuptools.build_meta import *  # noqa: F403

if importlib.util.find_spec("torch") is None:
    sys.path.extend(site.getsitepackages())

HAS_TORCH = importlib.util.find_spec("torch") is not None


def get_requires_for_build_wheel(config_settings=None):
    return [] if HAS_TORCH else ["torch>=2.10"]


get_requires_for_build_editable = get_requires_for_build_wheel


def get_requires_for_build_sdist(config_settings=None):
    return []
