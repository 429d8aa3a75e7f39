"""Authenticated ZeroMQ sockets. Knows keys, frames and peers; knows no message and no rule of the domain.

`router` is the master's end, `dialer` the minion's; nothing else in pgha opens a socket of ZeroMQ.
"""

from .dialer import Dialer
from .router import Admission, Received, Router

__all__ = ["Admission", "Dialer", "Received", "Router"]
