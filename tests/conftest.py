"""What holds for all tests."""

from __future__ import annotations

import signal

# A shell that runs tests in the background lets them ignore SIGINT, and so would every program they start;
# but what Ctrl-C does is among the things tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
