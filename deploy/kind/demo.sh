#!/usr/bin/env bash
# Demonstration on a separate kind cluster:
#
#   deploy/kind/demo.sh           starts three pods, Valkey, Prometheus, Jaeger, Grafana, Loki and a load
#   deploy/kind/demo.sh --down    deletes the cluster
#
# Needs Docker, kind, kubectl and helm, and the ports 8000, 3000, 9090 and 16686 of 127.0.0.1. Images
# and versions come from images.env. An environment variable of the same name overrides each.
# Runs with bash 3.2, the version of macOS: no associative arrays, and no empty array under `set -u`.
set -euo pipefail
cd "$(dirname "$0")/../.."

cluster=fleetlimit-demo
demo=deploy/kind/demo
observability=deploy/observability
ports='8000 3000 9090 16686'
steps=6
number=0

step() {
  number=$((number + 1))
  printf '\n[%d/%d, after %d s] %s\n' "$number" "$steps" "$SECONDS" "$*"
}
note() { printf '  %s\n' "$*"; }
fail() { printf 'demo.sh: %s\n' "$*" >&2; exit 1; }

case ${1:-} in
  '') ;;
  --down) exec kind delete cluster --name "$cluster" ;;
  -h | --help) sed -n '2,8p' "$0"; exit ;;
  *) fail "unknown argument $1: write nothing, --down or --help" ;;
esac

cat <<'PLAN'
Starts a kind cluster with three pods of Fleetlimit, and takes about five minutes, or two when the image is
built. Nothing outside Docker changes, except that kind adds a context to your kubeconfig. The last lines have
the addresses to open.
PLAN

for tool in docker kind kubectl helm; do
  command -v "$tool" >/dev/null || fail "$tool is not on the PATH: install it (see docs/kubernetes.md)"
done
docker info >/dev/null 2>&1 || fail "Docker does not respond: start the Docker daemon"

running=
# Not `grep -q`: it may end before `kind`, which then fails, and with it the pipe.
if kind get clusters 2>/dev/null | grep -x "$cluster" >/dev/null; then running=yes; fi
if [ -z "$running" ]; then
  for port in $ports; do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      fail "port $port of 127.0.0.1 is in use: stop the program that listens on it"
    fi
  done
fi

# Print the lines NAME=VALUE of images.env.
defaults() { grep -E '^[A-Z_]+=' deploy/kind/images.env; }

while IFS='=' read -r name value; do
  printf -v "$name" '%s' "${!name-$value}"
done < <(defaults)

# Return whether an image is in Docker or in its registry. Downloads nothing.
exists() { docker image inspect "$1" >/dev/null 2>&1 || docker manifest inspect "$1" >/dev/null 2>&1; }

# Copy an image from Docker to the nodes, if Docker has it. The nodes pull other images, and images
# that cannot be copied: Docker's containerd image store has one platform of an image, and kind
# copies all.
load() {
  if docker image inspect "$1" >/dev/null 2>&1 &&
    kind load docker-image "$1" --name "$cluster" >/dev/null 2>&1; then
    note "$1"
  else
    note "$1, which the nodes pull"
  fi
}

# Print a sed script that replaces the images of images.env by those of the environment. Prometheus
# also has its version as a field, because the operator derives arguments from it.
substitutions() {
  local name value actual
  defaults | while IFS='=' read -r name value; do
    actual=${!name}
    case $name in
      *_IMAGE)
        printf 's|%s|%s|g\n' "$value" "$actual"
        printf 's|version: %s$|version: %s|\n' "${value##*:}" "${actual##*:}"
        ;;
    esac
  done
}
apply() { sed -f <(substitutions) "$1" | kubectl apply -f - >/dev/null; }

# Expose a Service on a node port.
open_port() {
  kubectl -n observability patch service "$1" --type=json --patch '[
    {"op": "add", "path": "/spec/type", "value": "NodePort"},
    {"op": "add", "path": "/spec/ports/'"$2"'/nodePort", "value": '"$3"'}]' >/dev/null
}

# Append the Helm options for an image value of the chart to `options`.
set_image() { options+=(--set "$1.repository=${2%:*}" --set-string "$1.tag=${2##*:}"); }

# Remove the kubeconfig. After a failure, show the pods that do not run.
at_exit() {
  local status=$?
  if [ "$status" != 0 ] && [ -s "$KUBECONFIG" ]; then
    {
      printf '\ndemo.sh: failed after %d s. Pods that do not run:\n' "$SECONDS"
      kubectl get pods --all-namespaces --field-selector=status.phase!=Running || true
      echo "The cluster is kept: run demo.sh again, or delete it with deploy/kind/demo.sh --down"
    } >&2
  fi
  rm -f "$KUBECONFIG"
}

images=("$VALKEY_IMAGE" "$REDIS_EXPORTER_IMAGE" "$PROMETHEUS_OPERATOR_IMAGE" "$PROMETHEUS_CONFIG_RELOADER_IMAGE"
  "$PROMETHEUS_IMAGE" "$JAEGER_IMAGE")
for each in "${images[@]}"; do
  exists "$each" || fail "the image $each is missing and cannot be pulled: set its variable to another image"
done
grafana=
if exists "$GRAFANA_IMAGE"; then
  grafana=yes
  images+=("$GRAFANA_IMAGE")
fi

logs=
if [ -n "$grafana" ] && exists "$LOKI_IMAGE" && exists "$ALLOY_IMAGE"; then
  logs=yes
  images+=("$LOKI_IMAGE" "$ALLOY_IMAGE")
fi

step "Image of Fleetlimit: three minutes when it is built for the first time"
# A terminal gets the progress of the build.
quiet=-q
if [ -t 1 ]; then quiet=; fi
# One manifest in the image, without an attestation, because kind copies all manifests.
export BUILDX_NO_DEFAULT_ATTESTATIONS=1
docker build $quiet $DOCKER_BUILD_OPTIONS --build-arg "BASE_IMAGE=$BASE_IMAGE" --build-arg "BUILD_IMAGE=$BUILD_IMAGE" \
  -t "$FLEETLIMIT_IMAGE" .

step "Cluster $cluster, one control plane and two workers: a minute"
if [ -n "$running" ]; then
  note "it exists"
else
  kind create cluster --image "$KIND_NODE_IMAGE" --config "$demo/cluster.yaml" ${quiet:+--quiet}
fi
KUBECONFIG=$(mktemp)
export KUBECONFIG
trap at_exit EXIT
kind get kubeconfig --name "$cluster" >"$KUBECONFIG"

step "Images on the nodes"
kind load docker-image "$FLEETLIMIT_IMAGE" --name "$cluster" ${quiet:+--quiet}
for each in "${images[@]}"; do load "$each"; done

step "Prometheus, Jaeger${logs:+, Loki}${grafana:+ and Grafana}"
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
[ -z "$logs" ] || apply "$observability/loki.yaml"

step "Fleetlimit, three pods and one Valkey"
options=(--set-file policies.inline=deploy/compose/policies/policies.yaml
  --set-file apiKeys.inline=deploy/compose/policies/keys.yaml)
set_image image "$FLEETLIMIT_IMAGE"
set_image valkey.image "$VALKEY_IMAGE"
set_image valkey.exporter.image "$REDIS_EXPORTER_IMAGE"
helm upgrade --install fleetlimit charts/fleetlimit --wait --timeout 5m \
  -f "$observability/fleetlimit.yaml" -f "$demo/values.yaml" "${options[@]}" >/dev/null

step "Load: a greedy principal, a patient principal, and a caller without a key"
kubectl create configmap load --from-file=deploy/kind/load.py --dry-run=client -o yaml |
  kubectl apply -f - >/dev/null
apply "$demo/load.yaml"
kubectl rollout status deployment/load --timeout=2m >/dev/null
kubectl -n observability wait --for=condition=Available --timeout=5m \
  prometheus/prometheus deployment/jaeger ${grafana:+deployment/grafana} >/dev/null

printf '\nRuns after %d s. Prometheus has the first figures after half a minute.\n\n' "$SECONDS"
if [ -n "$grafana" ]; then
  cat <<'LOOK'
Grafana
  Does the limit hold?      http://127.0.0.1:3000/d/fleetlimit-holds
  Who is throttled?         http://127.0.0.1:3000/d/fleetlimit-throttled
  Is the limiter healthy?   http://127.0.0.1:3000/d/fleetlimit-healthy
  One row for each release  http://127.0.0.1:3000/d/fleetlimit-fleet
LOOK
else
  echo "No Grafana: $GRAFANA_IMAGE cannot be pulled. The dashboards are in charts/fleetlimit/files/dashboards."
fi
cat <<'LOOK'
Prometheus
  Decisions by pod          http://127.0.0.1:9090/graph?g0.expr=sum%20by%20(pod%2C%20outcome)%20(rate(fleetlimit_decisions_total%5B1m%5D))&g0.tab=0
  Alerts                    http://127.0.0.1:9090/alerts
Jaeger
  Traces with the store     http://127.0.0.1:16686/search?service=fleetlimit

The responses to the greedy principal:  curl -i -X POST -H 'X-API-Key: greedy' http://127.0.0.1:8000/exports
To see alerts fire:                     kubectl --context kind-fleetlimit-demo delete pod fleetlimit-valkey-0
To delete the cluster:                  deploy/kind/demo.sh --down
LOOK
