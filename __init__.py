"""pgha: self-healing PostgreSQL clusters from bare hosts.

The repository root is this package (docs/adr/0001): `common`, `states`, `minion` and `master` are its rooms,
and imports point down only: master | minion -> states -> common.
"""

__version__ = "0.1.0"
