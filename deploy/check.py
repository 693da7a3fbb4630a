"""Checks the manifests: builds every overlay with kustomize, and checks each object against the
schemas of several Kubernetes versions and against our own rules.

python check.py    (needs kubectl, promtool and kubernetes-validate; check.sh installs them)

All metrics in manifests, rules and adapters must be metrics that gte-server has.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).resolve().parent
VERSIONS = ["1.34", "1.35", "1.36", "1.37"]
CUSTOM = {"keda.sh/v1alpha1", "monitoring.coreos.com/v1"}  # their schemas are not part of Kubernetes
DERIVED = {"gte_requests_per_second"}  # computed by the adapter's rules
problems = []


def rules(overlay, item):
    """Violations of our own rules: what a platform engineer would object to."""
    where = f"{overlay}: {item['kind']} {item['metadata']['name']}"
    if item["kind"] == "HorizontalPodAutoscaler" and not 1 <= item["spec"]["minReplicas"] < item["spec"]["maxReplicas"]:
        yield f"{where}: replicas"
    # kustomize adds its labels to an existing selector, but not to an empty one, which would match
    # the workers too.
    for key in ("selector", "podSelector"):
        if item["kind"] in ("PodDisruptionBudget", "NetworkPolicy") and item["spec"].get(key, True) == {}:
            yield f"{where}: an empty {key} means every pod of the namespace"
    if item["kind"] != "Deployment":
        return
    pod = item["spec"]["template"]["spec"]
    if not pod.get("securityContext", {}).get("runAsNonRoot") or pod.get("automountServiceAccountToken") is not False:
        yield f"{where}: runs as root, or with a token"
    if pod.get("securityContext", {}).get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{where}: no seccomp profile"
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        init = container not in pod["containers"]
        name, security = f"{where}, {container['name']}", container.get("securityContext", {})
        tag = container["image"].rpartition(":")[2] if ":" in container["image"].rpartition("/")[2] else ""
        if tag in ("", "latest"):
            yield f"{name}: image {container['image']} has no tag of its own"
        for kind in ("requests", "limits"):
            if set(container.get("resources", {}).get(kind, {})) < {"cpu", "memory"}:
                yield f"{name}: no {kind}"
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe not in container and not init:
                yield f"{name}: no {probe}"
        if security.get("allowPrivilegeEscalation") is not False or not security.get("readOnlyRootFilesystem") or security.get("capabilities", {}).get("drop") != ["ALL"]:
            yield f"{name}: privileges"
    config = environment(overlay, pod["containers"][0])
    drain = int(config.get("GTE_DRAIN_DELAY", 5)) + int(config.get("GTE_DRAIN_TIMEOUT", 30))
    if pod.get("terminationGracePeriodSeconds", 30) <= drain:
        yield f"{where}: killed before its drain of {drain} s is over"


def objects(overlay):
    built = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True)
    if built.returncode:
        problems.append(f"{overlay}: {built.stderr.strip()}")
        return []
    return [item for item in yaml.safe_load_all(built.stdout) if item]


def environment(overlay, container):
    """The environment variables that a container gets from ConfigMaps."""
    names = {source["configMapRef"]["name"] for source in container.get("envFrom", []) if "configMapRef" in source}
    return {k: v for item in objects(overlay) if item["kind"] == "ConfigMap" and item["metadata"]["name"] in names for k, v in item["data"].items()}


def copies():
    """Values that are written in two places must be the same in both."""
    operator = yaml.safe_load((HERE / "k8s/overlays/monitoring/prometheusrule.yaml").read_text(encoding="utf8"))
    if operator["spec"] != yaml.safe_load((HERE / "monitoring/rules.yaml").read_text(encoding="utf8")):
        yield "k8s/overlays/monitoring/prometheusrule.yaml differs from the rules in monitoring/rules.yaml"
    made = subprocess.run([sys.executable, HERE / "monitoring/dashboard.py"], capture_output=True, text=True, check=True).stdout
    if made != (HERE / "k8s/overlays/monitoring/dashboard.json").read_text(encoding="utf8"):
        yield "k8s/overlays/monitoring/dashboard.json is not what monitoring/dashboard.py writes"
    jobs = (HERE.parent / "gte-server/src/jobs/mod.rs").read_text(encoding="utf8")
    for item in objects(HERE / "k8s/overlays/keda"):
        for trigger in item["spec"].get("triggers", []) if item["kind"] == "ScaledObject" else []:
            for key in ("stream", "consumer"):
                if trigger["type"] == "nats-jetstream" and f'"{trigger["metadata"][key]}"' not in jobs:
                    yield f"keda: the server has no {key} {trigger['metadata'][key]}"


def belongs(overlay, items):
    """Every reference to another object must match an existing object, and every pod must be
    scraped.
    """
    by_kind = lambda kind: {item["metadata"]["name"]: item for item in items if item["kind"] == kind}
    deployments, services = by_kind("Deployment"), by_kind("Service")
    pods = {name: item["spec"]["template"]["metadata"]["labels"] for name, item in deployments.items()}
    matches = lambda selector: [name for name, labels in pods.items() if selector.items() <= labels.items()]
    monitor = yaml.safe_load((HERE / "k8s/overlays/monitoring/podmonitor.yaml").read_text(encoding="utf8"))
    scraped = monitor["spec"]["selector"]["matchExpressions"][0]["values"]
    for name, labels in pods.items():
        if labels["app.kubernetes.io/name"] not in scraped:
            yield f"{overlay}: Deployment {name}: overlays/monitoring/podmonitor.yaml does not scrape it"
        if matches(deployments[name]["spec"]["selector"]["matchLabels"]) != [name]:
            yield f"{overlay}: Deployment {name}: its selector does not match its own pods"
    for kind, selector in (("Service", "selector"), ("PodDisruptionBudget", "selector")):
        for name, item in by_kind(kind).items():
            wanted = item["spec"][selector]
            if len(matches(wanted.get("matchLabels", wanted))) != 1:
                yield f"{overlay}: {kind} {name}: it selects the pods of {matches(wanted.get('matchLabels', wanted)) or 'no Deployment'}"
    for name, item in by_kind("HorizontalPodAutoscaler").items():
        target = deployments.get(item["spec"]["scaleTargetRef"]["name"])
        if not target or "replicas" in target["spec"]:
            yield f"{overlay}: HorizontalPodAutoscaler {name}: there is no such Deployment, or it sets its own number of replicas"
    for name, item in by_kind("Ingress").items():
        for path in (path for rule in item["spec"]["rules"] for path in rule["http"]["paths"]):
            if path["backend"]["service"]["name"] not in services:
                yield f"{overlay}: Ingress {name}: {path['path']} has no Service"
    volumes, accounts = by_kind("PersistentVolumeClaim"), by_kind("ServiceAccount")
    for name, item in deployments.items():
        pod = item["spec"]["template"]["spec"]
        claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
        if not {*claims} <= {*volumes} or pod["serviceAccountName"] not in accounts:
            yield f"{overlay}: Deployment {name}: a claim or a service account is missing"


# Labels that the scraping of pods and kube-state-metrics add.
LABELS = {"__name__", "namespace", "pod", "job", "le", "resource", "container"}


def metrics():
    """The exposed names (counters end in _total, infos in _info), and their labels."""
    source = (HERE.parent / "gte-server/src/metrics.rs").read_text(encoding="utf8")
    found = re.findall(r"""\b(register|register_with_unit|time)\(\s*"([a-z_]+)",\s*(?:"[^"]*"|[a-z_]+),\s*(?:Unit::(\w+))?""", source)
    units = {"time": "_seconds", "Seconds": "_seconds", "Bytes": "_bytes"}
    labels = {field for fields in re.findall(r"EncodeLabelSet\)\]\s*(?:pub )?struct \w+ \{(.*?)\n\}", source, re.S) for field in re.findall(r"(?m)^\s+(?:pub )?([a-z]+):", fields)}
    return {f"gte_{name}" + (units["time"] if call == "time" else units.get(unit, "")) for call, name, unit in found}, labels


def named_labels(text):
    """The labels by which queries group, join and select."""
    groups = re.findall(r"\b(?:by|on|ignoring|without|group_left|group_right) ?\(([a-z_, ]*)\)", text)
    selectors = re.findall(r"\{((?:[a-z_]+(?:=~|!~|!=|=)\\?\"[^\"]*\",?\s*)+)\}", text)
    return {label for group in groups for label in re.split(r", *", group) if label} | {label for s in selectors for label in re.findall(r"([a-z_]+)(?:=~|!~|!=|=)\\?\"", s)}


def gpu_panels():
    """The queries of panels for GPUs, which no test machine has, must return what a GPU's metrics
    say.
    """
    sys.path.insert(0, str(HERE / "monitoring"))
    import dashboard
    labels = 'device="cuda:0", name="H200", pod="a"'
    metrics = {"memory_bytes": 100, "memory_free_bytes": 25, "utilization_ratio": 0.5}
    expected = [75, 0.75, 0.5]
    queries = [query for _, _, queries in dashboard.GPU_PANELS for _, query in queries]
    test = {
        "interval": "1m",
        "input_series": [{"series": f'gte_device_{name}{{namespace="gte", {labels}}}', "values": f"{value}x5"} for name, value in metrics.items()],
        "promql_expr_test": [
            {"expr": query.replace("$namespace", "gte"), "eval_time": "5m", "exp_samples": [{"labels": f"{{{labels}}}", "value": value}]}
            for query, value in zip(queries, expected, strict=True)
        ],
    }
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "test.yaml")
        file.write_text(yaml.safe_dump({"tests": [test]}), encoding="utf8")
        run = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    if run.returncode:
        yield f"dashboard: GPU_PANELS: {run.stdout}{run.stderr}"


def copies_of_cublaslt():
    """The init container of the GPU overlay must copy the library itself from folders like those of
    NVIDIA's image, where it is behind two links, to where LD_LIBRARY_PATH finds it.
    """
    worker = next(item for item in objects(HERE / "k8s/overlays/gpu") if item["kind"] == "Deployment" and item["metadata"]["name"] == "gte-worker")
    pod = worker["spec"]["template"]["spec"]
    container = next(container for container in pod["initContainers"] if container["name"] == "cublaslt")
    where = next(mount["mountPath"] for mount in container["volumeMounts"])
    if environment(HERE / "k8s/overlays/gpu", pod["containers"][0]).get("LD_LIBRARY_PATH") != where:
        yield f"gpu: LD_LIBRARY_PATH does not lead to {where}"
    major, minor = re.search(r"cuda:(\d+)\.(\d+)", container["image"]).groups()
    with tempfile.TemporaryDirectory() as root:
        image, target = pathlib.Path(root, "usr/local"), pathlib.Path(root, where.lstrip("/"))
        library = image / f"cuda-{major}.{minor}/targets/x86_64-linux/lib/libcublasLt.so.{major}"
        library.parent.mkdir(parents=True)
        target.mkdir()
        library.with_name(f"{library.name}.{minor}.0").write_bytes(b"library")
        library.symlink_to(f"{library.name}.{minor}.0")
        (image / "cuda").symlink_to(f"cuda-{major}.{minor}")
        (image / f"cuda-{major}.{minor}/lib64").symlink_to("targets/x86_64-linux/lib")
        command = [word.replace(f" {where}/", f" {target}/").replace("/usr/local/", f"{image}/") for word in container["command"]]
        run = subprocess.run(command, capture_output=True, text=True)
        copied = target / library.name
        if run.returncode or copied.is_symlink() or not copied.is_file() or copied.read_bytes() != b"library":
            yield f"gpu: the init container copies no libcublasLt.so.{major}: {run.stderr}"


def main():
    overlays = [HERE / "k8s/base", *sorted(p for p in (HERE / "k8s/overlays").iterdir() if p.is_dir())]
    count = 0
    for overlay in overlays:
        items = objects(overlay)
        problems.extend(belongs(overlay.name, items))
        for item in items:
            count += 1
            problems.extend(rules(overlay, item))
            for version in VERSIONS if item["apiVersion"] not in CUSTOM else []:
                try:
                    kubernetes_validate.validate(item, version, strict=True)
                except (kubernetes_validate.ValidationError, kubernetes_validate.InvalidSchemaError, kubernetes_validate.SchemaNotFoundError) as error:
                    problems.append(f"{overlay.name}, {version}: {item['kind']} {item['metadata']['name']}: {error}")
    problems.extend([*copies(), *gpu_panels(), *copies_of_cublaslt()])
    known, labels = metrics()
    assert len(known) > 25 and {"route", "status", "model"} <= labels, f"metrics.rs was not understood: {known}, {labels}"
    for path in [*HERE.rglob("*.yaml"), *HERE.rglob("*.json")]:
        text = path.read_text(encoding="utf8")
        if "gte_" in text:
            problems.extend(f"{path.relative_to(HERE)}: no metric has the label {label}" for label in sorted(named_labels(text) - labels - LABELS))
        for name in set(re.findall(r"\bgte_[a-z_]+", text)):
            stem = re.sub(r"_(total|bucket|count|sum|info)$", "", name)
            if not {name, stem} & known and name not in DERIVED:
                problems.append(f"{path.relative_to(HERE)}: no metric {name}")
    for command in (["promtool", "check", "rules", "monitoring/rules.yaml"], ["promtool", "test", "rules", "monitoring/rules_test.yaml"]):
        run = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
        if run.returncode:
            problems.append(f"{' '.join(command)}: {run.stdout}{run.stderr}")
    print("\n".join(problems) or f"{len(overlays)} overlays, {count} objects, Kubernetes {', '.join(VERSIONS)}; {len(known)} metrics; rules: all correct")
    sys.exit(bool(problems))


main()
