"""The base of the models of all files that mambaport reads; errors name the file and the key."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from mambaport.errors import MambaportError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
VersionText = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)*([a-z0-9.+]*)$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class Model(BaseModel):
    """Frozen; an unknown key is an error; keys are written with hyphens in TOML."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=_kebab,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


M = TypeVar("M", bound=BaseModel)


def read_toml(path: Path, error: type[MambaportError] = UsageError) -> dict[str, Any]:
    """A TOML file as plain data.

    Raises:
        MambaportError: (of the class given) the file does not exist, or is not TOML.
    """
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"There is no file {path}", hint="check the path") from None
    except RecursionError:
        raise error(f"{path} is not TOML", found="values nested too deep", hint="nest fewer") from None
    except ValueError as fault:  # also bytes that are not UTF-8, and numbers of thousands of digits
        raise error(f"{path} is not TOML", found=str(fault), hint="correct the file at that place") from None
    except OSError as fault:
        raise error(
            f"{path} cannot be read", found=fault.strerror, hint="name a file that this user may read"
        ) from None
    return data


def validate(
    model: type[M], data: Any, path: Path, error: type[MambaportError] = UsageError, prefix: str = ""
) -> M:
    """``data`` as a ``model``. ``prefix`` goes before each key in a message.

    Raises:
        MambaportError: (of the class given) with the file and the key of every fault.
    """
    try:
        return model.model_validate(data)
    except ValidationError as fault:
        faults = [prefix + _fault(item) for item in fault.errors()]
        raise error(
            f"{path} is not valid",
            found="\n".join(faults),
            expected=f"the keys of {model.__name__}, as docs/reference describes them",
            hint="correct these keys",
        ) from None


def _fault(item: ErrorDetails) -> str:
    """A fault as ``key: text``. The text of a check of several keys names its key already."""
    key = ".".join(str(part) for part in item["loc"])
    text = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error" and not key:
        return text
    return f"{key or '(whole file)'}: {text}"
