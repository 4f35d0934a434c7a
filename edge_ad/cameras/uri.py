"""A camera and its options in one line of text, such as ``folder:///parts/monday?loop=1``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlencode

from edge_ad.errors import ConfigError
from edge_ad.settings import SettingsT, validated


@dataclass(frozen=True, slots=True)
class CameraUri:
    """``SCHEME://PATH?OPTION=VALUE&…``, taken apart.

    Attributes:
        scheme: the driver, e.g. ``"realsense"``.
        path: what follows ``://``: a serial number, file, directory or name; may be empty.
        options: values by name, as text.
    """

    scheme: str
    path: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> CameraUri:
        """Reads ``text``; a bare ``realsense`` is short for ``realsense://``.

        In paths and values ``%XX`` stands for a byte, so that a path may hold ``?`` (``%3F``).

        Raises:
            ConfigError: it names no driver, or an option has no value or is given twice.
        """
        address, _, query = text.strip().partition("?")
        scheme, _, path = address.partition("://")
        if not scheme or "/" in scheme:
            raise ConfigError(
                f"camera {text!r} names no driver",
                why="a camera is written DRIVER://PATH?OPTION=VALUE",
                remedy="write, for example, realsense, folder://DIRECTORY or synthetic://",
            )
        options: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            if not value or name in options:
                raise ConfigError(
                    f"camera {text!r}: option {name!r} is given {'twice' if name in options else 'no value'}",
                    remedy=f"write {name}=VALUE once",
                )
            options[name] = value
        return cls(scheme, unquote(path), options)

    def __str__(self) -> str:
        """The text that ``parse`` reads back."""
        query = f"?{urlencode(self.options, safe='@/:')}" if self.options else ""
        return f"{self.scheme}://{quote(self.path)}{query}"

    def options_as(self, kind: type[SettingsT]) -> SettingsT:
        """The options as a record of settings, converted and checked.

        Raises:
            ConfigError: an option is unknown, not of its type or out of range; the error names it.
        """
        for name in self.options:
            if name not in kind.model_fields:
                raise ConfigError(
                    f"camera {self}: option {name!r} is unknown",
                    remedy=f"use {', '.join(sorted(kind.model_fields))}",
                )
        return validated(kind, dict(self.options), f"camera {self}")
