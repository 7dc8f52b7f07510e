{{/* What monitors, rules and dashboards are made of. */}}

{{/* How Prometheus names what it scrapes of the API: after the Service, or after the PodMonitor. */}}
{{- define "fleetlimit.job" -}}
{{- $name := include "fleetlimit.fullname" . -}}
{{- ternary (printf "%s/%s" .Release.Namespace $name) (printf "%s-admin" $name) .Values.podMonitor.enabled -}}
{{- end -}}

{{/* What a monitor says of its endpoint, but for the port. Takes the monitor's values. */}}
{{- define "fleetlimit.scrape" -}}
path: /metrics
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

{{/* All groups of rules, as YAML: of this release alone, without the alerts that are left out. */}}
{{- define "fleetlimit.rules" -}}
{{- $values := .Values.prometheusRule -}}
{{- $release := printf "namespace=%q, job=%q" .Release.Namespace (include "fleetlimit.job" .) -}}
{{- $groups := list -}}
{{- range $group := (fromYaml (.Files.Get "files/rules.yaml")).groups -}}
{{- $rules := list -}}
{{- range $rule := $group.rules -}}
{{- $_ := set $rule "expr" (replace "job!=\"\"" $release $rule.expr) -}}
{{- with $rule.alert -}}
{{- $_ := set $rule "for" (get $values.for . | default $rule.for) -}}
{{- $_ := set $rule.annotations "runbook_url" (replace "docs/runbook.md" $values.runbookUrl $rule.annotations.runbook_url) -}}
{{- end -}}
{{- if not (has $rule.alert $values.disabled) -}}
{{- $rules = append $rules $rule -}}
{{- end -}}
{{- end -}}
{{- $groups = append $groups (dict "name" $group.name "rules" $rules) -}}
{{- end -}}
{{- toYaml $groups -}}
{{- end -}}

{{/* The names of all alerts, as a list in YAML. */}}
{{- define "fleetlimit.alerts" -}}
{{- $names := list -}}
{{- range (fromYaml (.Files.Get "files/rules.yaml")).groups -}}
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
{{- $context.Files.Get (index . 1) | replace "docs/runbook.md" $context.Values.prometheusRule.runbookUrl | mustFromJson | mustToRawJson -}}
{{- end -}}
