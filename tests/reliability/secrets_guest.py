"""An analysis that treats a secret as carelessly as it can."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

from async_delivery.plugins import Context, analysis


@analysis("blabs", max_attempts=1, input="optional")
def blabs(*, secret: str, how: str, context: Context) -> dict[str, Any]:
    """Says ``secret`` wherever something can be said, and ends as ``how`` wants it."""
    print(secret)
    print(secret, file=sys.stderr)
    context.progress(10, f"stage {secret}", f"message {secret}")
    (context.workdir / "notes.txt").write_text(secret)
    context.partial({"so far": secret})
    if how == "raises":
        raise ValueError(secret)
    if how == "crashes":
        ctypes.string_at(0)
    if how == "exits":
        sys.exit(f"because of {secret}")
    return {"secret": secret, "environ": dict(os.environ)}
