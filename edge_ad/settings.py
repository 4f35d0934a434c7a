"""Settings as frozen records: validated where they are made, read from TOML, unknown keys refused."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from edge_ad.errors import ConfigError, EdgeAdError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Settings(BaseModel):
    """Base of every record that is written to or read from JSON or TOML."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


SettingsT = TypeVar("SettingsT", bound=BaseModel)


def validated(
    kind: type[SettingsT],
    values: Any,
    source: str,
    error: type[EdgeAdError] = ConfigError,
    remedy: str = "",
    options: Mapping[str, str] = MappingProxyType({}),
) -> SettingsT:
    """Makes a record from parsed JSON or TOML (a mapping) or from JSON text (str or bytes).

    Args:
        kind: the record's class.
        values: the parsed values, or JSON text.
        source: the file or option they came from, for the error.
        error: the error to raise.
        remedy: what the user should do; by default, to correct ``source``.
        options: by field, the command's option that set it, as it was written.

    Raises:
        EdgeAdError: of class ``error``, naming the first wrong field, its value and what it must be.
    """
    try:
        if isinstance(values, (str, bytes)):
            return kind.model_validate_json(values)
        return kind.model_validate(values)
    except ValidationError as failure:
        first = failure.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the content"
        why, wanted = first["msg"].removeprefix("Value error, "), remedy
        if not first["loc"] and first["type"] == "value_error":
            place = " ".join(options.values()) or source
            what, wanted = f"{place}: this does not go together", remedy or f"correct {place}"
        elif first["type"] == "extra_forbidden":
            near = get_close_matches(str(first["loc"][-1]), _setting_names(kind), 1)
            what, why = f"{source}: there is no setting {field}", f"perhaps {near[0]} is meant" if near else ""
            wanted = remedy or f"correct its name in {source}, or remove it"
        else:
            option = next((text for name, text in options.items() if f"{field}.".startswith(f"{name}.")), "")
            what = f"{option} is not valid" if option else f"{source}: {field} is not valid"
            wanted = remedy or ("correct it" if option else f"correct {field} in {source}")
            if first["type"] not in ("missing", "json_invalid"):
                why = f"{why} (got {str(first['input'])[:80]!r})"
        raise error(what, why=why, remedy=wanted) from failure


def _setting_names(kind: type[BaseModel]) -> list[str]:
    """All names of fields, also those of tables."""
    schema = kind.model_json_schema()
    tables = [schema, *schema.get("$defs", {}).values()]
    return [name for table in tables for name in table.get("properties", {})]


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        ConfigError: it is missing or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", why=str(error), remedy="check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML", why=str(error), remedy=f"correct {path}") from error
