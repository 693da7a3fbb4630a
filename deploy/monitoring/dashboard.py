"""Writes the Grafana dashboard: python dashboard.py > ../k8s/overlays/monitoring/dashboard.json

One table of panels: what each shows, its unit, its queries. drill.py runs every query against a real Prometheus.
"""
import json

NAMESPACE = 'namespace=~"$namespace"'
INTERVAL = "$__rate_interval"

# title, unit (Grafana's), [(legend, query)]
PANELS = [
    ("Requests a second", "reqps", [("{{route}} {{status}}", f"sum by (route, status) (rate(gte_requests_total{{{NAMESPACE}}}[{INTERVAL}]))")]),
    ("Latency", "s", [(f"p{p}", f"histogram_quantile(0.{p}, sum by (le) (rate(gte_request_seconds_bucket{{{NAMESPACE}}}[{INTERVAL}])))") for p in (50, 95, 99)]),
    ("Where a request's time goes, mean", "s", [(name, f"sum(rate(gte_{name}_seconds_sum{{{NAMESPACE}}}[{INTERVAL}])) / sum(rate(gte_{name}_seconds_count{{{NAMESPACE}}}[{INTERVAL}]))") for name in ("tokenize", "queue", "compute")]),
    ("Answers that are no success, share", "percentunit", [
        ("5xx", f'sum(rate(gte_requests_total{{{NAMESPACE},status=~"5.."}}[{INTERVAL}]) or vector(0)) / sum(rate(gte_requests_total{{{NAMESPACE}}}[{INTERVAL}]))'),
        ("429", f'sum(rate(gte_requests_total{{{NAMESPACE},status="429"}}[{INTERVAL}]) or vector(0)) / sum(rate(gte_requests_total{{{NAMESPACE}}}[{INTERVAL}]))')]),
    ("Replicas", "short", [("scraped", f"count(gte_build_info{{{NAMESPACE}}})")]),
    ("Utilization", "percentunit", [("{{pod}}", f"gte_utilization_ratio{{{NAMESPACE}}}"), ("mean", f"avg(gte_utilization_ratio{{{NAMESPACE}}})")]),
    ("Predicted wait", "s", [("{{pod}}", f"gte_queue_delay_seconds{{{NAMESPACE}}}")]),
    ("What waits", "short", [(name, f"sum(gte_queued_{name}{{{NAMESPACE}}})") for name in ("requests", "texts", "tokens")]),
    ("Tokens a second", "short", [("computed", f"sum(rate(gte_tokens_total{{{NAMESPACE}}}[{INTERVAL}]))"), ("possible", f"sum(gte_tokens_per_second{{{NAMESPACE}}})")]),
    ("Texts a second", "short", [("requests", f"sum(rate(gte_texts_total{{{NAMESPACE}}}[{INTERVAL}]))"), ("of them jobs", f"sum(rate(gte_job_texts_total{{{NAMESPACE}}}[{INTERVAL}]))"), ("cut", f"sum(rate(gte_truncated_texts_total{{{NAMESPACE}}}[{INTERVAL}]))")]),
    ("Tokens in a batch, mean", "short", [("tokens", f"sum(rate(gte_batch_tokens_sum{{{NAMESPACE}}}[{INTERVAL}])) / sum(rate(gte_batch_tokens_count{{{NAMESPACE}}}[{INTERVAL}]))")]),
    ("Memory", "bytes", [("{{pod}}", f"process_resident_memory_bytes{{{NAMESPACE}}}")]),
    ("CPUs", "short", [("{{pod}}", f"rate(process_cpu_seconds_total{{{NAMESPACE}}}[{INTERVAL}])")]),
    ("Connections", "short", [("{{pod}}", f"gte_connections{{{NAMESPACE}}}"), ("requests in flight", f"sum(gte_in_flight_requests{{{NAMESPACE}}})")]),
    ("Time to load the model", "s", [("{{pod}}", f"gte_model_load_seconds{{{NAMESPACE}}}")]),
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
        ]},
        "panels": [panel(i, *row) for i, row in enumerate(PANELS)],
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1, ensure_ascii=False))
