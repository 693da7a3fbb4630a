"""Shared by the replacements for classes of sentence-transformers: translates the arguments of
those classes to ours.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .encode import import_torch

# Keys of `model_kwargs` that do not change the result, only how attention is computed or how
# weights are loaded.
HARMLESS_MODEL_KWARGS = ("attn_implementation", "low_cpu_mem_usage", "use_safetensors")
PRECISIONS = {"float32": "f32", "float": "f32", "bfloat16": "bf16", "auto": "auto"}

_log = logging.getLogger("gte")


def options(
    name: str,
    organization: str,
    model: Any,
    *,
    modules: Any,
    device: Any,
    local_files_only: bool,
    model_kwargs: Mapping[str, Any] | None,
    processor_kwargs: Mapping[str, Any] | None,
    config_kwargs: Mapping[str, Any] | None,
    backend: str,
    arguments: dict[str, Any],
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Translates the arguments of a class of sentence-transformers: returns the model, the options
    of our class, and what ``config_kwargs`` say about the model.
    """
    if modules is not None:
        raise ValueError(f"modules: {name} can only open a model by its directory or hub id")
    if model is None:
        raise TypeError(f"{name} needs model_name_or_path: a directory or a hub id")
    arguments["device"] = device
    if backend != "torch":
        raise ValueError(f"backend {backend!r}: not supported, this engine is the only backend")
    for key, value in (model_kwargs or {}).items():
        if key in ("dtype", "torch_dtype"):
            arguments["precision"] = _precision(key, value)
        elif key == "device_map" and str(value) in ("None", "auto", "cpu"):
            pass
        elif key not in HARMLESS_MODEL_KWARGS:
            raise ValueError(f"model_kwargs[{key!r}] = {value!r}: not supported, {name} only accepts dtype")
    for key, value in (processor_kwargs or {}).items():
        if key not in ("model_max_length", "max_length"):
            raise ValueError(f"processor_kwargs[{key!r}] = {value!r}: not supported, {name} only accepts model_max_length")
        arguments["max_length"] = value
    about = dict(config_kwargs or {})
    for key, value in about.items():
        # Dropout only matters for training.
        if key not in ("num_labels", "classifier_dropout"):
            raise ValueError(f"config_kwargs[{key!r}] = {value!r}: not supported, {name} uses the model as its files describe it")
    arguments["offline"] = local_files_only
    place = os.path.expanduser(os.fspath(model))
    # sentence-transformers completes such names in the same way.
    bare = not any(mark in place for mark in ("/", "\\", ":")) and place != "bundled"
    if bare and not os.path.isdir(place):
        place = f"{organization}/{place}"
    return place, arguments, about


def _precision(key: str, dtype: Any) -> str:
    spelled = str(dtype).rsplit(".", 1)[-1]
    if spelled not in PRECISIONS:
        raise ValueError(f"model_kwargs[{key!r}] = {dtype!r}: expected float32, bfloat16 or auto; for int8, use precision='int8'")
    return PRECISIONS[spelled]


def renamed(given: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Renames old arguments to their new names. If both are given, the new one wins, as in
    sentence-transformers.
    """
    for old, new in names.items():
        if old in given:
            value = given.pop(old)
            given.setdefault(new, value)
    return given


def refuse_unknown(name: str, given: Mapping[str, Any]) -> None:
    if given:
        raise TypeError(f"{name}() does not support {', '.join(given)}")


def check_prompts(prompts: Mapping[str, str], default: str | None) -> None:
    if default is not None and default not in prompts:
        raise ValueError(f"default_prompt_name {default!r}: unknown prompt, the model's prompts are {', '.join(prompts) or 'none'}")


def prompt_of(prompts: Mapping[str, str], default: str | None, prompt: str | None, prompt_name: str | None) -> str:
    """The text to put before each text: ``prompt``, else the prompt named ``prompt_name``, else the
    default prompt.
    """
    if prompt is not None:
        if prompt_name is not None:
            _log.warning("both prompt and prompt_name are given: prompt_name is ignored")
        return prompt
    chosen = default if prompt_name is None else prompt_name
    if chosen is None:
        return ""
    if chosen not in prompts:
        raise ValueError(f"prompt_name {chosen!r}: unknown prompt, the model's prompts are {', '.join(prompts) or 'none'}")
    return prompts[chosen]


def torch_if_there() -> Any:
    """torch, or None if it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def tensor(array: np.ndarray[Any, Any], why: str) -> Any:
    """Converts an array to a torch tensor."""
    return import_torch(why).from_numpy(np.ascontiguousarray(array))
