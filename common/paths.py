"""Where pgha keeps its things. `PGHA_ROOT` moves all of it under another folder: labs, tests, a first try."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    root: Path

    @classmethod
    def from_environment(cls) -> Paths:
        return cls(Path(os.environ.get("PGHA_ROOT", "/")))

    @property
    def etc(self) -> Path:
        return self.root / "etc/pgha"

    @property
    def clusters(self) -> Path:
        return self.etc / "clusters"

    @property
    def user_states(self) -> Path:
        """State documents of the user's own, on the master."""
        return self.etc / "states"

    @property
    def pki(self) -> Path:
        return self.etc / "pki"

    @property
    def state(self) -> Path:
        return self.root / "var/lib/pgha"

    @property
    def run(self) -> Path:
        return self.root / "run/pgha"

    @property
    def admin_socket(self) -> Path:
        return self.run / "admin.sock"
