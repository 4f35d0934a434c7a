"""Experiments at the same time, on Ray: on this box by default, or on a cluster that is running.

A local Ray has no dashboard, listens on loopback only, takes a token that nobody else has, and reports nothing to
its makers. On a cluster every node needs edge-ad, and the data, the weights and the output must be at the same path
on all of them; one that wants a token gets it as Ray's documentation says, with RAY_AUTH_MODE=token.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from edge_ad.errors import ConfigError
from edge_ad.experiments import Experiment, Failure, Outcome, attempt
from edge_ad.extras import require

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what will be Ray's default, and silences its warning about it
}
WITHOUT_GPUS = {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}
"""Ray gives a job without GPUs no GPU, and yet lets it see them all."""

LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's own switch for boxes that are no cluster: its servers then listen on 127.0.0.1, on Linux too."""

CONNECT_TIMEOUT_S = 5.0
CLUSTER_REMEDY = "check HOST:PORT; set RAY_AUTH_MODE=token if the cluster wants one; or leave out --address"

OBJECT_STORE_BYTES = 100 << 20
"""Only settings and reports pass through it; Ray's default is a third of the memory."""

MOST_CPUS_PER_JOB = 4
"""By default, where there is no GPU: small batches do not gain from more threads."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What one job gets; None for what suits the machines.

    Attributes:
        cpus: threads of its own.
        gpus: 1, or a share such as 0.5 for two jobs on one GPU; 0 trains on the CPU.
    """

    cpus: int | None = None
    gpus: float | None = None

    def settled(self, nodes: Sequence[Mapping[str, float]]) -> tuple[int, float]:
        """(cpus, gpus) of a job: by default a GPU if there is one, and CPUs as on the smallest node that has both.

        Args:
            nodes: ``CPU`` and ``GPU`` of each machine. A job runs on one of them.

        Raises:
            ConfigError: no job could ever start.
        """
        sizes = [(int(node.get("CPU", 0)), node.get("GPU", 0.0)) for node in nodes]
        gpus = min(1.0, max((gpus for _, gpus in sizes), default=0.0)) if self.gpus is None else self.gpus
        fewest = 1 if self.cpus is None else self.cpus
        able = [size for size in sizes if size[0] >= fewest and size[1] >= gpus]
        if not able:
            there = "; ".join(f"{cpus} CPUs and {gpus:g} GPUs" for cpus, gpus in sorted(set(sizes), reverse=True))
            raise ConfigError(
                f"a job wants {fewest} CPUs and {gpus:g} GPUs of one machine",
                why=f"the machines have: {there or 'nothing'}",
                remedy="lower --cpus or --gpus",
            )
        return min(_share(*size, gpus) for size in able) if self.cpus is None else self.cpus, gpus


def _share(all_cpus: int, all_gpus: float, gpus: float) -> int:
    """CPUs of a job on a machine with so many, where each job has ``gpus``."""
    at_once = all_gpus / gpus if gpus else all_cpus / MOST_CPUS_PER_JOB
    return max(1, int(all_cpus / max(1.0, at_once)))


def run_on_ray(
    experiments: Sequence[Experiment],
    output: Path,
    *,
    address: str | None = None,
    resources: Resources | None = None,
    retries: int = 1,
    retrying: Callable[[Failure], None] = lambda failure: None,
) -> Generator[Outcome, None, None]:
    """Runs experiments beside each other; yields each one's outcome when it is known, in no fixed order.

    Args:
        experiments: what to do.
        output: directory of all experiments.
        address: of a running cluster, ``HOST:PORT`` or ``auto``; None starts Ray on this box, and stops it.
        resources: of each job.
        retries: how often an experiment that failed is tried again; it goes on from its checkpoint.
        retrying: told of each failure after which it is.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: there is no cluster at ``address``, or a job wants more than any machine has.
    """
    ray = _started(address)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus, gpus = (resources or Resources()).settled(nodes)
        seen = {} if gpus else {"runtime_env": WITHOUT_GPUS}
        job = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, **seen)(attempt)
        tries_left = {experiment.name: retries for experiment in experiments}
        running = {job.remote(experiment, output, threads=cpus): experiment for experiment in experiments}
        while running:
            (reference,), _ = ray.wait(list(running))
            experiment = running.pop(reference)
            outcome = _outcome(ray, reference, experiment)
            if isinstance(outcome, Failure) and tries_left[experiment.name] > 0:
                retrying(outcome)
                tries_left[experiment.name] -= 1
                running[job.remote(experiment, output, threads=cpus)] = experiment
            else:
                yield outcome
    finally:
        ray.shutdown()


def _started(address: str | None) -> ModuleType:
    """Ray, running."""
    # Ray reads these when it is imported.
    if address is None:
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}
        os.environ.update(QUIET | LOOPBACK_ONLY | own)
    else:
        _check_reachable(address)
        os.environ.update(QUIET)
    ray = require("ray", extra="ray")
    local = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    options = {"address": address} if address is not None else {"address": "local", **local}
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"Ray cannot be {'started' if address is None else f'reached at {address}'}",
            why=str(error),
            remedy=CLUSTER_REMEDY if address else "see /tmp/ray for its logs",
        ) from error
    return ray


@cache
def _token() -> str:
    """Of this process, as Ray remembers the first one; without it, Ray would write one into the home directory."""
    return secrets.token_hex(32)


def _check_reachable(address: str) -> None:
    """Says at once what Ray would take more than a minute to say.

    Raises:
        ConfigError: nothing answers at ``HOST:PORT``.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(f"Ray cannot be reached at {address}", why=str(error), remedy=CLUSTER_REMEDY) from error


def _outcome(ray: Any, reference: Any, experiment: Experiment) -> Outcome:
    """The job's outcome; a job whose process died is a failure as any other."""
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayError as error:
        return Failure(
            name=experiment.name,
            what=f"the process of {experiment.name} died",
            why=" ".join(str(error).split())[:300],
            remedy="if memory ran out, give each job more --cpus, so that fewer run at once",
        )
    return outcome
