"""What schemathesis has to know beside the document: how bodies are packed, what an event in base64 looks like, and what a request says of the
events that it did not take."""

import base64
import gzip
import json
import zlib

import brotli
import schemathesis
import zstandard
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import negative_data_rejection

PACKERS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@schemathesis.serializer("application/json", "text/plain")
def packed(ctx, value):
    """JSON whatever the type says, packed as the request's own header says. A header with an encoding that is none packs nothing."""
    if not isinstance(value, bytes):
        value = json.dumps(value).encode()
    headers = ctx.case.headers or {}
    encoding = next((headers[name] for name in headers if name.lower() == "content-encoding"), None)
    packer = PACKERS.get(encoding)
    return packer(value) if packer else value


def in_base64(event):
    return base64.b64encode(json.dumps(event).encode()).decode()


texts = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
schemathesis.openapi.format(
    "event-in-base64",
    st.dictionaries(texts, st.one_of(st.none(), st.booleans(), st.integers(), texts), max_size=5).map(in_base64),
)


@schemathesis.check
def what_breaks_the_document_is_refused(ctx, response, case):
    """As schemathesis has it, but for one thing: an item of a list that is no event costs that item, never the request. Then it has to be among the
    rejected."""
    # What SDKs say about themselves is no list of events, and anything goes.
    takes_events = not case.path.rstrip("/").endswith("/m")
    if takes_events and breaks_an_item(case) and response.status_code in (200, 202):
        assert response.json()["rejected"] > 0, "an item that is no object was taken"
        return
    negative_data_rejection(ctx, response, case)


def breaks_an_item(case):
    events = case.body.get("batch") if isinstance(case.body, dict) else case.body
    return isinstance(events, list) and any(not isinstance(event, dict) for event in events)


@schemathesis.check
def every_event_has_one_outcome(ctx, response, case):
    if response.status_code not in (200, 202) or "json" not in response.headers.get("content-type", [""])[0]:
        return
    answer = response.json()
    if "results" not in answer:
        return
    results = answer["results"]
    assert [result["index"] for result in results] == list(range(len(results))), answer
    for status in ("accepted", "duplicate", "rejected"):
        assert answer[status] == sum(result["status"] == status for result in results), answer
