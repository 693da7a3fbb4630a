#!/usr/bin/env bash
# Tests the service on a real cluster, end to end. It scales up under load and down again by CPU, by
# utilization and by predicted wait. It restarts, scales down and loses a pod under load without
# losing a request.
#
#     deploy/e2e.sh IMAGE [cpu] [utilization] [delay] [roll] [drain] [kill] [worker]
#
# Without a list of steps it runs all of them, in about 25 minutes.
#
# It needs a kube context whose nodes have IMAGE (kind load, minikube image load, a registry) and
# room for six pods of 200m CPU, metrics-server, and for `utilization` and `delay` the custom
# metrics API with k8s/overlays/custom-metrics/adapter-rules.yaml. It first checks all of this
# (e2e_needs.py), and names what is missing, with a command that fixes it. Variables:
#
#     GTE_CHECK=1 only checks what is needed
#     GTE_URL     address of the service. Default: its ClusterIP
#     GTE_APPLY   command that applies a kustomization. Default: `kubectl apply -k`
#     GTE_KILL    command that kills the server in the pod given as its argument, with SIGKILL and
#                 without notice. Default: `kubectl delete --force`, which gives it two seconds on
#                 some versions
#     GTE_NATS    broker with JetStream that pods can reach, for `worker`: nats://HOST:4222
#
# For the test, each pod has one compute thread and a small CPU request, so that a small cluster has
# enough room, and scaling down waits for 60 s instead of 300.
set -euo pipefail
cd "$(dirname "$0")/.."
image=${1:?image}; shift
wanted=" ${*:-cpu utilization delay roll drain kill worker} "
apply=${GTE_APPLY:-kubectl apply -k}
kill_pod=${GTE_KILL:-kubectl -n gte delete pod --grace-period=0 --force}
here=target/e2e
failed=0
rm -rf $here; mkdir -p $here

say() { printf '\n=== %s %s\n' "$(date +%T)" "$*"; }
want() { [[ $wanted == *" $1 "* ]]; }
check() { if "${@:2}"; then echo "ok: $1"; else echo "FAILED: $1"; failed=1; fi; }
# Prints one of the ready pods of $1 that are not terminating.
some_pod() {
  kubectl -n gte get pods -l "app.kubernetes.io/name=$1" -o go-template='{{range .items}}{{if not .metadata.deletionTimestamp}}{{$name := .metadata.name}}{{range .status.containerStatuses}}{{if .ready}}{{$name}}{{"\n"}}{{end}}{{end}}{{end}}{{end}}' | shuf -n 1
}
replicas() { kubectl -n gte get deployment gte -o jsonpath='{.status.readyReplicas}'; }

# The resources of a container in the test.
sizes='      - {op: replace, path: /spec/template/spec/containers/0/resources, value: {requests: {cpu: 200m, memory: 128Mi}, limits: {cpu: 400m, memory: 512Mi}}}
      - {op: add, path: /spec/template/spec/containers/0/env, value: [{name: GTE_THREADS, value: "1"}]}'

# Deploys an overlay with the image and the sizes of the test.
deploy() {
  mkdir -p "$here/$1"
  cat > "$here/$1/kustomization.yaml" <<EOF
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: gte
resources: [../../../deploy/k8s/$2]
images: [{name: gte-server, newName: ${image%:*}, newTag: "${image##*:}"}]
patches:
  - target: {kind: Deployment, name: gte}
    patch: |
$sizes
EOF
  if [ "$2" != base ]; then cat >> "$here/$1/kustomization.yaml" <<EOF
  - target: {kind: HorizontalPodAutoscaler, name: gte}
    patch: |
      - {op: replace, path: /spec/maxReplicas, value: 5}
      - {op: replace, path: /spec/behavior/scaleDown/stabilizationWindowSeconds, value: 60}
EOF
  fi
  [ -z "${3:-}" ] || printf '%s\n' "$3" >> "$here/$1/kustomization.yaml"
  $apply "$here/$1" >/dev/null 2>$here/apply.log || { cat $here/apply.log; exit 1; }
  kubectl -n gte rollout status deployment/gte --timeout=180s | tail -n 1
}

url() { echo "${GTE_URL:-http://$(kubectl -n gte get service gte -o jsonpath='{.spec.clusterIP}')}/v1/embedding"; }
load() { python3 deploy/stress_test.py "$(url)" --fresh "$@"; }
lossless() { grep -q '^success rate  100.00 %$' "$1"; }

# Prints a line whenever the autoscaler's state changes, until the number of ready replicas meets
# the condition, or for at most $1 s.
watch() {
  local end=$((SECONDS + $1)) last="" line n
  while [ $SECONDS -lt $end ]; do
    line=$(kubectl -n gte get hpa gte --no-headers | awk '{$1=$2=$NF=""; print}' | tr -s ' ')
    [ "$line" = "$last" ] || { printf '%s %s\n' "$(date +%T)" "$line"; last=$line; }
    n=$(replicas); if [ "${n:-0}" "$2" "$3" ]; then echo "$(date +%T)  $n ready"; return 0; fi
    sleep 2
  done
  return 1
}

scales() { # name, overlay, concurrency, further lines of the kustomization
  say "$1: two replicas, load, more replicas, no load, two replicas"
  deploy "$1" "$2" "${4:-}"
  local started=$SECONDS
  load -c "$3" --seconds 150 --repeat 8 > "$here/$1.txt" & local pid=$!
  check "$1: more replicas under load" watch 150 -ge 3
  echo "first further replica ready after $((SECONDS - started)) s of load"
  check "$1: and more" watch 60 -ge 4
  wait $pid || true; cat "$here/$1.txt"
  check "$1: no request lost while scaling up" lossless "$here/$1.txt"
  check "$1: back to two" watch 420 -le 2
  kubectl -n gte delete hpa gte >/dev/null
}

say "requirements"
python3 deploy/e2e_needs.py before "$image" $wanted || { echo "nothing was changed on the cluster" >&2; exit 1; }
echo "all requirements are met"
[ -z "${GTE_CHECK:-}" ] || exit 0
# A metric exists only after the service has started: start it without load, and wait for its
# metrics.
deploy base base
python3 deploy/e2e_needs.py after $wanted || exit 1

only() { printf '  - target: {kind: HorizontalPodAutoscaler, name: gte}\n    patch: |\n      - {op: remove, path: /spec/metrics/%s}' "$1"; }

want cpu && scales cpu overlays/cpu-hpa 12
want utilization && scales utilization overlays/custom-metrics 12 "$(only 1)"
want delay && scales delay overlays/custom-metrics 24 "$(only 0)"

if want roll; then
  say "roll: a rolling restart under load"
  deploy base base; kubectl -n gte scale deployment gte --replicas=2 >/dev/null
  load -c 4 --seconds 75 > $here/roll.txt & pid=$!
  sleep 5; kubectl -n gte rollout restart deployment/gte; kubectl -n gte rollout status deployment/gte --timeout=120s | tail -n 1
  wait $pid || true; cat $here/roll.txt
  check "roll: no request lost" lossless $here/roll.txt
fi

if want drain; then
  say "drain: from four replicas to one under load"
  deploy base base; kubectl -n gte scale deployment gte --replicas=4; kubectl -n gte rollout status deployment/gte --timeout=120s | tail -n 1
  load -c 4 --seconds 60 > $here/drain.txt & pid=$!
  sleep 5; kubectl -n gte scale deployment gte --replicas=1
  wait $pid || true; cat $here/drain.txt
  check "drain: no request lost" lossless $here/drain.txt
  kubectl -n gte scale deployment gte --replicas=2 >/dev/null
fi

if want kill; then
  say "kill: a pod dies without notice; a client that retries, as OpenAI's do, loses nothing"
  deploy base base; kubectl -n gte rollout status deployment/gte --timeout=120s | tail -n 1
  load -c 4 --seconds 45 --retries 2 > $here/kill.txt & pid=$!
  sleep 5; victim=$(some_pod gte)
  $kill_pod "$victim" >/dev/null 2>&1; echo "killed $victim"
  wait $pid || true; cat $here/kill.txt
  check "kill: no request lost" lossless $here/kill.txt
  kubectl -n gte rollout status deployment/gte --timeout=120s | tail -n 1
  check "kill: two replicas again" [ "$(replicas)" = 2 ]
fi

# Checks that every index occurs once, with a vector.
complete() { python3 -c 'import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
assert all("embedding" in line for line in lines), "errors"
assert sorted(line["index"] for line in lines) == list(range(int(sys.argv[2]))), "missing or duplicated"' "$@"; }

if want worker; then
  say "worker: a job of 6000 texts, its two workers killed again and again"
  mkdir -p $here/jobs; cat > $here/jobs/kustomization.yaml <<EOF
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: gte
resources: [../../../deploy/k8s/overlays/keda]
images: [{name: gte-server, newName: ${image%:*}, newTag: "${image##*:}"}]
patches:
  - target: {kind: ScaledObject}
    patch: |
      {\$patch: delete, apiVersion: keda.sh/v1alpha1, kind: ScaledObject, metadata: {name: any}}
  - target: {kind: Deployment}
    patch: |
$sizes
      - {op: add, path: /spec/replicas, value: 2}
  - target: {kind: ConfigMap, name: gte}
    patch: |
      - {op: add, path: /data/GTE_NATS, value: "$GTE_NATS"}
  - target: {kind: ConfigMap, name: gte-worker}
    patch: |
      - {op: add, path: /data/GTE_WORKER, value: "$GTE_NATS"}
EOF
  $apply $here/jobs >/dev/null 2>$here/apply.log || { cat $here/apply.log; exit 1; }
  kubectl -n gte rollout restart deployment/gte >/dev/null # a changed ConfigMap does not restart pods
  for name in gte gte-worker; do kubectl -n gte rollout status deployment/$name --timeout=180s | tail -n 1; done
  jobs=$(url); jobs=${jobs%/embedding}/jobs
  seq 6000 | awk '{print "\"text " $1 ", and 今天天气真好，我们去公园散步吧，然后回家吃饭\""}' > $here/texts.jsonl
  id=$(curl -sSf -H 'content-type: application/x-ndjson' --data-binary @$here/texts.jsonl "$jobs" | python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])')
  curl -sSfN "$jobs/$id/results" > $here/results.jsonl & pid=$!
  for _ in 1 2 3 4; do
    sleep 4; victim=$(some_pod gte-worker)
    [ -n "$victim" ] || { echo "$(date +%T)  no worker is running"; continue; }
    $kill_pod "$victim" >/dev/null 2>&1
    echo "$(date +%T)  killed $victim; $(wc -l < $here/results.jsonl) results so far"
  done
  wait $pid || true
  echo "$(date +%T)  $(curl -sS "$jobs/$id")"
  check "worker: every text has its vector, once" complete $here/results.jsonl 6000
fi

say "done"
exit $failed
