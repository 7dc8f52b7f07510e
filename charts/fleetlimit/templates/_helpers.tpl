{{/* Names, labels and what more than one template needs. */}}

{{- define "fleetlimit.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 44 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for every suffix that follows, and for what Kubernetes appends to those. */}}
{{- define "fleetlimit.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 44 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 44 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "fleetlimit.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "fleetlimit.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Selectors: what never changes in the life of a release. */}}
{{- define "fleetlimit.selectorLabels" -}}
app.kubernetes.io/name: {{ include "fleetlimit.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "fleetlimit.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "fleetlimit.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: fleetlimit
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of pods, without versions: a new chart alone restarts nothing. Takes a list: the context
and a component. */}}
{{- define "fleetlimit.podLabels" -}}
{{- $context := index . 0 -}}
{{ include "fleetlimit.selectorLabels" $context }}
app.kubernetes.io/component: {{ index . 1 }}
{{- with $context.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The whole block of annotations, or nothing. Takes a list: the context, then maps. */}}
{{- define "fleetlimit.annotations" -}}
{{- $all := dict -}}
{{- range rest . -}}{{- $all = mergeOverwrite $all (deepCopy (default dict .)) -}}{{- end -}}
{{- $all = merge $all (deepCopy (first .).Values.commonAnnotations) -}}
{{- with $all -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* Takes an image of the values and the tag that stands for an empty one. */}}
{{- define "fleetlimit.image" -}}
{{- $image := index . 0 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default (index . 1) $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "fleetlimit.policiesConfigMap" -}}
{{- default (printf "%s-policies" (include "fleetlimit.fullname" .)) .Values.policies.existingConfigMap -}}
{{- end -}}

{{- define "fleetlimit.valkey.name" -}}
{{- printf "%s-valkey" (include "fleetlimit.fullname" .) -}}
{{- end -}}

{{- define "fleetlimit.valkey.secret" -}}
{{- default (include "fleetlimit.valkey.name" .) .Values.valkey.existingSecret.name -}}
{{- end -}}

{{- define "fleetlimit.valkey.secretKey" -}}
{{- ternary .Values.valkey.existingSecret.key "password" (ne .Values.valkey.existingSecret.name "") -}}
{{- end -}}

{{/* A text that is generated once: what the Secret holds already, else a new one. */}}
{{- define "fleetlimit.kept" -}}
{{- $context := index . 0 -}}
{{- $data := (lookup "v1" "Secret" $context.Release.Namespace (index . 1)).data | default dict -}}
{{- with index $data (index . 2) -}}
{{- b64dec . -}}
{{- else -}}
{{- randAlphaNum 32 -}}
{{- end -}}
{{- end -}}

{{/* The URL of the external store, with the options for its TLS files. */}}
{{- define "fleetlimit.redisUrl" -}}
{{- $external := .Values.redis.external -}}
{{- $options := list -}}
{{- if $external.tls.existingSecret -}}
{{- range $option, $key := dict "ssl_ca_certs" $external.tls.caKey "ssl_certfile" $external.tls.certKey "ssl_keyfile" $external.tls.keyKey -}}
{{- if and $key (not (contains (printf "%s=" $option) $external.url)) -}}
{{- $options = append $options (printf "%s=/etc/fleetlimit/redis-tls/%s" $option $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $external.url -}}
{{- with $options -}}
{{- ternary "&" "?" (contains "?" $external.url) -}}{{- join "&" (sortAlpha .) -}}
{{- end -}}
{{- end -}}

{{/* Secrets that are given in the values, as YAML; named as the files that the service reads. */}}
{{- define "fleetlimit.givenSecrets" -}}
{{- $given := dict -}}
{{- with .Values.redis.external.url -}}
{{- $_ := set $given "fleetlimit_store" (include "fleetlimit.redisUrl" $) -}}
{{- end -}}
{{- with .Values.redis.external.password -}}{{- $_ := set $given "fleetlimit_store_password" . -}}{{- end -}}
{{- with .Values.keySecret.value -}}{{- $_ := set $given "fleetlimit_key_secret" . -}}{{- end -}}
{{- with .Values.adminToken.value -}}{{- $_ := set $given "fleetlimit_admin_token" . -}}{{- end -}}
{{- toYaml $given -}}
{{- end -}}

{{/* Not empty when the key for hashing callers is generated. An external store is shared by more than
this release, and where manifests are rendered without a cluster each rendering would have a key of
its own: pods of different keys have different buckets. */}}
{{- define "fleetlimit.generatesKeySecret" -}}
{{- if and .Values.valkey.enabled (not .Values.keySecret.value) (not .Values.keySecret.existingSecret.name) -}}
true
{{- end -}}
{{- end -}}

{{- define "fleetlimit.replicasConfigMap" -}}
{{- printf "%s-replicas" (include "fleetlimit.fullname" .) -}}
{{- end -}}

{{/* The sources of the projected volume of settings that are files, as YAML: secrets, and the number of
pods, which would otherwise be part of the pods' template, so that all were replaced to change it. */}}
{{- define "fleetlimit.fileSources" -}}
{{- $values := .Values -}}
{{- $sources := list (dict "configMap" (dict "name" (include "fleetlimit.replicasConfigMap" .))) -}}
{{- if or (include "fleetlimit.generatesKeySecret" .) (fromYaml (include "fleetlimit.givenSecrets" .)) -}}
{{- $sources = append $sources (dict "secret" (dict "name" (include "fleetlimit.fullname" .))) -}}
{{- end -}}
{{- if $values.valkey.enabled -}}
{{- $sources = append $sources (fromYaml (include "fleetlimit.secretSource" (list (include "fleetlimit.valkey.secret" .) (include "fleetlimit.valkey.secretKey" .) "fleetlimit_store_password"))) -}}
{{- end -}}
{{- range $file, $existing := dict "fleetlimit_store" $values.redis.external.existingSecret "fleetlimit_store_password" $values.redis.external.passwordExistingSecret "fleetlimit_key_secret" $values.keySecret.existingSecret "fleetlimit_admin_token" $values.adminToken.existingSecret -}}
{{- if $existing.name -}}
{{- $sources = append $sources (fromYaml (include "fleetlimit.secretSource" (list $existing.name $existing.key $file))) -}}
{{- end -}}
{{- end -}}
{{- toYaml $sources -}}
{{- end -}}

{{- define "fleetlimit.secretSource" -}}
secret:
  name: {{ index . 0 }}
  items: [{key: {{ index . 1 | quote }}, path: {{ index . 2 }}}]
{{- end -}}

{{/* The number of pods to apply; nothing where it is the autoscaler's. When the autoscaler is switched
on, the number that was applied before it is said once more: taking it back would mean one pod. */}}
{{- define "fleetlimit.replicas" -}}
{{- if not .Values.autoscaling.enabled -}}
{{- int .Values.replicaCount -}}
{{- else -}}
{{- $live := lookup "apps/v1" "Deployment" .Release.Namespace (include "fleetlimit.fullname" .) | default dict -}}
{{- $ours := 0 -}}
{{- range dig "metadata" "managedFields" list $live -}}
{{- if and (not .subresource) (hasKey (dig "fieldsV1" "f:spec" dict .) "f:replicas") -}}
{{- $ours = int $live.spec.replicas -}}
{{- end -}}
{{- end -}}
{{- with $ours -}}{{- . -}}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "fleetlimit.gracePeriod" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- add .Values.preStopSleepSeconds .Values.shutdownSeconds 10 -}}
{{- else -}}
{{- int .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{/* The variables of the API, as YAML. */}}
{{- define "fleetlimit.env" -}}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- {name: FLEETLIMIT_POLICIES, value: {{ printf "/etc/fleetlimit/policies/%s" .Values.policies.key | quote }}}
- {name: FLEETLIMIT_SECRETS_DIR, value: /etc/fleetlimit/secrets}
{{- if .Values.valkey.enabled }}
- {name: FLEETLIMIT_STORE, value: "redis://{{ include "fleetlimit.valkey.name" . }}:6379/0"}
{{- end }}
{{- with .Values.redis.external.username }}
- {name: FLEETLIMIT_STORE_USERNAME, value: {{ . | quote }}}
{{- end }}
- {name: FLEETLIMIT_STORE_CONNECT_TIMEOUT, value: {{ .Values.settings.storeConnectTimeoutSeconds | quote }}}
- {name: FLEETLIMIT_STORE_TIMEOUT, value: {{ .Values.settings.storeTimeoutSeconds | quote }}}
- {name: FLEETLIMIT_BREAKER_FAILURES, value: {{ .Values.settings.breakerFailures | int | quote }}}
- {name: FLEETLIMIT_BREAKER_PROBE, value: {{ .Values.settings.breakerProbeSeconds | quote }}}
- {name: FLEETLIMIT_KEY_PREFIX, value: {{ .Values.settings.keyPrefix | quote }}}
- {name: FLEETLIMIT_AUDIT_KEYS, value: {{ .Values.settings.auditKeys | int | quote }}}
- {name: FLEETLIMIT_HEADERS, value: {{ .Values.settings.headers | quote }}}
- {name: FLEETLIMIT_LOG_LEVEL, value: {{ .Values.settings.logLevel | quote }}}
- {name: FLEETLIMIT_LOG_FORMAT, value: {{ .Values.settings.logFormat | quote }}}
- {name: FLEETLIMIT_SHUTDOWN_SECONDS, value: {{ .Values.shutdownSeconds | int | quote }}}
{{- with .Values.tracing.endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }}}
- {name: OTEL_EXPORTER_OTLP_PROTOCOL, value: {{ $.Values.tracing.protocol | quote }}}
{{- end }}
{{- end -}}

{{/* The pods of this release that may ask the bundled Valkey, or whom it lets in. Takes a list: the
context and a component. */}}
{{- define "fleetlimit.podsOf" -}}
podSelector:
  matchLabels:
    {{- include "fleetlimit.selectorLabels" (index . 0) | nindent 4 }}
    app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}
