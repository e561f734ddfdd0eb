"""python python.py HOST all|bad gzip|plain: what an application does with analytics-python."""

import sys
from datetime import datetime, timezone

from segment.analytics.client import Client


def nested(depth):
    return 1 if depth == 0 else {"a": nested(depth - 1)}


def failed(error, items):
    print("sdk error:", error, len(items), flush=True)


host, calls, encoding = sys.argv[1:]
client = Client("wk-SECRET-0123456789abcdef", host=f"http://{host}", gzip=encoding == "gzip", on_error=failed)
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
client.flush()
client.join()
print("done", flush=True)
