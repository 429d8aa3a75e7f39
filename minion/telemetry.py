"""When the node is looked at, and what is worth telling at once.

A full sample is taken each interval. Between two of them `poll` asks the three cheap questions on which failover,
gates and `status` hang, and takes the full sample early when an answer differs. The caller only calls `poll` about
once a second in a thread of its own; every probe has a deadline, so one hanging daemon delays a beat and no more. The
tool for backups may take longer: it is asked beside all this, and a sample holds its newest answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import psutil

from ..common.clock import Clock, SystemClock
from ..common.errors import HostError
from ..common.telemetry import BackupSample, EtcdSample, HaproxySample, HostSample, PatroniSample, Sample
from ..states.system import Look
from .probes import certificates, etcd, haproxy, host, patroni, units
from .probes.backup import Backups
from .watched import Watched

log = logging.getLogger("pgha.minion.telemetry")

POLL_S = 1.0
SLOW_EVERY = 6  # samples between two looks at what costs a program start and hardly ever changes

T = TypeVar("T")


class Sampler:
    """Takes the samples of one node. Not for several threads at once."""

    def __init__(
        self,
        look: Look,
        interval_s: float = 5.0,
        clock: Clock | None = None,
        watched: Watched | None = None,
        backups: Backups | None = None,
    ) -> None:
        self._look = look
        self._watched = watched or Watched()
        self._interval_s = interval_s
        self._clock = clock or SystemClock()
        self._backups = backups or Backups(look, self._clock)
        self._last: Sample | None = None
        self._due = self._clock.monotonic()
        self._until_slow = 0

    def poll(self) -> Sample | None:
        """A full sample when one is due or something that matters has changed since the last; else None."""
        if self._last is None or self._clock.monotonic() >= self._due or self._moved(self._last):
            return self.sample()
        return None

    def sample(self) -> Sample:
        """A full sample, now. Never raises for a daemon that is down."""
        self._due = self._clock.monotonic() + self._interval_s
        last = self._last
        slow = self._until_slow <= 0
        self._until_slow = SLOW_EVERY - 1 if slow else self._until_slow - 1
        sample = Sample(
            at=self._look.now(),
            host=self._host(),
            etcd=self._etcd(slow),
            patroni=self._patroni(slow),
            haproxy=_safely(lambda: haproxy.probe(self._look), lambda why: HaproxySample(error=why)),
            backup=self._backup(),
            certificates=(
                _safely(lambda: certificates.probe(self._look), lambda why: ())
                if slow or last is None
                else last.certificates
            ),
            units=_safely(lambda: units.probe(self._look), lambda why: {}),
            touched=self._watched.touched(),
            data_directory_present=_safely(lambda: units.data_directory_present(self._look), lambda why: False),
        )
        self._last = sample
        return sample

    def _host(self) -> HostSample | None:
        try:
            return host.probe(self._look)
        except (HostError, OSError, psutil.Error) as error:
            log.warning("the host's load cannot be measured: %s", error)
            return None

    def _backup(self) -> BackupSample | None:
        return _safely(self._backups.probe, lambda why: BackupSample(driver="", error=why))

    def _etcd(self, slow: bool) -> EtcdSample | None:
        last = self._last.etcd if self._last else None
        known = last.members if last and not slow and all(member.started for member in last.members) else ()
        now = _safely(lambda: etcd.probe(self._look, known or None), lambda why: EtcdSample(error=why))
        if now and last and known and now.healthy != last.healthy:
            return _safely(lambda: etcd.probe(self._look), lambda why: EtcdSample(error=why))
        return now

    def _patroni(self, slow: bool) -> PatroniSample | None:
        last = self._last.patroni if self._last else None
        now = _safely(lambda: patroni.probe(self._look, history=slow), lambda why: PatroniSample(error=why))
        if now is None or last is None or slow:
            return now
        if now.timeline != last.timeline:
            return _safely(lambda: patroni.probe(self._look), lambda why: PatroniSample(error=why))
        return now.model_copy(update={"leader_since": last.leader_since})

    def _moved(self, last: Sample) -> bool:
        """The cheap questions only: three requests on this host and a look at each managed file, no program started."""
        etcd_now = last.etcd
        if etcd_now is not None:
            healthy = _safely(lambda: etcd.health(self._look)[0], lambda why: False)
            etcd_now = etcd_now.model_copy(update={"healthy": healthy})
        patroni_now = _safely(
            lambda: patroni.probe(self._look, cluster=False, history=False), lambda why: PatroniSample(error=why)
        )
        haproxy_now = _safely(lambda: haproxy.probe(self._look), lambda why: HaproxySample(error=why))
        daemons = {"etcd": etcd_now, "patroni": patroni_now, "haproxy": haproxy_now}
        others = {"backup": self._backup(), "touched": self._watched.touched()}
        return changed(last, last.model_copy(update={**daemons, **others}))


def changed(old: Sample, new: Sample) -> bool:
    """Whether the difference must be known at once: roles, states, health, who gets connections; not numbers."""
    return _signs(old) != _signs(new)


def _signs(sample: Sample) -> tuple[object, ...]:
    e, p, h, b = sample.etcd, sample.patroni, sample.haproxy, sample.backup
    return (
        e and (e.healthy, e.is_leader, e.has_leader, e.alarms),
        p and (p.reachable, p.role, p.state, p.timeline, p.paused, p.pending_restart, p.pending_settings),
        h and (bool(h.error), frozenset((b.name, b.server, b.up) for b in h.backends)),
        b and _backup_signs(b),
        frozenset(sample.units.items()),
        sample.touched,
    )


def _backup_signs(b: BackupSample) -> tuple[object, ...]:
    """A run that begins or ends, a repository that changes its state, an archive that fails, a drill; not sizes."""
    return (
        b.running and (b.running.type, b.running.repository, b.running.began),
        b.runs[-1].ended if b.runs else None,
        tuple((one.number, one.state) for one in b.repositories),
        b.archiver and (b.archiver.failing, bool(b.archiver.error)),
        b.last_dropped,
        b.drill and (b.drill.began, b.drill.ok),
        b.error,
    )


def _safely(ask: Callable[[], T], otherwise: Callable[[str], T]) -> T:
    """A host that cannot be asked is an answer, too; a minion that stops telling is worse than one that complains."""
    try:
        return ask()
    except HostError as error:
        log.warning("a probe could not look: %s", error)
        return otherwise(str(error))
