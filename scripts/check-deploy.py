"""What no schema says: that images have versions, that files are listed, that the parts of a deployment agree."""

import pathlib
import sys

from ruamel.yaml import YAML

ROOT = pathlib.Path(__file__).resolve().parent.parent
KUBERNETES = ROOT / "deploy" / "kubernetes"
# Applied by hand, and why stands in each.
BY_HAND = {"kustomization.yaml", "gateway-autoscaling.yaml", "drain-job.yaml"}
# What `enableServiceLinks: false` keeps out, and the longest drain by default.
DRAIN_TIMEOUT = 25

problems = []


def check(kept, text):
    if not kept:
        problems.append(text)


def documents(path):
    return [document for document in YAML(typ="safe", pure=True).load_all(path) if document]


def versioned(image):
    name, _, tag = image.rpartition(":")
    return "@sha256:" in image or (name and "/" not in tag and tag not in ("latest", ""))


compose = documents(ROOT / "docker-compose.yml")[0]
for name, service in compose["services"].items():
    check(versioned(service["image"]), f"docker-compose.yml: {name}: {service['image']} has no version")
    own = "build" in service  # then its Dockerfile has the check
    check(own or "healthcheck" in service, f"docker-compose.yml: {name} has no health check")

listed = set(documents(KUBERNETES / "kustomization.yaml")[0]["resources"])
there = {path.name for path in KUBERNETES.glob("*.yaml")} - BY_HAND
check(listed == there, f"kustomization.yaml lists {sorted(listed)}, there are {sorted(there)}")

for path in sorted(KUBERNETES.glob("*.yaml")):
    for document in documents(path):
        template = document.get("spec", {}).get("template") if document["kind"] != "Kustomization" else None
        if not template:
            continue
        where, spec = f"{path.name}: {document['metadata']['name']}", template["spec"]
        check(spec.get("enableServiceLinks") is False, f"{where}: Kubernetes would inject EVENTKIT_* variables")
        check(spec["securityContext"].get("runAsNonRoot") is True, f"{where} may run as root")
        grace = spec["terminationGracePeriodSeconds"]
        for container in spec["containers"]:
            pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            check(grace >= pause + DRAIN_TIMEOUT, f"{where}: {grace} s are too short for a sleep of {pause} s and the drain")
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            volumes = {volume["name"] for volume in spec.get("volumes", [])}
            claims = {claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])}
            check(mounts <= volumes | claims, f"{where}: mounts {sorted(mounts)} of {sorted(volumes | claims)}")
            account = spec["serviceAccountName"]
            accounts = {account["metadata"]["name"] for account in documents(KUBERNETES / "accounts.yaml")}
            check(account in accounts, f"{where}: there is no service account {account}")
        selector = document["spec"].get("selector", {}).get("matchLabels", {})
        check(
            selector.items() <= template["metadata"]["labels"].items(),
            f"{where}: the selector does not find its own pods",
        )

for problem in problems:
    print(f"check-deploy: {problem}", file=sys.stderr)
sys.exit(bool(problems))
