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
{{- get (fromYaml $labels) ($monitor.jobLabel | default "") | default $job -}}
{{- end -}}

{{/* Namespace of a monitor. Arguments: a list of the context, and `serviceMonitor` or `podMonitor`
of the values. */}}
{{- define "fleetlimit.monitorNamespace" -}}
{{- include "fleetlimit.text" ((index . 1).namespace | default (include "fleetlimit.namespace" (first .))) -}}
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
{{- if and (include "fleetlimit.valkey.runs" $context) $context.Values.valkey.exporter.enabled $monitor.enabled -}}
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
{{- $_ := set $rule "for" (get ($values.for | default dict) . | default $rule.for) -}}
{{- $_ := set $rule.annotations "runbook_url" (replace (include "fleetlimit.runbook" $) $values.runbookUrl $rule.annotations.runbook_url) -}}
{{- $_ := set $rule.annotations "dashboard" (printf "%s%s" ($values.grafanaUrl | default "" | trimSuffix "/") $rule.annotations.dashboard) -}}
{{- $_ := set $rule.labels "severity" (include "fleetlimit.text" (get $values.severities $rule.labels.severity | default $rule.labels.severity)) -}}
{{- end -}}
{{- if not (has $rule.alert ($values.disabled | default list)) -}}
{{- $rules = append $rules $rule -}}
{{- end -}}
{{- end -}}
{{- with $rules -}}
{{- $groups = append $groups (dict "name" $group.name "rules" .) -}}
{{- end -}}
{{- end -}}
{{- toYaml $groups -}}
{{- end -}}

{{/* Names of all alerts, and of those of severity info, as YAML lists. */}}
{{- define "fleetlimit.alerts" -}}
{{- $info := fromYamlArray (include "fleetlimit.infoAlerts" .) -}}
{{- concat (fromYamlArray (include "fleetlimit.alertsOf" (.Files.Get "files/rules.yaml"))) $info | toYaml -}}
{{- end -}}

{{- define "fleetlimit.infoAlerts" -}}
{{- include "fleetlimit.alertsOf" (.Files.Get "files/rules-info.yaml") -}}
{{- end -}}

{{/* Names of the alerts in a file of rules, as a YAML list. Argument: its text. */}}
{{- define "fleetlimit.alertsOf" -}}
{{- $names := list -}}
{{- range (fromYaml .).groups -}}
{{- range .rules -}}
{{- with .alert -}}{{- $names = append $names . -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml (uniq $names) -}}
{{- end -}}

{{/* A duration such as 1m30s in milliseconds. */}}
{{- define "fleetlimit.milliseconds" -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+(ms|s|m|h)" . -1 -}}
{{- $unit := regexFind "[a-z]+" . -}}
{{- $sum = add $sum (mul (trimSuffix $unit . | int) (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) $unit)) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* The JSON of a dashboard, compact: `kubectl apply` copies a ConfigMap into an annotation, and
annotations are limited to 256 KiB. Takes a list: the context and the path of the file. */}}
{{- define "fleetlimit.dashboard" -}}
{{- $context := index . 0 -}}
{{- $context.Files.Get (index . 1) | replace (include "fleetlimit.runbook" $context) $context.Values.prometheusRule.runbookUrl | mustFromJson | mustToRawJson -}}
{{- end -}}
