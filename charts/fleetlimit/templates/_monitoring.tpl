{{/* Templates shared by monitors, rules and dashboards. */}}

{{/* Prometheus label `job` of the API: the value of the monitor's `jobLabel`. Without that label, the
name of the Service, or namespace/name of the PodMonitor. */}}
{{- define "fleetlimit.job" -}}
{{- $name := include "fleetlimit.fullname" . -}}
{{- $monitor := .Values.serviceMonitor -}}
{{- $job := printf "%s-admin" $name -}}
{{- $labels := include "fleetlimit.labels" (list . "admin" .Values.adminService.labels) -}}
{{- if .Values.podMonitor.enabled -}}
{{- $monitor = .Values.podMonitor -}}
{{- $job = printf "%s/%s" (include "fleetlimit.monitorNamespace" (list . $monitor)) $name -}}
{{- $labels = include "fleetlimit.podLabels" (list . "api" .Values.podLabels) -}}
{{- end -}}
{{- get (fromYaml $labels) $monitor.jobLabel | default $job -}}
{{- end -}}

{{/* Namespace of a monitor. Arguments: a list of the context, and `serviceMonitor` or `podMonitor`
of the values. */}}
{{- define "fleetlimit.monitorNamespace" -}}
{{- (index . 1).namespace | default (include "fleetlimit.namespace" (first .)) -}}
{{- end -}}

{{/* The part of a monitor's spec above its selector. Arguments: as above. */}}
{{- define "fleetlimit.monitored" -}}
{{- with (index . 1).jobLabel -}}
jobLabel: {{ . | quote }}
{{ end -}}
namespaceSelector:
  matchNames: [{{ include "fleetlimit.namespace" (first .) | quote }}]
{{- end -}}

{{/* Endpoint of a monitor, without the port. Argument: `serviceMonitor` or `podMonitor` of the
values. */}}
{{- define "fleetlimit.scrape" -}}
path: /metrics
{{- if .honorLabels }}
honorLabels: true
{{- end }}
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- with .relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Monitor of the bundled store, or nothing. Arguments: a list of the context, `serviceMonitor` or
`podMonitor` of the values, the kind, and the field of the endpoints. */}}
{{- define "fleetlimit.valkey.monitor" -}}
{{- $context := index . 0 -}}
{{- $monitor := index . 1 -}}
{{- if and $context.Values.valkey.enabled $context.Values.valkey.exporter.enabled $monitor.enabled -}}
apiVersion: monitoring.coreos.com/v1
kind: {{ index . 2 }}
metadata:
  name: {{ include "fleetlimit.valkey.name" $context | quote }}
  namespace: {{ include "fleetlimit.monitorNamespace" (list $context $monitor) | quote }}
  labels:
    {{- include "fleetlimit.labels" (list $context "valkey" $monitor.labels) | nindent 4 }}
  {{- with include "fleetlimit.annotations" (list $context $monitor.annotations) }}
  {{- . | nindent 2 }}
  {{- end }}
spec:
  namespaceSelector:
    matchNames: [{{ include "fleetlimit.namespace" $context | quote }}]
  selector:
    matchLabels:
      {{- include "fleetlimit.selectorLabels" $context | nindent 6 }}
      app.kubernetes.io/component: valkey
  {{ index . 3 }}:
    - port: metrics
      {{- include "fleetlimit.scrape" $monitor | nindent 6 }}
{{- end -}}
{{- end -}}

{{/* Rule groups of the files, as a YAML list. */}}
{{- define "fleetlimit.ruleGroups" -}}
{{- $groups := (fromYaml (.Files.Get "files/rules.yaml")).groups -}}
{{- if .Values.prometheusRule.info -}}
{{- $groups = concat $groups (fromYaml (.Files.Get "files/rules-info.yaml")).groups -}}
{{- end -}}
{{- toYaml $groups -}}
{{- end -}}

{{/* URL of the runbook in the files. */}}
{{- define "fleetlimit.runbook" -}}
https://github.com/fleetlimit/fleetlimit/blob/main/docs/runbook.md
{{- end -}}

{{/* All rule groups, as a YAML list: restricted to this release, without the disabled alerts. */}}
{{- define "fleetlimit.rules" -}}
{{- $values := .Values.prometheusRule -}}
{{- $release := printf "namespace=%q, job=%q" (include "fleetlimit.namespace" .) (include "fleetlimit.job" .) -}}
{{- $groups := list -}}
{{- range $group := fromYamlArray (include "fleetlimit.ruleGroups" .) -}}
{{- $rules := list -}}
{{- range $rule := $group.rules -}}
{{- $_ := set $rule "expr" (replace "job!=\"\"" $release $rule.expr) -}}
{{- with $rule.alert -}}
{{- $_ := set $rule "for" (get $values.for . | default $rule.for) -}}
{{- $_ := set $rule.annotations "runbook_url" (replace (include "fleetlimit.runbook" $) $values.runbookUrl $rule.annotations.runbook_url) -}}
{{- $_ := set $rule.annotations "dashboard" (printf "%s%s" (trimSuffix "/" $values.grafanaUrl) $rule.annotations.dashboard) -}}
{{- $_ := set $rule.labels "severity" (get $values.severities $rule.labels.severity | default $rule.labels.severity) -}}
{{- end -}}
{{- if not (has $rule.alert $values.disabled) -}}
{{- $rules = append $rules $rule -}}
{{- end -}}
{{- end -}}
{{- $groups = append $groups (dict "name" $group.name "rules" $rules) -}}
{{- end -}}
{{- toYaml $groups -}}
{{- end -}}

{{/* Names of all alerts, as a YAML list. */}}
{{- define "fleetlimit.alerts" -}}
{{- $names := list -}}
{{- range concat (fromYaml (.Files.Get "files/rules.yaml")).groups (fromYaml (.Files.Get "files/rules-info.yaml")).groups -}}
{{- range .rules -}}
{{- with .alert -}}{{- $names = append $names . -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml (uniq $names) -}}
{{- end -}}

{{/* The JSON of a dashboard, compact: `kubectl apply` copies a ConfigMap into an annotation, and
annotations are limited to 256 KiB. Takes a list: the context and the path of the file. */}}
{{- define "fleetlimit.dashboard" -}}
{{- $context := index . 0 -}}
{{- $context.Files.Get (index . 1) | replace (include "fleetlimit.runbook" $context) $context.Values.prometheusRule.runbookUrl | mustFromJson | mustToRawJson -}}
{{- end -}}
