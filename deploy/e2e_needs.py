#!/usr/bin/env python3
"""What deploy/e2e.sh needs of a cluster, looked at before anything is loaded: names what is missing, with the command that mends it.

    python3 deploy/e2e_needs.py before IMAGE [STEP…]     the cluster, its room, the image on the nodes, the metrics APIs
    python3 deploy/e2e_needs.py after [STEP…]            once the service runs: whether it is reached, and its metrics arrive

Needs kubectl and the standard library. GTE_URL and GTE_NATS are those of e2e.sh. Exit status 1 if something is missing.
"""
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

# Of the trial: five replicas of 200m, and one more while it rolls.
REPLICAS, CPU_MILLIS = 6, 200
METRICS = {"utilization": "gte_utilization_ratio", "delay": "gte_queue_delay_seconds"}
# A kubelet names this many images of its node, unless it is told to name more.
IMAGES_NAMED = 50
WAIT_SECONDS = 180
RULES = "deploy/k8s/overlays/custom-metrics/adapter-rules.yaml"

ADAPTER = f"""kubectl -n monitoring create configmap gte-adapter-rules --from-file=config.yaml={RULES}
helm upgrade --install prometheus-adapter prometheus-community/prometheus-adapter -n monitoring --set rules.existing=gte-adapter-rules \\
  --set prometheus.url=http://PROMETHEUS.monitoring.svc,prometheus.port=9090"""

STANDS = "kubectl get apiservices | grep False; kubectl get pods -A | grep -E 'metrics-server|prometheus-adapter'     (then look at the log of the one that is down)"


def kubectl(*arguments):
    """Standard output, and what went wrong, if anything did."""
    run = subprocess.run(["kubectl", *arguments], capture_output=True, text=True)
    return run.stdout, None if run.returncode == 0 else (run.stderr.strip().splitlines() or ["kubectl failed"])[-1]


def objects(*arguments):
    out, error = kubectl("get", *arguments, "-o", "json")
    return [] if error else json.loads(out)["items"]


def millis(quantity):
    return int(quantity[:-1]) if quantity.endswith("m") else int(1000 * float(quantity))


def usable(node):
    """Whether pods without tolerations can go there."""
    taints = [taint for taint in node["spec"].get("taints", []) if taint["effect"] in ("NoSchedule", "NoExecute")]
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))
    return ready and not taints and not node["spec"].get("unschedulable")


def room(nodes):
    """Pods of the trial that still fit, by the CPU that pods ask for. Those of an earlier trial make way."""
    free = {node["metadata"]["name"]: millis(node["status"]["allocatable"]["cpu"]) for node in nodes}
    for pod in objects("pods", "-A", "--field-selector=status.phase!=Succeeded,status.phase!=Failed"):
        node = pod["spec"].get("nodeName")
        if node in free and pod["metadata"]["namespace"] != "gte":
            free[node] -= sum(millis(c.get("resources", {}).get("requests", {}).get("cpu", "0")) for c in pod["spec"]["containers"])
    return sum(max(0, cpu) // CPU_MILLIS for cpu in free.values())


def names(image):
    """An image as the container runtimes call it, which put in what was left out."""
    first = image.split("/")[0]
    if "/" not in image:
        return {image, f"docker.io/library/{image}", f"localhost/{image}"}
    return {image} if "." in first or ":" in first or first == "localhost" else {image, f"docker.io/{image}"}


def images(nodes, image):
    first = image.split("/")[0]
    if "/" in image and ("." in first or ":" in first) and first != "docker.io":
        print(f"note: {image} names a registry: the nodes are taken to pull it")
        return
    for node in nodes:
        name, there = node["metadata"]["name"], [n for i in node["status"].get("images", []) for n in i.get("names") or []]
        if names(image) & {*there}:
            continue
        if len(node["status"].get("images", [])) >= IMAGES_NAMED:
            print(f"note: {name} names only {IMAGES_NAMED} of its images, and {image} is not among them")
            continue
        labels = node["metadata"].get("labels", {})
        if node["spec"].get("providerID", "").startswith("kind://"):
            mend = f"kind load docker-image {image} --name {node['spec']['providerID'].split('/')[-2]}"
        elif "minikube.k8s.io/name" in labels:
            mend = f"minikube -p {labels['minikube.k8s.io/name']} image load {image}"
        else:
            mend = f"on {name}: ctr -n k8s.io images import IMAGE.tar     (made by: docker save -o IMAGE.tar {image})"
        yield f"{name} has no image {image}", mend


def unavailable(group):
    """Why an aggregated API does not answer, as the API server knows it; None where it is not registered."""
    for service in objects("apiservices"):
        if service["spec"].get("group") == group:
            conditions = service.get("status", {}).get("conditions", [])
            return next((c.get("message", "") for c in conditions if c["type"] == "Available"), "not looked at yet")
    return None


def served(group, nodes):
    """What an aggregated API lacks: that it is registered, that it answers, and, where `nodes`, numbers of them."""
    versions = json.loads(kubectl("get", "--raw", "/apis")[0] or '{"groups": []}')["groups"]
    version = next((g["preferredVersion"]["groupVersion"] for g in versions if g["name"] == group), None)
    _, error = kubectl("get", "--raw", f"/apis/{version}") if version else ("", "no such group")
    if error:
        why = unavailable(group)
        return f"the cluster has no API {group}" if why is None else f"the API {group} is registered, but does not answer: {why}"
    out, error = kubectl("get", "--raw", f"/apis/{version}/nodes") if nodes else ('{"items": [0]}', None)
    if error or not json.loads(out)["items"]:
        return f"the API {group} has no numbers of any node: {error or 'an empty list'}"
    return None


def before(image, steps):
    if not shutil.which("kubectl"):
        yield "there is no kubectl", "https://kubernetes.io/docs/tasks/tools/"
        return
    _, error = kubectl("get", "--raw", "/readyz")
    if error:
        yield f"the cluster does not answer: {error}", "kubectl config get-contexts; kubectl config use-context NAME"
        return
    nodes = [node for node in objects("nodes") if usable(node)]
    if not nodes:
        yield "the cluster has no node that is ready and takes pods", "kubectl get nodes; kubectl describe node NAME"
    elif (fit := room(nodes)) < REPLICAS:
        yield f"the nodes have room for {fit} pods of {CPU_MILLIS}m CPU, {REPLICAS} are needed", "kubectl describe nodes | grep -A 8 'Allocated resources'     (then scale down what else runs there, or add a node)"
    yield from images(nodes, image)
    if "cpu" in steps and (lack := served("metrics.k8s.io", True)):
        yield f"cpu: {lack}", STANDS if "is registered" in lack else "kubectl apply -f https://github.com/kubernetes-sigs/metrics-server/releases/latest/download/components.yaml     (minikube addons enable metrics-server; in kind with the argument --kubelet-insecure-tls)"
    custom = [step for step in METRICS if step in steps]
    if custom and (lack := served("custom.metrics.k8s.io", False)):
        yield f"{', '.join(custom)}: {lack}", STANDS if "is registered" in lack else ADAPTER
    if "worker" in steps and not os.environ.get("GTE_NATS"):
        yield "worker: GTE_NATS names no broker with JetStream that pods can reach", "GTE_NATS=nats://HOST:4222 deploy/e2e.sh IMAGE worker"


def arrives(metric):
    """Whether the custom metrics API has a metric of the service's pods; else what it says."""
    groups = json.loads(kubectl("get", "--raw", "/apis")[0] or '{"groups": []}')["groups"]
    version = next((g["preferredVersion"]["groupVersion"] for g in groups if g["name"] == "custom.metrics.k8s.io"), "custom.metrics.k8s.io/v1beta1")
    out, error = kubectl("get", "--raw", f"/apis/{version}/namespaces/gte/pods/*/{metric}?labelSelector=app.kubernetes.io%2Fname%3Dgte")
    return error or (None if json.loads(out)["items"] else "an empty list")


def after(steps):
    address = os.environ.get("GTE_URL") or "http://" + kubectl("-n", "gte", "get", "service", "gte", "-o", "jsonpath={.spec.clusterIP}")[0]
    try:
        urllib.request.urlopen(f"{address}/readyz", timeout=10).read()
    except (OSError, urllib.error.URLError) as error:
        yield f"{address} is not reached from here: {error}", "GTE_URL=http://HOST deploy/e2e.sh …     (an Ingress or a NodePort; or run this on a node. A port-forward goes to one pod only, so that no new one gets load)"
    for step in (step for step in METRICS if step in steps):
        end = time.monotonic() + WAIT_SECONDS
        while (lack := arrives(METRICS[step])) and time.monotonic() < end:
            time.sleep(5)
        if lack:
            yield (f"{step}: {WAIT_SECONDS} s after the start the custom metrics API has no {METRICS[step]} of the pods: {lack}",
                   f"kubectl apply -k deploy/k8s/overlays/monitoring     (where Prometheus does not scrape them: its page /targets says it)\n{ADAPTER}")


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in ("before", "after") or (sys.argv[1] == "before" and len(sys.argv) < 3):
        sys.exit(__doc__)
    found = list(before(sys.argv[2], sys.argv[3:]) if sys.argv[1] == "before" else after(sys.argv[2:]))
    for what, mend in found:
        print(f"missing: {what}")
        print("\n".join(f"    {line}" for line in mend.splitlines()))
    sys.exit(bool(found))


main()
