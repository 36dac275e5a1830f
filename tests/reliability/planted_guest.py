"""An analysis that tells whose code its process runs."""

from __future__ import annotations

import sys

from async_delivery.plugins import analysis

WHERE = "tests.reliability.planted_guest:where"


@analysis("where")
def where() -> dict[str, str]:
    """Module -> its file, of the service and of what forked this process."""
    names = ("async_delivery", "async_delivery.worker.child", "async_delivery.worker.zygote", __name__)
    return {name: str(sys.modules[name].__file__) for name in names if name in sys.modules}
