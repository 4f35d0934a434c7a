"""Units on this machine: where they are, whether systemd understands them, and its switches."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edge_ad.errors import ConfigError, OutputError
from edge_ad.files import not_written, write_bytes

SYSTEM_UNITS = Path("/etc/systemd/system")

BOOTED = Path("/run/systemd/system")
"""Is there where systemd runs the machine: sd_booted(3)."""

COMMAND_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Manager:
    """The systemd of the machine, or of the user who asks.

    Attributes:
        own: True for that of the user, who needs no further rights.
    """

    own: bool = False

    @property
    def directory(self) -> Path:
        """Where its units are."""
        if not self.own:
            return SYSTEM_UNITS
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd/user"

    @staticmethod
    def running() -> bool:
        """True where systemd runs the machine."""
        return shutil.which("systemctl") is not None and BOOTED.is_dir()

    def require_running(self) -> None:
        """Makes sure that it can be asked to start something.

        Raises:
            ConfigError: this machine is not run by systemd.
        """
        if not self.running():
            raise ConfigError(
                "services cannot be started here",
                why="systemd does not run this machine, as in most containers",
                remedy="install on the box itself; --no-start only writes the unit",
            )

    def write(self, unit: str, text: str) -> Path:
        """Writes a unit, whole or not at all; returns where.

        Raises:
            ConfigError: systemd does not understand it.
            OutputError: it cannot be written, mostly for lack of rights.
        """
        verify(unit, text)
        path = self.directory / unit
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            writable = os.access(self.directory, os.W_OK)
        except OSError as error:
            raise not_written(path, error) from error
        if not writable:
            raise no_rights(path)
        write_bytes(path, text.encode())
        return path

    def remove(self, unit: str) -> Path:
        """Removes a unit; returns where it was.

        Raises:
            ConfigError: there is none.
            OutputError: it cannot be removed, mostly for lack of rights.
        """
        path = self.directory / unit
        try:
            path.unlink()
        except FileNotFoundError as error:
            raise missing(path) from error
        except OSError as error:
            raise no_rights(path) from error
        return path

    def control(self, *arguments: str) -> None:
        """Runs ``systemctl``.

        Raises:
            ConfigError: it refuses, or does not answer.
        """
        command = ["systemctl", *(["--user"] if self.own else []), *arguments]
        failed = ran(command)
        if failed:
            raise ConfigError(
                f"{' '.join(command)} failed",
                why=failed,
                remedy="log in as that user, not by su" if self.own else "run it as root, with sudo",
            )


def verify(unit: str, text: str) -> None:
    """Lets ``systemd-analyze`` read a unit, where it is installed.

    Raises:
        ConfigError: systemd does not understand it.
    """
    if shutil.which("systemd-analyze") is None:
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / unit
        path.write_text(text, encoding="utf-8")
        failed = ran(["systemd-analyze", "verify", "--man=no", str(path)])
    # It also complains about the machine and other units, which is no reason to do without this one.
    if unit in failed:
        raise ConfigError(f"systemd refuses {unit}", why=failed, remedy="correct what it names")


def ran(command: list[str]) -> str:
    """Runs a command; returns why it failed, empty if it did not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    return " ".join((done.stderr or done.stdout).split()) or f"it ended with {done.returncode}"


def missing(path: Path) -> ConfigError:
    """What to raise where a unit should be and is not."""
    return ConfigError(
        f"there is no service {path.stem.removeprefix('edge-ad-')}",
        why=f"{path} does not exist",
        remedy="check the name; services of a user's own are found with --user",
    )


def no_rights(path: Path) -> OutputError:
    """What to raise where a unit may not be written."""
    return OutputError(
        f"{path} cannot be changed",
        why="that takes the rights of root",
        remedy="run the same with sudo before it, or add --user for a service of your own",
    )
