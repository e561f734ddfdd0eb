"""python python.py APP..: what an application does with analytics-python.

An APP is JSON, {"host", "calls", "key", "size", "gzip"}: the six calls, or three of which one is bad, `size` of them in a
request. All of them run beside each other.
"""

import json
import sys
from datetime import datetime, timezone

from segment.analytics.client import Client


def nested(depth):
    return 1 if depth == 0 else {"a": nested(depth - 1)}


def failed(error, items):
    print("sdk error:", error, len(items), flush=True)


def start(host, calls, key, size, gzip):
    client = Client(key, host=f"http://{host}", gzip=gzip, upload_size=size, on_error=failed)
    if calls == "all":
        client.identify("ada", {"plan": "pro"})
        client.track(
            "ada",
            "Order Placed",
            {"total": 12.5},
            integrations={"Mixpanel": False},
            timestamp=datetime(2024, 5, 1, 12, tzinfo=timezone.utc),
        )
        client.page("ada", "Docs", "Start", {"path": "/x"})
        client.screen("ada", None, "Main", {"dark": True})
        client.group("ada", "acme", {"size": 3})
        client.alias("anon-1", "ada")
    else:
        for event in ["before", "bad", "after"]:
            client.track("ada", event, nested(70) if event == "bad" else {})
    return client


for client in [start(**json.loads(app)) for app in sys.argv[1:]]:
    client.flush()
    client.join()
    print("done", flush=True)
