{{/* Names, labels and values shared by several templates. */}}

{{/* Text of at most so many characters: longer text is shortened, and a hash keeps two long names
apart. Arguments: a list of the text and the number of characters. */}}
{{- define "fleetlimit.shortened" -}}
{{- $text := index . 0 -}}
{{- $most := index . 1 -}}
{{- if gt (len $text) $most -}}
{{- printf "%s-%s" ($text | trunc (int (sub $most 9)) | trimSuffix "-") ($text | sha256sum | trunc 8) -}}
{{- else -}}
{{- $text -}}
{{- end -}}
{{- end -}}

{{- define "fleetlimit.name" -}}
{{- include "fleetlimit.shortened" (list (include "fleetlimit.text" (.Values.nameOverride | default .Chart.Name)) 63) -}}
{{- end -}}

{{/* Full name of the release. 44 characters leave room for the suffixes of this chart and of
Kubernetes (63 at most in a label). The names of Services begin with a letter and have no dot. A hash
keeps the releases `a.b` and `a-b` apart. */}}
{{- define "fleetlimit.fullname" -}}
{{- $name := include "fleetlimit.text" (.Values.nameOverride | default .Chart.Name) -}}
{{- $full := printf "%s-%s" .Release.Name $name -}}
{{- /* Not for an alias: the name of a release can contain the aliases of several charts. */ -}}
{{- if and (contains $name .Release.Name) (eq .Chart.Name "fleetlimit") -}}
{{- $full = .Release.Name -}}
{{- end -}}
{{- $full = include "fleetlimit.text" (.Values.fullnameOverride | default $full) -}}
{{- if regexMatch "[^-a-z0-9]" $full -}}
{{- $full = printf "%s-%s" (regexReplaceAll "[^a-z0-9]+" (lower $full) "-") ($full | sha256sum | trunc 8) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]" $full) -}}
{{- $full = printf "fleetlimit-%s" $full -}}
{{- end -}}
{{- include "fleetlimit.shortened" (list $full 44) -}}
{{- end -}}

{{- define "fleetlimit.namespace" -}}
{{- include "fleetlimit.text" (.Values.namespaceOverride | default .Release.Namespace) -}}
{{- end -}}

{{- define "fleetlimit.serviceAccountName" -}}
{{- include "fleetlimit.text" (.Values.serviceAccount.name | default (ternary (include "fleetlimit.fullname" .) "default" .Values.serviceAccount.create)) -}}
{{- end -}}

{{/* Labels for selectors. They must not change during the life of a release: selectors are
immutable. */}}
{{- define "fleetlimit.selectorLabels" -}}
app.kubernetes.io/name: {{ include "fleetlimit.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Labels of an object. Arguments: a list of the context, the component and maps of labels. Later
maps take precedence over earlier ones and over commonLabels. */}}
{{- define "fleetlimit.labels" -}}
{{- $context := first . -}}
{{- $standard := dict
    "helm.sh/chart" (printf "%s-%s" $context.Chart.Name $context.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
    "app.kubernetes.io/version" ($context.Chart.AppVersion | replace "+" "_" | trunc 63 | trimSuffix "-")
    "app.kubernetes.io/managed-by" $context.Release.Service
    "app.kubernetes.io/part-of" "fleetlimit" -}}
{{- include "fleetlimit.mergedLabels" (list $standard .) -}}
{{- end -}}

{{/* Labels of pods. They contain no version, so that a new chart version alone restarts no pod.
Arguments: as those of `fleetlimit.labels`. */}}
{{- define "fleetlimit.podLabels" -}}
{{- include "fleetlimit.mergedLabels" (list dict .) -}}
{{- end -}}

{{- define "fleetlimit.mergedLabels" -}}
{{- $arguments := index . 1 -}}
{{- $context := first $arguments -}}
{{- $own := fromYaml (include "fleetlimit.selectorLabels" $context) -}}
{{- $_ := set $own "app.kubernetes.io/component" (index $arguments 1) -}}
{{- $given := fromYaml (include "fleetlimit.strings" (prepend (slice $arguments 2) $context.Values.commonLabels)) -}}
{{- range $label, $_ := $given -}}
{{- if hasKey $own $label -}}
{{- fail (printf "the label %s selects the pods of the release and cannot be changed: remove it from commonLabels, podLabels and the labels of single objects" $label) -}}
{{- end -}}
{{- end -}}
{{- toYaml (merge $own $given (index . 0)) -}}
{{- end -}}

{{/* Maps of the values as one map of strings, as YAML, or nothing. Later maps take precedence. Null
removes a key. */}}
{{- define "fleetlimit.strings" -}}
{{- $all := dict -}}
{{- range . -}}
{{- range $key, $value := . -}}
{{- if kindIs "invalid" $value -}}{{- $_ := unset $all $key -}}{{- else -}}{{- $_ := set $all $key (include "fleetlimit.text" $value) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- with $all -}}{{- toYaml . -}}{{- end -}}
{{- end -}}

{{/* A scalar of the values as text: 20250101, not 2.0250101e+07. */}}
{{- define "fleetlimit.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{- int64 . -}}{{- else -}}{{- toString . -}}{{- end -}}
{{- end -}}

{{/* The complete `annotations:` block, or nothing. Arguments: a list of the context and maps of
annotations. Later maps take precedence over earlier ones and over commonAnnotations. */}}
{{- define "fleetlimit.annotations" -}}
{{- with include "fleetlimit.strings" (prepend (rest .) (first .).Values.commonAnnotations) -}}
annotations:
  {{- . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* Image reference. `global.imageRegistry` replaces the registry in front of the repository: its
first part if that contains a dot or a colon or is `localhost`, as in Docker's references. Arguments:
a list of the context, an `image` value and the default tag. */}}
{{- define "fleetlimit.image" -}}
{{- $image := index . 1 -}}
{{- $repository := $image.repository -}}
{{- with (first .).Values.global.imageRegistry -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) (regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $repository "") -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (include "fleetlimit.text" (default (index . 2) $image.tag)) -}}
{{- end -}}
{{- end -}}

{{/* The `imagePullSecrets:` block of a pod, or nothing. The API server rejects a name that is listed
twice. */}}
{{- define "fleetlimit.imagePullSecrets" -}}
{{- $names := list -}}
{{- range concat (.Values.global.imagePullSecrets | default list) (.Values.imagePullSecrets | default list) -}}
{{- $names = append $names (include "fleetlimit.text" (kindIs "map" . | ternary . (dict "name" .)).name) -}}
{{- end -}}
{{- with uniq $names -}}
imagePullSecrets:
{{- range . }}
  - name: {{ . | quote }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "fleetlimit.policiesConfigMap" -}}
{{- include "fleetlimit.text" (.Values.policies.existingConfigMap.name | default (printf "%s-policies" (include "fleetlimit.fullname" .))) -}}
{{- end -}}

{{/* Sections of the policy file in the values, as YAML maps; empty for an invalid file. */}}
{{- define "fleetlimit.identity" -}}
{{- $identity := (fromYaml .Values.policies.inline).identity -}}
{{- if kindIs "map" $identity -}}{{- toYaml $identity -}}{{- end -}}
{{- end -}}

{{- define "fleetlimit.apiKeys" -}}
{{- $keys := (fromYaml (include "fleetlimit.identity" .)).api_keys -}}
{{- if kindIs "map" $keys -}}{{- toYaml $keys -}}{{- end -}}
{{- end -}}

{{- define "fleetlimit.valkey.name" -}}
{{- printf "%s-valkey" (include "fleetlimit.fullname" .) -}}
{{- end -}}

{{/* "true" while the release has the bundled store, else empty. */}}
{{- define "fleetlimit.valkey.runs" -}}
{{- if or .Values.valkey.enabled .Values.valkey.keep -}}true{{- end -}}
{{- end -}}

{{- define "fleetlimit.valkey.secret" -}}
{{- include "fleetlimit.text" (.Values.valkey.existingSecret.name | default (include "fleetlimit.valkey.name" .)) -}}
{{- end -}}

{{- define "fleetlimit.valkey.secretKey" -}}
{{- ternary "password" .Values.valkey.existingSecret.key (empty .Values.valkey.existingSecret.name) -}}
{{- end -}}

{{/* Random text that upgrades keep: the value in the existing Secret, or a new one. Arguments: a
list of the context, the name of the Secret and the key. */}}
{{- define "fleetlimit.kept" -}}
{{- $context := index . 0 -}}
{{- $data := (lookup "v1" "Secret" (include "fleetlimit.namespace" $context) (index . 1)).data | default dict -}}
{{- with index $data (index . 2) -}}
{{- b64dec . -}}
{{- else -}}
{{- randAlphaNum 32 -}}
{{- end -}}
{{- end -}}

{{/* URL of the external store, with query options for the mounted TLS files. */}}
{{- define "fleetlimit.redisUrl" -}}
{{- $external := .Values.externalRedis -}}
{{- $options := list -}}
{{- with $external.tls.existingSecret -}}
{{- if .name -}}
{{- range $option, $key := dict "ssl_ca_certs" .caKey "ssl_certfile" .certKey "ssl_keyfile" .keyKey -}}
{{- if and $key (not (contains (printf "%s=" $option) $external.url)) -}}
{{- $options = append $options (printf "%s=/etc/fleetlimit/redis-tls/%s" $option $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- trim $external.url -}}
{{- with $options -}}
{{- ternary "&" "?" (contains "?" $external.url) -}}{{- join "&" (sortAlpha .) -}}
{{- end -}}
{{- end -}}

{{/* Secrets set in the values, as a YAML map from the file name that Fleetlimit reads to the
secret. */}}
{{- define "fleetlimit.givenSecrets" -}}
{{- $given := dict -}}
{{- with .Values.externalRedis.url -}}
{{- $_ := set $given "fleetlimit_store" (include "fleetlimit.redisUrl" $) -}}
{{- end -}}
{{- with .Values.externalRedis.password -}}{{- $_ := set $given "fleetlimit_store_password" . -}}{{- end -}}
{{- with .Values.keySecret.value -}}{{- $_ := set $given "fleetlimit_key_secret" . -}}{{- end -}}
{{- with .Values.adminToken.value -}}{{- $_ := set $given "fleetlimit_admin_token" . -}}{{- end -}}
{{- toYaml $given -}}
{{- end -}}

{{/* "true" if the chart generates the HMAC key for callers, else empty. The chart generates none
for an external store: other releases may share it, and pods with different keys have different
buckets. */}}
{{- define "fleetlimit.generatesKeySecret" -}}
{{- if and .Values.valkey.enabled (not .Values.keySecret.value) (not .Values.keySecret.existingSecret.name) -}}
true
{{- end -}}
{{- end -}}

{{/* Files in the Secret of the chart, as a YAML map from the name to the content. Pods mount only
these: an earlier version of the Secret may have contained more. */}}
{{- define "fleetlimit.secretFiles" -}}
{{- $files := fromYaml (include "fleetlimit.givenSecrets" .) -}}
{{- if include "fleetlimit.generatesKeySecret" . -}}
{{- $_ := set $files "fleetlimit_key_secret" (include "fleetlimit.kept" (list . (include "fleetlimit.fullname" .) "fleetlimit_key_secret")) -}}
{{- end -}}
{{- toYaml $files -}}
{{- end -}}

{{- define "fleetlimit.replicasConfigMap" -}}
{{- printf "%s-replicas" (include "fleetlimit.fullname" .) -}}
{{- end -}}

{{/* Sources of the projected volume with settings, as a YAML list: secrets and the number of pods.
In the pod template, the number of pods would make every scaling replace all pods. */}}
{{- define "fleetlimit.fileSources" -}}
{{- $values := .Values -}}
{{- $sources := list (dict "configMap" (dict "name" (include "fleetlimit.replicasConfigMap" .))) -}}
{{- $files := list -}}
{{- range $file, $_ := fromYaml (include "fleetlimit.secretFiles" .) -}}
{{- $files = append $files (dict "key" $file "path" $file) -}}
{{- end -}}
{{- with $files -}}
{{- $sources = append $sources (dict "secret" (dict "name" (include "fleetlimit.fullname" $) "items" .)) -}}
{{- end -}}
{{- if $values.valkey.enabled -}}
{{- $sources = append $sources (fromYaml (include "fleetlimit.secretSource" (list (include "fleetlimit.valkey.secret" .) (include "fleetlimit.valkey.secretKey" .) "fleetlimit_store_password"))) -}}
{{- end -}}
{{- range $file, $existing := dict "fleetlimit_store" $values.externalRedis.existingSecret "store_credentials" $values.externalRedis.passwordExistingSecret "fleetlimit_key_secret" $values.keySecret.existingSecret "fleetlimit_admin_token" $values.adminToken.existingSecret -}}
{{- if $existing.name -}}
{{- $sources = append $sources (fromYaml (include "fleetlimit.secretSource" (list $existing.name $existing.key $file))) -}}
{{- end -}}
{{- end -}}
{{- toYaml $sources -}}
{{- end -}}

{{- define "fleetlimit.secretSource" -}}
secret:
  name: {{ include "fleetlimit.text" (index . 0) | quote }}
  items: [{key: {{ index . 1 | quote }}, path: {{ index . 2 }}}]
{{- end -}}

{{/* The `metadata:` block of a hook that validates the policies. Arguments: a list of the context, the
weight, and a map of further annotations. */}}
{{- define "fleetlimit.validate.metadata" -}}
{{- $context := index . 0 -}}
{{- $hook := dict "helm.sh/hook" "pre-install,pre-upgrade" "helm.sh/hook-weight" (index . 1) "helm.sh/hook-delete-policy" "before-hook-creation,hook-succeeded" -}}
metadata:
  name: "{{ include "fleetlimit.fullname" $context }}-validate"
  namespace: {{ include "fleetlimit.namespace" $context | quote }}
  labels:
    {{- include "fleetlimit.labels" (list $context "validate") | nindent 4 }}
  annotations:
    {{- include "fleetlimit.strings" (list $context.Values.commonAnnotations $hook (index . 2)) | nindent 4 }}
{{- end -}}

{{/* Source of the volume with the API keys. Arguments: a list of the context and the suffix of the
Secret with `apiKeys.inline`. */}}
{{- define "fleetlimit.apiKeysVolume" -}}
{{- $context := first . -}}
{{- $existing := $context.Values.apiKeys.existingSecret -}}
secret:
  secretName: {{ include "fleetlimit.text" ($existing.name | default (printf "%s-%s" (include "fleetlimit.fullname" $context) (index . 1))) | quote }}
  defaultMode: 0440
  items: [{key: {{ ternary "keys.yaml" $existing.key (empty $existing.name) | quote }}, path: keys.yaml}]
{{- end -}}

{{/* `replicas` of the Deployment; empty while the autoscaler manages it. When the autoscaler is
enabled in a running release, Helm still manages the field: removing it then would reset it to 1, so
the chart renders the live number once more. */}}
{{- define "fleetlimit.replicas" -}}
{{- if not .Values.autoscaling.enabled -}}
{{- int .Values.replicaCount -}}
{{- else -}}
{{- $live := lookup "apps/v1" "Deployment" (include "fleetlimit.namespace" .) (include "fleetlimit.fullname" .) | default dict -}}
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

{{/* Environment variables of the API container, as a YAML list. */}}
{{- define "fleetlimit.env" -}}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
{{- with .Values.app.target }}
{{- /* Also for `fleetlimit policies explain` in the pod. */}}
- {name: FLEETLIMIT_TARGET, value: {{ . | quote }}}
{{- end }}
- {name: FLEETLIMIT_POLICIES, value: {{ printf "/etc/fleetlimit/policies/%s" .Values.policies.existingConfigMap.key | quote }}}
- {name: FLEETLIMIT_SECRETS_DIR, value: /etc/fleetlimit/secrets}
{{- if .Values.valkey.enabled }}
- {name: FLEETLIMIT_STORE, value: "redis://{{ include "fleetlimit.valkey.name" . }}:6379/0"}
{{- end }}
{{- with .Values.externalRedis.username }}
- {name: FLEETLIMIT_STORE_USERNAME, value: {{ . | quote }}}
{{- end }}
{{- if .Values.externalRedis.passwordExistingSecret.name }}
- {name: FLEETLIMIT_STORE_CREDENTIALS_FILE, value: /etc/fleetlimit/secrets/store_credentials}
{{- end }}
- {name: FLEETLIMIT_STORE_CONNECT_TIMEOUT, value: {{ .Values.settings.storeConnectTimeoutSeconds | quote }}}
- {name: FLEETLIMIT_STORE_TIMEOUT, value: {{ .Values.settings.storeTimeoutSeconds | quote }}}
- {name: FLEETLIMIT_BREAKER_FAILURES, value: {{ .Values.settings.breakerFailures | int | quote }}}
- {name: FLEETLIMIT_BREAKER_PROBE, value: {{ .Values.settings.breakerProbeSeconds | quote }}}
- {name: FLEETLIMIT_KEY_PREFIX, value: {{ .Values.settings.keyPrefix | quote }}}
- {name: FLEETLIMIT_AUDIT_CALLERS, value: {{ .Values.settings.auditCallers | int | quote }}}
- {name: FLEETLIMIT_HEADERS, value: {{ .Values.settings.headers | quote }}}
- {name: FLEETLIMIT_LOG_LEVEL, value: {{ .Values.settings.logLevel | quote }}}
- {name: FLEETLIMIT_LOG_FORMAT, value: {{ .Values.settings.logFormat | quote }}}
- {name: FLEETLIMIT_KEEP_ALIVE, value: {{ .Values.server.keepAliveSeconds | int | quote }}}
- {name: FLEETLIMIT_MAX_CONNECTIONS, value: {{ .Values.server.maxConnections | int | quote }}}
- {name: FLEETLIMIT_SHUTDOWN_SECONDS, value: {{ .Values.shutdownSeconds | int | quote }}}
{{- with .Values.adminService.allowedHosts }}
- {name: FLEETLIMIT_ADMIN_ALLOWED_HOSTS, value: {{ join "," . | quote }}}
{{- end }}
{{- with .Values.tracing.endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }}}
- {name: OTEL_EXPORTER_OTLP_PROTOCOL, value: {{ $.Values.tracing.protocol | quote }}}
{{- end }}
{{- end -}}

{{/* `extraEnv` of the values with texts in place of numbers, as a YAML list. */}}
{{- define "fleetlimit.extraEnv" -}}
{{- $variables := list -}}
{{- range .Values.extraEnv -}}
{{- $text := include "fleetlimit.strings" (list (pick . "value")) | fromYaml -}}
{{- $variables = append $variables (merge $text .) -}}
{{- end -}}
{{- toYaml $variables -}}
{{- end -}}

{{/* Pod selector for one component of this release, for NetworkPolicies. Arguments: a list of the
context and the component. */}}
{{- define "fleetlimit.podsOf" -}}
podSelector:
  matchLabels:
    {{- include "fleetlimit.selectorLabels" (index . 0) | nindent 4 }}
    app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}
