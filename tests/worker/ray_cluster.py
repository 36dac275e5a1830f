"""A Ray cluster on this machine, in a process of its own: pytest's is no place for Ray's threads and warnings.

Three nodes, of which two have room for one attempt each. Says its address and where it can be hurt on stdout, one
JSON object per line; takes ``kill RAYLET_PID`` on stdin, which ends a node as a power cut does.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any


def main() -> None:
    """Until stdin ends."""
    from ray.cluster_utils import Cluster

    room = {"num_cpus": 1, "resources": {"room": 1}, "object_store_memory": 80 * 2**20}
    with tempfile.TemporaryDirectory(prefix="adr", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "temp_dir": folder,
                "object_store_memory": 80 * 2**20,
            },
        )
        nodes = [cluster.add_node(**room) for _ in range(2)]
        try:
            _say({"address": cluster.address, "raylets": [_raylet(node) for node in nodes]})
            for line in sys.stdin:
                pid = int(line.split()[1])
                for node in [node for node in nodes if _raylet(node) == pid]:
                    cluster.remove_node(node, allow_graceful=False)
                    nodes.remove(node)
                _say({"killed": pid})
        finally:
            cluster.shutdown()


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def _say(document: dict[str, Any]) -> None:
    # Ray prints on stdout too; this is what the tests read.
    os.write(int(sys.argv[1]), json.dumps(document).encode() + b"\n")


if __name__ == "__main__":
    main()
