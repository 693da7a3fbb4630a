#!/usr/bin/env python3
"""Checks what deploy/e2e.sh needs of a cluster, before any load: names what is missing, with a
command that fixes it.

python3 deploy/e2e_needs.py before IMAGE [STEP…]     the cluster, its room, the image on the nodes,
the metrics APIs
python3 deploy/e2e_needs.py after [STEP…]            once the service runs: its address, and its
metrics

Needs kubectl and the standard library. GTE_URL and GTE_NATS are those of e2e.sh. The exit status is
1 if something is missing.
"""
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

# The test needs five replicas of 200m, and one more during a rolling restart.
REPLICAS, CPU_MILLIS = 6, 200
METRICS = {"utilization": "gte_utilization_ratio", "delay": "gte_queue_delay_seconds"}
# A kubelet reports only this many images of its node, unless configured otherwise.
IMAGES_NAMED = 50
WAIT_SECONDS = 180
RULES = "deploy/k8s/overlays/custom-metrics/adapter-rules.yaml"

ADAPTER = f"""kubectl -n monitoring create configmap gte-adapter-rules --from-file=config.yaml={RULES}
helm upgrade --install prometheus-adapter prometheus-community/prometheus-adapter -n monitoring --set rules.existing=gte-adapter-rules \\
  --set prometheus.url=http://PROMETHEUS.monitoring.svc,prometheus.port=9090"""

STANDS = "kubectl get apiservices | grep False; kubectl get pods -A | grep -E 'metrics-server|prometheus-adapter'     (then look at the log of the one that is down)"


def kubectl(*arguments):
    """Standard output, and the error message, if any."""
    run = subprocess.run(["kubectl", *arguments], capture_output=True, text=True)
    return run.stdout, None if run.returncode == 0 else (run.stderr.strip().splitlines() or ["kubectl failed"])[-1]


def objects(*arguments):
    out, error = kubectl("get", *arguments, "-o", "json")
    return [] if error else json.loads(out)["items"]


def millis(quantity):
    return int(quantity[:-1]) if quantity.endswith("m") else int(1000 * float(quantity))


def usable(node):
    """Whether the node accepts pods without tolerations."""
    taints = [taint for taint in node["spec"].get("taints", []) if taint["effect"] in ("NoSchedule", "NoExecute")]
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))
    return ready and not taints and not node["spec"].get("unschedulable")


def room(nodes):
    """Number of the test's pods that still fit, by the CPU requests of all pods. Pods of an earlier
    test do not count, because they are replaced.
    """
    free = {node["metadata"]["name"]: millis(node["status"]["allocatable"]["cpu"]) for node in nodes}
    for pod in objects("pods", "-A", "--field-selector=status.phase!=Succeeded,status.phase!=Failed"):
        node = pod["spec"].get("nodeName")
        if node in free and pod["metadata"]["namespace"] != "gte":
            free[node] -= sum(millis(c.get("resources", {}).get("requests", {}).get("cpu", "0")) for c in pod["spec"]["containers"])
    return sum(max(0, cpu) // CPU_MILLIS for cpu in free.values())


def names(image):
    """The name of an image in container runtimes, which add the missing parts."""
    first = image.split("/")[0]
    if "/" not in image:
        return {image, f"docker.io/library/{image}", f"localhost/{image}"}
    return {image} if "." in first or ":" in first or first == "localhost" else {image, f"docker.io/{image}"}


def images(nodes, image):
    first = image.split("/")[0]
    if "/" in image and ("." in first or ":" in first) and first != "docker.io":
        print(f"note: {image} names a registry: the nodes are expected to pull it")
        return
    for node in nodes:
        name, there = node["metadata"]["name"], [n for i in node["status"].get("images", []) for n in i.get("names") or []]
        if names(image) & {*there}:
            continue
        if len(node["status"].get("images", [])) >= IMAGES_NAMED:
            print(f"note: {name} reports only {IMAGES_NAMED} of its images, and {image} is not among them")
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
    """Why an aggregated API does not answer, according to the API server; None if it is not
    registered.
    """
    for service in objects("apiservices"):
        if service["spec"].get("group") == group:
            conditions = service.get("status", {}).get("conditions", [])
            return next((c.get("message", "") for c in conditions if c["type"] == "Available"), "not checked yet")
    return None


def served(group, nodes):
    """What is wrong with an aggregated API: it is not registered, does not answer, or, with
    `nodes`, has no numbers for any node.
    """
    versions = json.loads(kubectl("get", "--raw", "/apis")[0] or '{"groups": []}')["groups"]
    version = next((g["preferredVersion"]["groupVersion"] for g in versions if g["name"] == group), None)
    _, error = kubectl("get", "--raw", f"/apis/{version}") if version else ("", "no such group")
    if error:
        why = unavailable(group)
        return f"the cluster has no API {group}" if why is None else f"the API {group} is registered, but does not answer: {why}"
    out, error = kubectl("get", "--raw", f"/apis/{version}/nodes") if nodes else ('{"items": [0]}', None)
    if error or not json.loads(out)["items"]:
        return f"the API {group} has no numbers for any node: {error or 'an empty list'}"
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
        yield "the cluster has no ready node that accepts pods", "kubectl get nodes; kubectl describe node NAME"
    elif (fit := room(nodes)) < REPLICAS:
        yield f"the nodes have room for {fit} pods of {CPU_MILLIS}m CPU, {REPLICAS} are needed", "kubectl describe nodes | grep -A 8 'Allocated resources'     (then scale down other workloads, or add a node)"
    yield from images(nodes, image)
    if "cpu" in steps and (lack := served("metrics.k8s.io", True)):
        yield f"cpu: {lack}", STANDS if "is registered" in lack else "kubectl apply -f https://github.com/kubernetes-sigs/metrics-server/releases/latest/download/components.yaml     (minikube addons enable metrics-server; in kind with the argument --kubelet-insecure-tls)"
    custom = [step for step in METRICS if step in steps]
    if custom and (lack := served("custom.metrics.k8s.io", False)):
        yield f"{', '.join(custom)}: {lack}", STANDS if "is registered" in lack else ADAPTER
    if "worker" in steps and not os.environ.get("GTE_NATS"):
        yield "worker: GTE_NATS names no broker with JetStream that pods can reach", "GTE_NATS=nats://HOST:4222 deploy/e2e.sh IMAGE worker"


def arrives(metric):
    """None if the custom metrics API has a metric for the service's pods; otherwise its error."""
    groups = json.loads(kubectl("get", "--raw", "/apis")[0] or '{"groups": []}')["groups"]
    version = next((g["preferredVersion"]["groupVersion"] for g in groups if g["name"] == "custom.metrics.k8s.io"), "custom.metrics.k8s.io/v1beta1")
    out, error = kubectl("get", "--raw", f"/apis/{version}/namespaces/gte/pods/*/{metric}?labelSelector=app.kubernetes.io%2Fname%3Dgte")
    return error or (None if json.loads(out)["items"] else "an empty list")


def after(steps):
    address = os.environ.get("GTE_URL") or "http://" + kubectl("-n", "gte", "get", "service", "gte", "-o", "jsonpath={.spec.clusterIP}")[0]
    try:
        urllib.request.urlopen(f"{address}/readyz", timeout=10).read()
    except (OSError, urllib.error.URLError) as error:
        yield f"{address} cannot be reached from here: {error}", "GTE_URL=http://HOST deploy/e2e.sh …     (an Ingress or a NodePort; or run this on a node. A port-forward reaches only one pod, so that new pods get no load)"
    for step in (step for step in METRICS if step in steps):
        end = time.monotonic() + WAIT_SECONDS
        while (lack := arrives(METRICS[step])) and time.monotonic() < end:
            time.sleep(5)
        if lack:
            yield (f"{step}: {WAIT_SECONDS} s after the start the custom metrics API has no {METRICS[step]} for the pods: {lack}",
                   f"kubectl apply -k deploy/k8s/overlays/monitoring     (if Prometheus does not scrape them, which its page /targets shows)\n{ADAPTER}")


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in ("before", "after") or (sys.argv[1] == "before" and len(sys.argv) < 3):
        sys.exit(__doc__)
    found = list(before(sys.argv[2], sys.argv[3:]) if sys.argv[1] == "before" else after(sys.argv[2:]))
    for what, mend in found:
        print(f"missing: {what}")
        print("\n".join(f"    {line}" for line in mend.splitlines()))
    sys.exit(bool(found))


main()
