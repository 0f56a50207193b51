"""The shop's oldest code: the supplier's nightly price file, written long before the service was
asynchronous. It waits for the file the way scripts do, and this is what hangs the event loop."""

from __future__ import annotations

import time
from decimal import Decimal

#: How long the supplier keeps us waiting, in seconds.
SUPPLIER_DELAY_S = 2.0


def wait_for_price_file() -> None:
    """Block until the supplier has published today's prices."""
    time.sleep(SUPPLIER_DELAY_S)


def euro_rate() -> Decimal:
    """Dollars per euro out of the supplier's price file."""
    wait_for_price_file()
    return Decimal("1.08")
