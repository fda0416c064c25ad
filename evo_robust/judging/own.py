"""Networks of one's own: functions in modules and files that a user names, which may do anything."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from evo_robust.parts.base import UserError, nearest


def own_network(name: str) -> Callable[[], nn.Module]:
    """The function of ``MODULE:FUNCTION`` or ``FILE.py:FUNCTION``, which gives a network on the CPU.

    Raises:
        UserError: module or function are missing or raise; when it is called: it raises, or gives no network with
            values in its weights.
    """
    place, _, function = name.rpartition(":")
    module = _module(place)
    made = getattr(module, function, None)
    if not callable(made):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"networks={name}: {place} has no function {function!r}: {nearest(function, known)}")

    def make() -> nn.Module:
        with own_code(f"networks={name}: expected a function without arguments that gives a torch.nn.Module"):
            network = made()
        return ready(network, f"networks={name}").cpu()

    return make


def ready(network: object, what: str) -> nn.Module:
    """The network, where it is one whose weights are there, in float32.

    Args:
        network: whatever was given.
        what: where it is from, in words.

    Raises:
        UserError: it is no network of torch, or a weight has no shape, no values or another type.
    """
    if not isinstance(network, nn.Module) or isinstance(network, torch.jit.ScriptModule):
        raise UserError(f"{what}: expected a torch.nn.Module, got {type(network).__name__}")
    for key, tensor in (*network.named_parameters(), *network.named_buffers()):
        if nn.parameter.is_lazy(tensor) or tensor.is_meta:
            raise UserError(f"{what}: expected weights with shapes and values, got none yet for {key}")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            got = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{what}: expected weights in float32, got {got} for {key}")
    return network


@contextlib.contextmanager
def own_code(what: str) -> Iterator[None]:
    """Inside runs code of the user's, whose errors become one message: ``what``, where it failed, and how.

    Raises:
        UserError: the code raised anything but Ctrl-C, or ended the process.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())
        raise UserError(f"{what}: {type(error).__name__}: {text} ({last.filename}, line {last.lineno})") from error


def _module(place: str) -> ModuleType:
    """The module of a dotted name or a file, run once."""
    if not place.endswith(".py"):
        with _from_here(), own_code(f"networks={place}:…: the module cannot be imported"):
            return importlib.import_module(place)
    path = Path(place).expanduser()
    if not path.is_file():
        raise UserError(f"networks={place}:…: there is no such file")
    name = "evo_robust_judged_" + re.sub(r"\W", "_", str(path.resolve()))
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise UserError(f"networks={place}:…: this is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            with own_code(f"networks={place}:…: the file cannot be run"):
                spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


@contextlib.contextmanager
def _from_here() -> Iterator[None]:
    """Inside, modules of the present folder can be imported, as ``python -m`` allows by itself."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
