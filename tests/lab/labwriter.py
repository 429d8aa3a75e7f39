"""An application that writes all the time and remembers what was acknowledged."""

from __future__ import annotations

import threading
import time

from labsite import Site, wait_until


def make_ledger(site: Site) -> None:
    """The account of that application, its certificate, and the table it writes to."""
    (site.root / "app").mkdir()
    assert site.pgha("certs", "client", "prod", "app", "--out", str(site.root / "app")).rc == 0
    leader = site.status()["leader"]
    sql = (
        "create role app login password 'from-the-test'; create table ledger (n bigint primary key);"
        " grant insert, select on ledger to app"
    )
    site.ok(leader, "runuser", "-u", "postgres", "--", "psql", "-qc", sql)


class Writer:
    """One numbered insert after the other through one HAProxy; remembers every one that was acknowledged."""

    def __init__(self, site: Site, node: str) -> None:
        self._site, self._node = site, node
        self.acknowledged: list[int] = []
        self.longest_gap_s = 0.0
        self._last = time.monotonic()
        self._next = int(time.time()) * 1000
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Writer:
        self._thread.start()
        wait_until("the writer writes", lambda: len(self.acknowledged) > 3, 20)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._next += 1
            if self._site.psql(self._node, 5433, f"insert into ledger values ({self._next})").rc == 0:
                now = time.monotonic()
                self.longest_gap_s = max(self.longest_gap_s, now - self._last)
                self._last = now
                self.acknowledged.append(self._next)
            self._stop.wait(0.05)

    def lost(self) -> set[int]:
        said = self._site.psql(self._node, 5433, "select n from ledger")
        assert said.rc == 0, said.err
        return set(self.acknowledged) - {int(line) for line in said.out.split()}
