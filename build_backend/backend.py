"""PEP 517 backend: setuptools, which here also sees the torch of the environment installed into.

pip, uv and build run this in an isolated environment that hides the packages of that one. Those are
put back, behind the isolated ones. A torch is never asked for: it would be another one, of several
gigabytes, and its choice between CPU and CUDA need not be that of the torch which runs later.
"""

import importlib.util
import sys

import target_environment
from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403


def _find_torch():
    if importlib.util.find_spec("torch") is None:
        sys.path.extend(target_environment.search_path())


def get_requires_for_build_wheel(config_settings=None):
    _find_torch()  # here, so that nothing is downloaded before a missing torch is told
    return []


get_requires_for_build_editable = get_requires_for_build_wheel


def get_requires_for_build_sdist(config_settings=None):
    return []


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    _find_torch()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    _find_torch()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
