#!/usr/bin/env bash
# Demonstration on a separate kind cluster:
#
#   deploy/kind/demo.sh           starts three pods, Valkey, Prometheus, Jaeger, Grafana and a load
#   deploy/kind/demo.sh --down    deletes the cluster
#
# Needs Docker, kind, kubectl and helm, and the ports 8000, 3000, 9090 and 16686 of 127.0.0.1. Images
# and versions come from images.env. An environment variable of the same name overrides each.
set -euo pipefail
cd "$(dirname "$0")/../.."

cluster=fleetlimit-demo
demo=deploy/kind/demo
observability=deploy/observability

step() { printf '\n== %s\n' "$*"; }
fail() { printf 'demo.sh: %s\n' "$*" >&2; exit 1; }

case ${1:-} in
  '') ;;
  --down) exec kind delete cluster --name "$cluster" ;;
  *) fail "unknown argument $1; see the head of $0" ;;
esac

for tool in docker kind kubectl helm; do
  command -v "$tool" >/dev/null || fail "$tool is not on the PATH: install it (see README, On Kubernetes)"
done
docker info >/dev/null 2>&1 || fail "Docker does not respond: start the Docker daemon"

declare -A default
while IFS='=' read -r name value; do
  default[$name]=$value
  printf -v "$name" '%s' "${!name-$value}"
done < <(grep -E '^[A-Z_]+=' deploy/kind/images.env)

tag() { echo "${1##*:}"; }

# Return whether an image exists locally or can be pulled.
has() { [ -n "$(docker images -q "$1")" ] || docker pull --quiet "$1"; }

# Apply a manifest with the images from images.env. Prometheus also has its version as a field, because
# the operator derives arguments from it.
apply() {
  local edits=() name
  for name in "${!default[@]}"; do
    [[ $name == *_IMAGE ]] || continue
    edits+=(-e "s|${default[$name]}|${!name}|g" -e "s|version: $(tag "${default[$name]}")\$|version: $(tag "${!name}")|")
  done
  sed "${edits[@]}" "$1" | kubectl apply -f - >/dev/null
}

# Expose a Service on a node port.
open_port() {
  kubectl -n observability patch service "$1" --type=json --patch '[
    {"op": "add", "path": "/spec/type", "value": "NodePort"},
    {"op": "add", "path": "/spec/ports/'"$2"'/nodePort", "value": '"$3"'}]' >/dev/null
}

# Print the Helm options for an image value of the chart.
image() { echo --set "$1.repository=${2%:*}" --set-string "$1.tag=$(tag "$2")"; }

step "Images"
docker build -q $DOCKER_BUILD_OPTIONS --build-arg "BASE_IMAGE=$BASE_IMAGE" --build-arg "BUILD_IMAGE=$BUILD_IMAGE" \
  -t "$FLEETLIMIT_IMAGE" .
images=("$FLEETLIMIT_IMAGE" "$VALKEY_IMAGE" "$REDIS_EXPORTER_IMAGE" "$PROMETHEUS_OPERATOR_IMAGE"
  "$PROMETHEUS_CONFIG_RELOADER_IMAGE" "$PROMETHEUS_IMAGE" "$JAEGER_IMAGE")
for each in "${images[@]}"; do
  has "$each" >/dev/null || fail "the image $each is missing and cannot be pulled: set its variable to another image"
done
grafana=
if has "$GRAFANA_IMAGE" >/dev/null 2>&1; then
  grafana=yes
  images+=("$GRAFANA_IMAGE")
fi

step "Cluster $cluster: one control plane and two workers"
kind get clusters 2>/dev/null | grep -qx "$cluster" ||
  kind create cluster --image "$KIND_NODE_IMAGE" --config "$demo/cluster.yaml" --quiet
KUBECONFIG=$(mktemp)
export KUBECONFIG
trap 'rm -f "$KUBECONFIG"' EXIT
kind get kubeconfig --name "$cluster" >"$KUBECONFIG"
kind load docker-image "${images[@]}" --name "$cluster" --quiet

step "Prometheus, Jaeger${grafana:+ and Grafana}"
kubectl apply --server-side -f "$PROMETHEUS_OPERATOR_CRDS" >/dev/null
kubectl wait --for=condition=Established crd/prometheuses.monitoring.coreos.com >/dev/null
for each in prometheus-operator jaeger prometheus; do apply "$observability/$each.yaml"; done
open_port prometheus 0 30090
open_port jaeger 2 30686
if [ -n "$grafana" ]; then
  kubectl -n observability create configmap fleetlimit-dashboards --from-file=charts/fleetlimit/files/dashboards/ \
    --dry-run=client -o yaml | kubectl apply --server-side -f - >/dev/null
  apply "$observability/grafana.yaml"
  open_port grafana 0 30300
fi

step "Fleetlimit: three pods and one Valkey"
helm upgrade --install fleetlimit charts/fleetlimit --wait --timeout 5m \
  -f "$observability/fleetlimit.yaml" -f "$demo/values.yaml" \
  --set-file policies.inline=deploy/compose/policies/policies.yaml \
  --set-file apiKeys.inline=deploy/compose/policies/keys.yaml \
  $(image image "$FLEETLIMIT_IMAGE") $(image valkey.image "$VALKEY_IMAGE") \
  $(image valkey.exporter.image "$REDIS_EXPORTER_IMAGE") >/dev/null

step "Load: a greedy and a patient principal"
kubectl create configmap load --from-file=deploy/kind/load.py --dry-run=client -o yaml |
  kubectl apply -f - >/dev/null
apply "$demo/load.yaml"
kubectl rollout status deployment/load --timeout=2m >/dev/null
kubectl -n observability wait --for=condition=Available --timeout=5m \
  prometheus/prometheus deployment/jaeger ${grafana:+deployment/grafana} >/dev/null

step "URLs"
if [ -n "$grafana" ]; then
  cat <<'LOOK'
http://127.0.0.1:3000/d/fleetlimit-holds        Does the limit hold? All pods stacked, never above permitted
http://127.0.0.1:3000/d/fleetlimit-throttled    Who is throttled? The greedy principal, by policy and route
http://127.0.0.1:3000/d/fleetlimit-healthy      Is the limiter healthy? Latency, store, pods
http://127.0.0.1:3000/d/fleetlimit-fleet        One row for each release
LOOK
else
  echo "The image $GRAFANA_IMAGE cannot be pulled, so there is no Grafana. The dashboards are in charts/fleetlimit/files/dashboards."
fi
cat <<'LOOK'
http://127.0.0.1:9090/alerts                  Prometheus: alerts, none of which fires yet
http://127.0.0.1:9090/graph?g0.expr=sum%20by%20(pod%2C%20outcome)%20(rate(fleetlimit_decisions_total%5B1m%5D))&g0.tab=0
http://127.0.0.1:16686/search?service=fleetlimit    Jaeger: traces with server, limiter and store spans
curl -i -X POST -H 'X-API-Key: greedy' http://127.0.0.1:8000/exports    the responses to the greedy principal

To see alerts fire: kubectl --context kind-fleetlimit-demo delete pod fleetlimit-valkey-0
To delete the cluster: deploy/kind/demo.sh --down
LOOK
