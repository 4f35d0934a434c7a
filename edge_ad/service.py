"""A line as a systemd service: the text of its unit, from what should run. Nothing is written here.

The formats are those of systemd.unit(5), systemd.exec(5) and systemd.service(5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_ad.errors import ConfigError

WATCHDOG_S = 10
"""A line that has not said for so long that it is alive is restarted."""

START_TIMEOUT_S = 300
"""An engine may load for minutes where it is verified on a slow box; one that takes longer hangs."""

STOP_TIMEOUT_S = 20
"""What waits in the outputs is written in this time; then all processes are killed."""

DEVICE_GROUPS = ("video", "render", "plugdev", "gpio", "dialout")
"""Whose members may use cameras, GPUs, inputs and serial lines; a box has some of them."""

HARDENING = (
    ("ProtectSystem", "full"),
    ("ProtectKernelModules", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectHostname", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("RestrictNamespaces", "yes"),
    ("LockPersonality", "yes"),
)
"""What takes nothing from a line.

PrivateDevices and ProtectClock would hide cameras and GPUs, PrivateTmp the socket of a Jetson's camera daemon,
ProtectKernelTunables the motion sensors of a camera, MemoryDenyWriteExecute what CUDA compiles at run time.
"""

_PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MEMORY = re.compile(r"[1-9][0-9]*([KMGT]|%)?")


@dataclass(frozen=True, slots=True)
class Service:
    """What a unit says.

    Attributes:
        name: of the line; the unit is ``edge-ad-NAME.service``.
        command: the program, by its absolute path, and its arguments.
        directory: where it runs, absolute.
        environment: variables by name.
        account: whose rights it has; empty for a service of a user's own.
        groups: further groups of the account.
        memory_max: above so much it is killed, such as ``4G`` or ``60%``; empty for no limit.

    Raises:
        ConfigError: a value cannot stand in a unit.
    """

    name: str
    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    account: str = ""
    groups: Sequence[str] = ()
    memory_max: str = ""

    def __post_init__(self) -> None:
        unit_name(self.name)
        if self.memory_max and not _MEMORY.fullmatch(self.memory_max):
            raise ConfigError(
                f"{self.memory_max!r} is no amount of memory",
                why="it is a whole number with K, M, G, T or %",
                remedy="write, for example, 4G",
            )
        for variable in self.environment:
            if not _VARIABLE.fullmatch(variable):
                raise ConfigError(f"{variable!r} is no name of a variable", remedy="write NAME=VALUE")
        for path in (self.command[0], str(self.directory)):
            # Neither is read as a quoted word everywhere, and a backslash at the end joins lines.
            if not path.startswith("/") or not path.isprintable() or path.endswith(("\\", " ")):
                raise ConfigError(
                    f"{path!r} cannot stand in a unit",
                    why="systemd wants an absolute path of printable characters",
                    remedy="move it to a plainer path",
                )

    def unit(self) -> str:
        """The text of the unit."""
        return "\n".join(
            f"[{title}]\n" + "".join(f"{key}={value}\n" for key, value in settings)
            for title, settings in self._sections().items()
        )

    def _sections(self) -> dict[str, list[tuple[str, str]]]:
        """Keys and values by section."""
        own = not self.account
        return {
            "Unit": [
                ("Description", f"edge-ad line {self.name}"),
                ("After", "network.target"),
                # However often it fails, it is started again.
                ("StartLimitIntervalSec", "0"),
            ],
            "Service": [
                ("Type", "notify"),
                ("ExecStart", exec_line(self.command)),
                ("WorkingDirectory", str(self.directory).replace("%", "%%")),
                *(("Environment", quoted(f"{name}={value}")) for name, value in self.environment.items()),
                ("TimeoutStartSec", str(START_TIMEOUT_S)),
                ("WatchdogSec", str(WATCHDOG_S)),
                ("Restart", "always"),
                ("RestartSec", "2"),
                ("KillMode", "mixed"),
                ("TimeoutStopSec", str(STOP_TIMEOUT_S)),
                # A camera's process that is killed for its memory is replaced; the line goes on.
                ("OOMPolicy", "continue"),
                *([("MemoryMax", self.memory_max)] if self.memory_max else []),
                *([] if own else [("User", self.account)]),
                *([("SupplementaryGroups", " ".join(self.groups))] if self.groups and not own else []),
                ("NoNewPrivileges", "yes"),
                # A user's own service manager has not the rights that these take.
                *(() if own else HARDENING),
            ],
            "Install": [("WantedBy", "default.target" if own else "multi-user.target")],
        }


def unit_name(name: str) -> str:
    """``edge-ad-NAME.service``.

    Raises:
        ConfigError: the name has other than letters, digits, ``.``, ``_`` and ``-``.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"a line cannot be called {name!r}",
            why="letters, digits, '.', '_' and '-' make a name, up to 100 of them",
            remedy="choose a name such as lid or line-2",
        )
    return f"edge-ad-{name}.service"


def exec_line(command: Sequence[str]) -> str:
    """A command as ``ExecStart=`` wants it, so that each argument arrives as it is here.

    Raises:
        ConfigError: an argument cannot be written in a unit.
    """
    # $ begins a variable in arguments, but not in the program's own path.
    return " ".join([quoted(command[0]), *(quoted(argument.replace("$", "$$")) for argument in command[1:])])


def quoted(word: str) -> str:
    r"""A word as units have it: in quotes where it must be, with ``%`` doubled, and ``"`` and ``\`` escaped.

    Raises:
        ConfigError: it has a zero byte, or bytes that are no UTF-8.
    """
    try:
        word.encode()
    except UnicodeEncodeError as error:
        raise _unwritable(word, "it is not UTF-8") from error
    if "\0" in word:
        raise _unwritable(word, "it has a zero byte")
    if _PLAIN.fullmatch(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    escaped = re.sub(r"[\x01-\x1f\x7f]", lambda found: f"\\x{ord(found.group()):02x}", escaped)
    return f'"{escaped}"'


def _unwritable(word: str, why: str) -> ConfigError:
    return ConfigError(f"{word!r} cannot stand in a unit", why=why, remedy="use another name or path")
