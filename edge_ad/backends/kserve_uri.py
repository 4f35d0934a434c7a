"""A model on a server in one line of text.

    grpc://HOST:PORT/MODEL?bundle=DIRECTORY      what the server runs was made from this bundle
        &mode=rgb_only                           an operating mode of it; by default full
        &precision=fp16                          of the served engine, which sets how far it may be from PyTorch
        &timeout_ms=1000                         how long an answer may take
        &version=1                               of the model; by default what the server prefers
    grpcs://HOST:PORT/MODEL?bundle=DIRECTORY&ca=FILE   the same over TLS; ca has the certificates to trust

DIRECTORY and FILE are on the box that asks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pydantic import Field

from edge_ad.backends.base import Precision
from edge_ad.errors import ConfigError
from edge_ad.settings import Settings, validated

SCHEMES = ("grpc", "grpcs")
OPTIONS = ("bundle", "mode", "precision", "timeout_ms", "version", "ca")
EXAMPLE = "grpc://localhost:8001/lid?bundle=bundles/lid"


class ServedModelUri(Settings):
    """``grpc://HOST:PORT/MODEL?bundle=DIRECTORY&…``, taken apart.

    Attributes:
        server: ``HOST:PORT``.
        tls: whether the connection is encrypted.
        model: its name on the server.
        bundle: what the server runs was made from it.
        mode: the operating mode of the served graph; None where the URI names none.
        precision: of the served engine; it sets the tolerance of the golden samples.
        timeout_ms: how long an answer may take.
        version: of the model; empty for what the server prefers.
        ca: PEM file with the certificates to trust; None for gRPC's own.
    """

    server: str = Field(pattern=r"^[^/@]+:\d+$")
    tls: bool
    model: str = Field(min_length=1)
    bundle: Path
    mode: str | None = None
    precision: Precision = "fp32"
    timeout_ms: float = Field(default=1000, gt=0)
    version: str = ""
    ca: Path | None = None

    @classmethod
    def parse(cls, text: str) -> ServedModelUri:
        """Reads ``text``; in names and values ``%XX`` stands for a byte.

        Raises:
            ConfigError: it is no such URI, or an option is missing, unknown, given twice or out of range.
        """
        again = f"write, for example, {EXAMPLE}"
        address, _, query = text.partition("?")
        scheme, _, place = address.partition("://")
        if scheme not in SCHEMES:
            raise ConfigError(f"{text} names no model", why=f"{scheme}:// is not {' or '.join(SCHEMES)}", remedy=again)
        server, _, model = place.partition("/")
        values: dict[str, Any] = {}
        for option in filter(None, query.split("&")):
            name, _, value = option.partition("=")
            if not value or name in values:
                raise ConfigError(f"{text}: {name} is given {'twice' if name in values else 'no value'}", remedy=again)
            if name not in OPTIONS:
                raise ConfigError(f"{text}: there is no option {name}", remedy=f"use {', '.join(OPTIONS)}")
            values[name] = unquote(value)
        if scheme == "grpc" and "ca" in values:
            raise ConfigError(f"{text}: ca is for grpcs://", why="grpc:// is not encrypted", remedy="write grpcs://")
        values |= {"server": server, "tls": scheme == "grpcs", "model": unquote(model.rstrip("/"))}
        return validated(cls, values, text, remedy=again)
