"""Writes the Grafana dashboard: python dashboard.py > ../k8s/overlays/monitoring/dashboard.json

One table of panels has the title, unit and queries of each. drill.py runs every query against a
real Prometheus.
"""
import json

NAMESPACE = 'namespace=~"$namespace"'
MODEL = NAMESPACE + ',model=~"$model"'
INTERVAL = "$__rate_interval"
# Requests of users, without those of probes and of Prometheus.
REQUESTS = NAMESPACE + ',route!~"/(livez|readyz|health|ping|metrics)"'


def rate(metric, labels):
    return f"rate({metric}{{{labels}}}[{INTERVAL}])"


def share(status):
    return f"sum({rate('gte_requests_total', REQUESTS + ',' + status)} or vector(0)) / sum({rate('gte_requests_total', REQUESTS)})"


def quantile(q, by, labels):
    return f"histogram_quantile({q}, sum by ({by}) ({rate('gte_request_seconds_bucket', labels)}))"


def mean(metric, labels, by=""):
    return f"sum{by}({rate(metric + '_sum', labels)}) / sum{by}({rate(metric + '_count', labels)})"


# Title, unit (Grafana's), [(legend, query)]. Metrics that are counted by model have the label
# `model`, which is empty for requests without a model. Utilization and predicted wait are one
# number per pod, because its models share the compute threads.
PANELS = [
    ("Requests per second", "reqps", [("{{route}} {{status}}", f"sum by (route, status) ({rate('gte_requests_total', REQUESTS)})")]),
    ("Requests per second by model", "reqps", [("{{model}}", f"sum by (model) ({rate('gte_requests_total', MODEL + ',' + 'model!=' + chr(34) * 2)})")]),
    ("Share of failed requests", "percentunit", [("5xx", share('status=~"5.."')), ("429", share('status="429"'))]),
    ("Latency", "s", [(f"p{p}", quantile(f"0.{p}", "le", NAMESPACE + ',model!=""')) for p in (50, 95, 99)]),
    ("Latency by model, p99", "s", [("{{model}}", quantile("0.99", "model, le", MODEL + ',model!=""'))]),
    ("Time of a request by stage, mean", "s", [(name, mean(f"gte_{name}_seconds", MODEL)) for name in ("tokenize", "queue", "compute")]),
    ("Replicas", "short", [("scraped", f"count(gte_build_info{{{NAMESPACE}}})"), ("with {{model}}", f"count by (model) (gte_model_info{{{MODEL}}})")]),
    ("Utilization", "percentunit", [("{{pod}}", f"max by (pod) (gte_utilization_ratio{{{NAMESPACE}}})"), ("mean", f"avg(gte_utilization_ratio{{{NAMESPACE}}})")]),
    ("Predicted wait", "s", [("{{pod}}", f"max by (pod) (gte_queue_delay_seconds{{{NAMESPACE}}})")]),
    ("Waiting", "short", [(name, f"sum(gte_queued_{name}{{{MODEL}}})") for name in ("requests", "texts", "tokens")]),
    ("Waiting work", "s", [("{{model}}", f"sum by (model) (gte_queued_tokens{{{MODEL}}} / (gte_tokens_per_second{{{MODEL}}} > 0))")]),
    ("Compute time by model, share of all pods", "percentunit", [("{{model}}", f"sum by (model) ({rate('gte_compute_seconds_sum', MODEL)}) / scalar(count(gte_build_info{{{NAMESPACE}}}))")]),
    ("Tokens per second", "short", [("{{model}}", f"sum by (model) ({rate('gte_tokens_total', MODEL)})"), ("{{model}}, on pods without other models", f"sum by (model) (gte_tokens_per_second{{{MODEL}}})")]),
    ("Texts per second", "short", [
        ("all", f"sum({rate('gte_texts_total', MODEL)})"), ("jobs only", f"sum({rate('gte_job_texts_total', MODEL)})"), ("truncated", f"sum({rate('gte_truncated_texts_total', MODEL)})"),
        ("repeated, computed once", f"sum({rate('gte_repeated_texts_total', MODEL)})")]),
    ("Tokens per batch, mean", "short", [("{{model}}", mean("gte_batch_tokens", MODEL, " by (model) "))]),
    ("Cache: share of texts found", "percentunit", [("{{model}}", f"sum by (model) ({rate('gte_cache_hits_total', MODEL)}) / (sum by (model) ({rate('gte_cache_hits_total', MODEL)}) + sum by (model) ({rate('gte_cache_misses_total', MODEL)}))")]),
    ("Cache: memory", "bytes", [("{{pod}}", f"max by (pod) (gte_cache_bytes{{{NAMESPACE}}})")]),
    ("Memory", "bytes", [("{{pod}}", f'max by (pod) (process_resident_memory_bytes{{{NAMESPACE},job=~".*gte.*"}})')]),
    ("CPUs", "short", [("{{pod}}", f"max by (pod) ({rate('process_cpu_seconds_total', NAMESPACE + ',job=~' + chr(34) + '.*gte.*' + chr(34))})")]),
    ("Connections", "short", [("{{pod}}", f"max by (pod) (gte_connections{{{NAMESPACE}}})"), ("requests in flight", f"sum(gte_in_flight_requests{{{NAMESPACE}}})")]),
    ("Time to load a model", "s", [("{{pod}} {{model}}", f"max by (pod, model) (gte_model_load_seconds{{{MODEL}}})")]),
]

# Panels without data unless a pod has a GPU. Several pods can share one.
DEVICE = "{{pod}} {{device}} {{name}}"
GPU_PANELS = [
    ("GPU: memory in use", "bytes", [(DEVICE, f"max by (pod, device, name) (gte_device_memory_bytes{{{NAMESPACE}}} - gte_device_memory_free_bytes{{{NAMESPACE}}})")]),
    ("GPU: memory in use, share", "percentunit", [(DEVICE, f"max by (pod, device, name) (1 - gte_device_memory_free_bytes{{{NAMESPACE}}} / gte_device_memory_bytes{{{NAMESPACE}}})")]),
    ("GPU: utilization", "percentunit", [(DEVICE, f"max by (pod, device, name) (gte_device_utilization_ratio{{{NAMESPACE}}})")]),
]

SOURCE = {"type": "prometheus", "uid": "${source}"}


def panel(number, title, unit, queries):
    return {
        "id": number + 1, "title": title, "type": "timeseries", "datasource": SOURCE,
        "gridPos": {"x": 8 * (number % 3), "y": 8 * (number // 3), "w": 8, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 10, "showPoints": "never"}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [{"refId": chr(65 + i), "expr": query, "legendFormat": legend, "datasource": SOURCE} for i, (legend, query) in enumerate(queries)],
    }


def dashboard():
    return {
        "title": "gte-server", "uid": "gte-server", "schemaVersion": 39, "refresh": "15s", "time": {"from": "now-1h", "to": "now"}, "tags": ["gte"],
        "templating": {"list": [
            {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
            {"name": "namespace", "type": "query", "datasource": SOURCE, "query": "label_values(gte_build_info, namespace)", "refresh": 2, "includeAll": True, "multi": True, "allValue": ".*"},
            {"name": "model", "type": "query", "datasource": SOURCE, "query": 'label_values(gte_model_info{namespace=~"$namespace"}, model)', "refresh": 2, "includeAll": True, "multi": True, "allValue": ".*"},
        ]},
        "panels": [panel(i, *row) for i, row in enumerate(PANELS + GPU_PANELS)],
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1, ensure_ascii=False))
